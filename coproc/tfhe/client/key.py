"""The client key: making it, storing it, encrypting and decrypting with it.

Decides what a fresh key holds: a compute key, a dedicated compact key, and one for compression if asked. What it makes
loads in every TFHE-rs release from 1.5 on, and it reads what they make.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from coproc.errors import InvalidInput
from coproc.tfhe.ciphertext import CiphertextKind, describe, read_ciphertext, write_ciphertext
from coproc.tfhe.client.convert import (
    casting_parameters,
    compact_parameters,
    compression_parameters,
    read_compression,
    read_parameters,
    wire_parameters,
)
from coproc.tfhe.client.public_key import compact_public_key
from coproc.tfhe.client.server_key import CompressionSecret, compressed_server_key
from coproc.tfhe.compressed_list import is_compressed_list, read_compressed_list
from coproc.tfhe.csprng import SecretRandom, mask_words, new_seed
from coproc.tfhe.lwe import bodies, decode, phases
from coproc.tfhe.parameters import V1_5_2_2, ClassicParameters
from coproc.tfhe.wire import WireError, read_object, write_object
from coproc.tfhe.wire.ciphertexts import (
    CompressedFheBool,
    CompressedFheInt,
    CompressedFheUint,
    SeededBlock,
    SeededRadix,
)
from coproc.tfhe.wire.core import NATIVE_MODULUS, GlweSecretKey, LweSecretKey, PBSOrder, SeededLweCiphertext
from coproc.tfhe.wire.keys import ClientKey as WireClientKey
from coproc.tfhe.wire.keys import CompactPrivateKey, CompressionPrivateKeys, IntegerClientKey, StandardClientKey
from coproc.tfhe.wire.parameters import ClassicPBSParameters

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from coproc.tfhe.parameters import CompressionParameters


@dataclass(frozen=True, slots=True, eq=False)
class ClientKey:
    """All secrets of a client."""

    parameters: ClassicParameters
    tag: bytes
    small_key: NDArray[np.uint64] = field(repr=False)
    """Shape ``(n,)``, bits."""
    glwe_key: NDArray[np.uint64] = field(repr=False)
    """Shape ``(k, N)``, bits; read flat it is the key of ciphertexts."""
    compact_key: NDArray[np.uint64] | None = field(repr=False)
    """Shape ``(compact dimension,)``: the key behind the compact public key."""
    compression: CompressionSecret | None = field(default=None, repr=False)
    """The key that servers store packed ciphertexts under; they need it for nothing else."""

    @classmethod
    def generate(
        cls,
        parameters: ClassicParameters = V1_5_2_2,
        *,
        tag: bytes = b"",
        compression: CompressionParameters | None = None,
    ) -> ClientKey:
        """Draw fresh secrets from the operating system's randomness.

        Args:
            parameters: of the compute key.
            tag: any bytes; all that is made with the key carries them.
            compression: lets servers pack ciphertexts for storage; None: not.
        """
        random = SecretRandom()
        k, size = parameters.glwe_dimension, parameters.polynomial_size
        return cls(
            parameters=parameters,
            tag=tag,
            small_key=random.bits(parameters.lwe_dimension),
            glwe_key=random.bits(k * size).reshape(k, size),
            compact_key=random.bits(parameters.compact_lwe_dimension),
            compression=None if compression is None else _draw_compression(random, compression),
        )

    @classmethod
    def deserialize(cls, data: bytes) -> ClientKey:
        """Read a TFHE-rs ``ClientKey``.

        Raises:
            WireError: it is none, or one of another kind (multi-bit, 32-bit keyswitch, small-key encryption).
        """
        value = read_object(data, WireClientKey)
        block = value.key.key
        if not isinstance(block, StandardClientKey) or not isinstance(block.parameters, ClassicPBSParameters):
            raise WireError("ClientKey", "expected a classic bootstrap with 64-bit keyswitch")
        parameters = read_parameters(block.parameters, value.key.dedicated_compact_private_key)
        glwe, small = block.glwe_secret_key, block.lwe_secret_key
        shape = (parameters.glwe_dimension, parameters.polynomial_size)
        if glwe.polynomial_size != shape[1] or glwe.data.size != shape[0] * shape[1]:
            raise WireError("ClientKey", f"expected a GLWE key of shape {shape}, got {glwe.data.size} words")
        if small.data.size != parameters.lwe_dimension:
            raise WireError("ClientKey", f"expected {parameters.lwe_dimension} small key bits, got {small.data.size}")
        dedicated = value.key.dedicated_compact_private_key
        compact = None if dedicated is None else np.array(dedicated[0].key.data, dtype=np.uint64)
        keys = [np.array(glwe.data, dtype=np.uint64).reshape(shape), np.array(small.data, dtype=np.uint64)]
        if any(key.size and int(key.max()) > 1 for key in (*keys, *([] if compact is None else [compact]))):
            raise WireError("ClientKey", "expected binary keys, got words greater than 1")
        return cls(
            parameters=parameters,
            tag=value.tag,
            small_key=keys[1],
            glwe_key=keys[0],
            compact_key=compact,
            compression=read_compression(value.key.compression_key),
        )

    def serialize(self) -> bytes:
        """Write the secrets as a TFHE-rs ``ClientKey``."""
        block = StandardClientKey(
            GlweSecretKey[np.uint64](self.glwe_key.reshape(-1), self.parameters.polynomial_size),
            LweSecretKey[np.uint64](self.small_key),
            wire_parameters(self.parameters),
            None,
        )
        dedicated = None
        if self.compact_key is not None:
            private = CompactPrivateKey(LweSecretKey[np.uint64](self.compact_key), compact_parameters(self.parameters))
            dedicated = (private, casting_parameters(self.parameters))
        compression = None
        if self.compression is not None:
            secret = self.compression
            words = GlweSecretKey[np.uint64](secret.glwe_key.reshape(-1), secret.parameters.polynomial_size)
            compression = CompressionPrivateKeys(words, compression_parameters(secret.parameters))
        key = IntegerClientKey(block, dedicated, compression, None, None, None, None)
        return write_object(WireClientKey(key, self.tag))

    # ---------------------------------------------------------------------------------------- public keys
    def compressed_server_key(self, progress: Callable[[float], None] | None = None) -> bytes:
        """Make a TFHE-rs ``CompressedServerKey`` for these secrets.

        Args:
            progress: told the share that is done, from 0 to 1.
        """
        secrets = (self.small_key, self.glwe_key, self.compact_key, self.compression)
        return compressed_server_key(self.parameters, *secrets, self.tag, progress or (lambda _: None))

    def compact_public_key(self) -> bytes:
        """Make a TFHE-rs ``CompactPublicKey``, with which others can encrypt.

        Raises:
            InvalidInput: the key came without a dedicated compact key.
        """
        if self.compact_key is None:
            raise InvalidInput("client_key", "has no dedicated compact key, which the public key belongs to")
        return compact_public_key(self.parameters, self.compact_key, self.tag)

    # ---------------------------------------------------------------------------------------- ciphertexts
    def encrypt(self, value: int, bits: int, *, signed: bool = False, seeded: bool = True) -> bytes:
        """Encrypt an integer as ``FheUint`` or ``FheInt``, seeded (far smaller) unless told otherwise.

        Raises:
            InvalidInput: the value does not fit, or there is no such type.
        """
        kind = CiphertextKind.INT if signed else CiphertextKind.UINT
        low = -(1 << (bits - 1)) if signed else 0
        if not low <= value < low + (1 << bits):
            raise InvalidInput("value", f"{value} does not fit {bits} bits ({low} to {low + (1 << bits) - 1})")
        count = kind.block_count(bits, self.parameters)
        width = bits // count
        blocks = [(value >> (width * index)) & ((1 << width) - 1) for index in range(count)]
        return self._encrypt(np.array(blocks, dtype=np.uint64), kind, bits, seeded=seeded)

    def encrypt_bool(self, value: bool, *, seeded: bool = True) -> bytes:  # noqa: FBT001 - a boolean is the value
        """Encrypt a boolean as ``FheBool``."""
        return self._encrypt(np.array([int(value)], dtype=np.uint64), CiphertextKind.BOOL, 1, seeded=seeded)

    def decrypt(self, data: bytes) -> int | bool:
        """Decrypt a ``FheBool``, ``FheUint`` or ``FheInt``, seeded or not; the object says what it is.

        A ``CompressedCiphertextList`` of one value is decrypted as it is, with no server key.

        Raises:
            WireError: it is none, or does not fit the key's parameters.
        """
        if self.compression is not None and is_compressed_list(data):
            return self._decrypt_compressed(data, self.compression)
        about = describe(data)
        bits = 1 if about.kind is CiphertextKind.BOOL else about.blocks * (about.message_modulus - 1).bit_length()
        ciphertexts = read_ciphertext(data, self.parameters, about.kind, bits)
        digits = decode(phases(ciphertexts, self.glwe_key.reshape(-1)), self.parameters.delta_log2)
        return self._compose(digits, about.kind, bits)

    def _decrypt_compressed(self, data: bytes, secret: CompressionSecret) -> int | bool:
        found = read_compressed_list(data, self.parameters, secret.parameters)
        if len(found.values) != 1:
            raise WireError("CompressedCiphertextList", f"expected one value, got {len(found.values)}")
        carry_bits = (self.parameters.carry_modulus - 1).bit_length()
        digits = decode(phases(found.ciphertexts, secret.glwe_key.reshape(-1)), self.parameters.delta_log2 + carry_bits)
        return self._compose(digits, found.values[0].kind, found.values[0].bits)

    def _compose(self, digits: NDArray[np.uint64], kind: CiphertextKind, bits: int) -> int | bool:
        if kind is CiphertextKind.BOOL:
            return bool(int(digits[0]) % self.parameters.message_modulus)
        width = bits // len(digits)
        value = sum(int(digit) << (width * index) for index, digit in enumerate(digits)) % (1 << bits)
        if kind is CiphertextKind.INT and value >> (bits - 1):
            value -= 1 << bits
        return value

    def _encrypt(self, blocks: NDArray[np.uint64], kind: CiphertextKind, bits: int, *, seeded: bool) -> bytes:
        parameters, key = self.parameters, self.glwe_key.reshape(-1)
        noise = SecretRandom().tuniform(parameters.glwe_noise_bound_log2, (len(blocks),))
        messages = (blocks << np.uint64(parameters.delta_log2)) + noise
        seeds = [new_seed() for _ in blocks]
        masks = np.stack([mask_words(seed, 0, len(key)) for seed in seeds])
        words = bodies(masks, key, messages)
        if not seeded:
            return write_ciphertext(np.column_stack([masks, words]), parameters, kind, bits, self.tag)
        made = tuple(
            SeededBlock(
                SeededLweCiphertext(int(word), len(key) + 1, seed, NATIVE_MODULUS),
                degree=kind.max_degree(parameters),
                message_modulus=parameters.message_modulus,
                carry_modulus=parameters.carry_modulus,
                atomic_pattern=PBSOrder.KEYSWITCH_BOOTSTRAP,
                noise_level=1,
            )
            for word, seed in zip(words, seeds, strict=True)
        )
        if kind is CiphertextKind.BOOL:
            return write_object(CompressedFheBool(made[0], self.tag))
        form = CompressedFheInt if kind is CiphertextKind.INT else CompressedFheUint
        return write_object(form(SeededRadix(made), self.tag))


def _draw_compression(random: SecretRandom, parameters: CompressionParameters) -> CompressionSecret:
    bits = random.bits(parameters.lwe_dimension)
    return CompressionSecret(parameters, bits.reshape(parameters.glwe_dimension, parameters.polynomial_size))
