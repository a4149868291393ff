"""Keys and ciphertexts that are the same in every run: only for comparing with what TFHE-rs once made of them."""

from __future__ import annotations

import hashlib
from contextlib import contextmanager
from itertools import count
from typing import TYPE_CHECKING
from unittest.mock import patch

from coproc.tfhe.ciphertext import CiphertextKind
from coproc.tfhe.client import ClientKey
from coproc.tfhe.parameters import TOY_2_2, TOY_COMPRESSION

if TYPE_CHECKING:
    from collections.abc import Generator

VALUES = ((CiphertextKind.UINT, 64, 0x0123_4567_89AB_CDEF), (CiphertextKind.BOOL, 1, 1), (CiphertextKind.INT, 64, -42))


@contextmanager
def fixed_randomness() -> Generator[None]:
    """Replace the operating system's randomness by a counter."""
    numbers = count()

    def token_bytes(size: int) -> bytes:
        return hashlib.shake_128(next(numbers).to_bytes(8, "big")).digest(size)

    with patch("coproc.tfhe.csprng.secrets.token_bytes", token_bytes):
        yield


def fixed_material() -> tuple[ClientKey, bytes, list[bytes]]:
    """A client key, its server key, and ``VALUES`` as plain ciphertexts."""
    with fixed_randomness():
        key = ClientKey.generate(TOY_2_2, tag=b"fixed", compression=TOY_COMPRESSION)
        server_key = key.compressed_server_key()
        data = [
            key.encrypt_bool(bool(value), seeded=False)
            if kind is CiphertextKind.BOOL
            else key.encrypt(value, bits, signed=kind is CiphertextKind.INT, seeded=False)
            for kind, bits, value in VALUES
        ]
    return key, server_key, data
