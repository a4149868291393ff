"""Ciphertexts at the door: what is uploaded is checked, what is public is made.

Decides which TFHE-rs object a handle's type stands for; the formats are in ``coproc.tfhe``. Everything here is pure and
takes milliseconds, so that callers run it on a thread.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from coproc.errors import InvalidInput
from coproc.program.types import FheType, handle_type
from coproc.tfhe.ciphertext import CiphertextKind, read_ciphertext, trivial_blocks, write_ciphertext
from coproc.tfhe.compressed_list import is_compressed_list, read_single_value

if TYPE_CHECKING:
    from collections.abc import Sequence

    from coproc.api.validation import TrivialValue, Upload
    from coproc.keyring import KeyFacts
    from coproc.store.base import StoredCiphertext

_WORD_BYTES: Final = 8


def kind_of(fhe_type: FheType) -> CiphertextKind:
    """Return the TFHE-rs family of a type: FheBool, FheUint or FheInt."""
    if fhe_type is FheType.BOOL:
        return CiphertextKind.BOOL
    return CiphertextKind.INT if fhe_type.is_signed else CiphertextKind.UINT


def check_ciphertexts(uploads: Sequence[Upload], facts: KeyFacts) -> None:
    """Check that every upload is a ciphertext of its handle's type, fit to be computed on under the key.

    Raises:
        InvalidInput: one is not; names the item.
    """
    for upload in uploads:
        fhe_type = handle_type(upload.handle)
        try:
            _check(upload.ciphertext, facts, kind_of(fhe_type), fhe_type.bits)
        except InvalidInput as error:
            raise InvalidInput(upload.field, error.message.removeprefix(f"{error.field}: ")) from error


def _check(data: bytes, facts: KeyFacts, kind: CiphertextKind, bits: int) -> None:
    """Read a ciphertext, or a compressed list of one value where the key can take it out."""
    if facts.compression is not None and is_compressed_list(data):
        read_single_value(data, facts.parameters, facts.compression, kind, bits)
    else:
        read_ciphertext(data, facts.parameters, kind, bits)


def is_waiting_to_thaw(stored: StoredCiphertext) -> bool:
    """Whether a value that may be read is stored compressed."""
    return stored.is_allowed and is_compressed_list(stored.data)


def trivial_bytes(values: Sequence[TrivialValue], facts: KeyFacts) -> int:
    """Predict the size of the ciphertexts that ``trivial_ciphertexts`` makes, in bytes, headers left out."""
    blocks = sum(handle_type(value.handle).blocks for value in values)
    return blocks * (facts.parameters.big_lwe_dimension + 1) * _WORD_BYTES


def trivial_ciphertexts(values: Sequence[TrivialValue], facts: KeyFacts) -> list[bytes]:
    """Make the noiseless ciphertexts of public values, serialized, with the key's tag."""
    made: list[bytes] = []
    for value in values:
        fhe_type = handle_type(value.handle)
        blocks = trivial_blocks(value.value, fhe_type.blocks, facts.parameters)
        made.append(write_ciphertext(blocks, facts.parameters, kind_of(fhe_type), fhe_type.bits, facts.tag))
    return made
