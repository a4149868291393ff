"""Encrypted inputs of contracts: what they are bound to, and the handles of their values.

Decides the hashes of fhevm. A list is hashed, and the handle of value ``i`` is ``keccak("ZK-w_hdl", hash of the list,
i, ACL address, chain id)`` cut to 21 bytes, then ``i``, chain id, type and version. Input handles are the same in every
handle scheme of fhevm (0.11, and from 0.12 on), which differ in handles of results only. Contract and user are not part
of the handle: a proof binds them, through the 92 bytes that it is made for. Knows nothing of ciphertexts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from Crypto.Hash import keccak

from coproc.errors import InvalidInput
from coproc.program.types import HANDLE_VERSION, FheType, Handle

MAX_VALUES: Final = 255
"""Values of one list (fhevm's limit: index 255 marks computed values)."""
ADDRESS_BYTES: Final = 20
_MAX_CHAIN_ID: Final = (1 << 64) - 1
_HASH_BYTES: Final = 21
_NOWHERE: Final = bytes(ADDRESS_BYTES)


@dataclass(frozen=True, slots=True)
class InputBinding:
    """For whom an input was encrypted."""

    contract: bytes
    user: bytes
    acl: bytes
    """Addresses, 20 bytes each."""
    chain_id: int

    @property
    def metadata(self) -> bytes:
        """The 92 bytes that fhevm's clients make proofs for."""
        return self.contract + self.user + self.acl + self.chain_id.to_bytes(32, "big")


def check_binding(contract: bytes, user: bytes, acl: bytes, chain_id: int, field: str) -> InputBinding:
    """Check the sizes of a binding.

    Raises:
        InvalidInput: naming the part of ``field`` and the rule.
    """
    for name, address in (("contract_address", contract), ("user_address", user), ("acl_address", acl)):
        if len(address) != ADDRESS_BYTES:
            raise InvalidInput(f"{field}.{name}", f"an address has {ADDRESS_BYTES} bytes, got {len(address)}")
    if not 1 <= chain_id <= _MAX_CHAIN_ID:
        raise InvalidInput(f"{field}.chain_id", f"must be from 1 to {_MAX_CHAIN_ID}, got {chain_id}")
    return InputBinding(contract, user, acl, chain_id)


def list_hash(data: bytes) -> bytes:
    """Hash the serialized list, proofs included."""
    return _keccak(b"ZK-w_rct", data)


def input_handle(digest: bytes, index: int, fhe_type: FheType, binding: InputBinding | None) -> Handle:
    """Derive the handle of value ``index``; without a chain, ACL address and chain id are 0."""
    acl, chain_id = (binding.acl, binding.chain_id) if binding is not None else (_NOWHERE, 0)
    hashed = _keccak(b"ZK-w_hdl", digest, bytes([index]), acl, chain_id.to_bytes(32, "big"))
    return Handle(
        hashed[:_HASH_BYTES] + bytes([index]) + chain_id.to_bytes(8, "big") + bytes([fhe_type, HANDLE_VERSION])
    )


def list_handle(digest: bytes, key_id: bytes) -> Handle:
    """Name the list itself, under which it is kept; its type, the smallest, says nothing."""
    return Handle(_keccak(b"coproc list", key_id, digest)[:30] + bytes([FheType.BOOL, HANDLE_VERSION]))


def input_transaction(digest: bytes, binding: InputBinding | None) -> bytes:
    """Name the upload of a list for somebody: the same list for another contract or user is another transaction."""
    return _keccak(b"coproc input", digest, binding.metadata if binding is not None else b"")


def _keccak(*parts: bytes) -> bytes:
    return keccak.new(digest_bits=256, data=b"".join(parts)).digest()
