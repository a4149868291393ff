"""Handles of encrypted inputs are those of fhevm."""

from __future__ import annotations

from dataclasses import replace

import pytest
from Crypto.Hash import keccak

from coproc.errors import InvalidInput
from coproc.program.inputs import (
    InputBinding,
    check_binding,
    input_handle,
    input_transaction,
    list_handle,
    list_hash,
)
from coproc.program.types import FheType, handle_type, parse_handle

ACL = bytes.fromhex("50157CFfD6bBFA2DECe204a89ec419c23ef5755D")
BINDING = InputBinding(b"\x01" * 20, b"\x02" * 20, ACL, 31337)


def keccak256(data: bytes) -> bytes:
    return keccak.new(digest_bits=256, data=data).digest()


def test_keccak_is_the_one_of_ethereum() -> None:
    assert keccak256(b"").hex() == "c5d2460186f7233c927e7db2dcc703c0e500b653ca82273b7bfad8045d85a470"
    assert list_hash(b"abc") == keccak256(b"ZK-w_rctabc")


def test_handles_are_laid_out_as_contracts_expect() -> None:
    digest = list_hash(b"list")
    handle = input_handle(digest, 7, FheType.UINT64, BINDING)
    hashed = keccak256(b"ZK-w_hdl" + digest + b"\x07" + ACL + (31337).to_bytes(32, "big"))
    assert handle == hashed[:21] + b"\x07" + (31337).to_bytes(8, "big") + b"\x05\x00"
    assert handle_type(parse_handle(handle)) is FheType.UINT64
    # Contract and user are bound by the proof, not by the handle.
    assert input_handle(digest, 7, FheType.UINT64, replace(BINDING, user=b"\x03" * 20)) == handle
    for other in (replace(BINDING, acl=b"\x04" * 20), replace(BINDING, chain_id=1), None):
        assert input_handle(digest, 7, FheType.UINT64, other)[:21] != handle[:21]
    plain = input_handle(digest, 0, FheType.BOOL, None)
    assert plain[:21] == keccak256(b"ZK-w_hdl" + digest + b"\x00" + bytes(52))[:21]


def test_the_binding_names_the_transaction() -> None:
    digest = list_hash(b"list")
    assert len(BINDING.metadata) == 92
    bindings = (None, BINDING, replace(BINDING, user=b"\x03" * 20), replace(BINDING, contract=b"\x03" * 20))
    assert len({input_transaction(digest, binding) for binding in bindings}) == 4
    assert parse_handle(list_handle(digest, b"k" * 32)) != list_handle(digest, b"j" * 32)


@pytest.mark.parametrize(
    ("contract", "user", "acl", "chain_id", "message"),
    [
        (b"\x01" * 19, b"\x02" * 20, ACL, 1, "binding.contract_address: an address has 20 bytes, got 19"),
        (b"\x01" * 20, b"", ACL, 1, "binding.user_address: an address has 20 bytes, got 0"),
        (b"\x01" * 20, b"\x02" * 20, ACL + b"\x00", 1, "binding.acl_address: an address has 20 bytes, got 21"),
        (b"\x01" * 20, b"\x02" * 20, ACL, 0, "binding.chain_id: must be from 1 to"),
        (b"\x01" * 20, b"\x02" * 20, ACL, 1 << 64, "binding.chain_id: must be from 1 to"),
    ],
)
def test_bindings_are_checked(contract: bytes, user: bytes, acl: bytes, chain_id: int, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        check_binding(contract, user, acl, chain_id, "binding")
