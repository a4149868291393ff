"""Events as computations; the topics are those of the published contracts."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
from eth_abi.abi import encode

from coproc.chain.blocks import Header, Log, NodeFault, read_header, read_logs
from coproc.chain.events import ACL_TOPICS, EXECUTOR_TOPICS, Contracts, read_block
from coproc.program.computation import Operation, Scalar
from coproc.program.types import FheType, Handle, new_handle

if TYPE_CHECKING:
    from collections.abc import Sequence

    from coproc.chain.blocks import Json
    from coproc.store.chains import ChainBlock

CHAIN = 31337
CONTRACTS = Contracts(b"\xe3" * 20, b"\x50" * 20)
HEADER = Header(5, b"h" * 32, b"p" * 32)
CALLER = bytes(12) + b"\xca" * 20
TOPICS = {name: topic for topic, name in (EXECUTOR_TOPICS | ACL_TOPICS).items()}
TRANSACTION = b"t" * 32


def handle(fhe_type: FheType = FheType.UINT8) -> Handle:
    return new_handle(fhe_type, CHAIN)


def log(
    name: str,
    types: Sequence[str],
    values: Sequence[object],
    *,
    index: int = 0,
    indexed: Sequence[bytes] = (),
    data: bytes | None = None,
    transaction: bytes = TRANSACTION,
) -> Log:
    address = CONTRACTS.executor if TOPICS[name] in EXECUTOR_TOPICS else CONTRACTS.acl
    body = encode(types, values) if data is None else data
    return Log(address, (TOPICS[name], CALLER, *indexed), body, HEADER.hash, transaction, index)


def binary(name: str, lhs: bytes, rhs: bytes, output: bytes, *, clear: bool = False, index: int = 0) -> Log:
    return log(name, ("bytes32", "bytes32", "bytes1", "bytes32"), (lhs, rhs, bytes([clear]), output), index=index)


def read(*logs: Log, max_depth: int = 512) -> ChainBlock:
    return read_block(CHAIN, HEADER, logs, CONTRACTS, max_depth=max_depth)


@pytest.mark.parametrize(
    ("name", "start"),
    [
        ("FheAdd", "db9050d6"),
        ("FheSub", "eb6d37bd"),
        ("FheMul", "215346a4"),
        ("FheDiv", "3bab2ee0"),
        ("FheRem", "0e691cd0"),
        ("FheBitAnd", "e42486b0"),
        ("FheBitOr", "56df279b"),
        ("FheBitXor", "4d32284b"),
        ("FheShl", "e84282aa"),
        ("FheShr", "324220bf"),
        ("FheRotl", "eb0e4f8d"),
        ("FheRotr", "c1486759"),
        ("FheEq", "b3d5c664"),
        ("FheNe", "6960c1e8"),
        ("FheGe", "38c3a63c"),
        ("FheGt", "c9ff8f0d"),
        ("FheLe", "def2e704"),
        ("FheLt", "0d483b10"),
        ("FheMin", "c11d62b1"),
        ("FheMax", "fd7c9208"),
        ("FheNeg", "8c664d3c"),
        ("FheNot", "55aff4cc"),
        ("Cast", "31ccae6a"),
        ("TrivialEncrypt", "063ccd1b"),
        ("FheIfThenElse", "60be9d61"),
        ("FheRand", "0c8aca60"),
        ("FheRandBounded", "5222d96b"),
        ("VerifyInput", "dc370db3"),
        ("Allowed", "e2e1dece"),
        ("AllowedForDecryption", "d913ac93"),
        ("DelegatedForUserDecryption", "527b025d"),
        ("RevokedDelegationForUserDecryption", "7aca80b6"),
    ],
)
def test_topics_are_those_of_the_contracts(name: str, start: str) -> None:
    assert TOPICS[name].hex().startswith(start)


def test_every_kind_of_event_is_a_computation() -> None:
    a, b, c = handle(), handle(), handle(FheType.BOOL)
    seed, word = b"s" * 16, (7).to_bytes(32, "big")
    cases = [
        (binary("FheSub", a, b, handle()), Operation.SUB, (a, b)),
        (binary("FheShl", a, word, handle(), clear=True), Operation.SHL, (a, Scalar(word))),
        (binary("FheLt", a, b, handle(FheType.BOOL)), Operation.LT, (a, b)),
        (log("FheNot", ("bytes32", "bytes32"), (a, handle())), Operation.NOT, (a,)),
        (log("FheNeg", ("bytes32", "bytes32"), (a, handle())), Operation.NEG, (a,)),
        (
            log("Cast", ("bytes32", "uint8", "bytes32"), (a, 5, handle(FheType.UINT64))),
            Operation.CAST,
            (a,),
        ),
        (
            log("TrivialEncrypt", ("uint256", "uint8", "bytes32"), (7, 2, handle())),
            Operation.TRIVIAL_ENCRYPT,
            (Scalar(word),),
        ),
        (
            log("FheIfThenElse", ("bytes32",) * 4, (c, a, b, handle())),
            Operation.IF_THEN_ELSE,
            (c, a, b),
        ),
        (log("FheRand", ("uint8", "bytes16", "bytes32"), (2, seed, handle())), Operation.RAND, (Scalar(seed),)),
        (
            log("FheRandBounded", ("uint256", "uint8", "bytes16", "bytes32"), (16, 2, seed, handle())),
            Operation.RAND_BOUNDED,
            (Scalar(seed), Scalar((16).to_bytes(32, "big"))),
        ),
        (log("FheSum", ("bytes32[]", "bytes32"), ([a, b, a], handle())), Operation.SUM, (a, b, a)),
        (
            log("FheIsIn", ("bytes32", "bytes32[]", "bytes32"), (a, [b, a], handle(FheType.BOOL))),
            Operation.IS_IN,
            (a, b, a),
        ),
        (
            log("FheMulDiv", ("bytes32", "bytes32", "bytes32", "bytes1", "bytes32"), (a, b, word, b"\1", handle())),
            Operation.MUL_DIV,
            (a, b, Scalar(word)),
        ),
        (
            log("FheMulDiv", ("bytes32", "bytes32", "bytes32", "bytes1", "bytes32"), (a, word, word, b"\3", handle())),
            Operation.MUL_DIV,
            (a, Scalar(word), Scalar(word)),
        ),
    ]
    block = read(*(event for event, _, _ in cases))
    assert not block.faults
    assert [(item.computation.operation, item.computation.operands) for item in block.computations] == [
        (operation, operands) for _, operation, operands in cases
    ]
    assert all(item.failure is None and item.transaction_id == TRANSACTION for item in block.computations)


def test_permissions_and_delegations() -> None:
    a, b = handle(), handle()
    account, contract = bytes(12) + b"\xaa" * 20, "0x" + "cc" * 20
    delegation = ("address", "uint64", "uint64", "uint64")
    block = read(
        log("Allowed", ("bytes32",), (a,), indexed=[account]),
        log("AllowedForDecryption", ("bytes32[]",), ([b, a],), index=1),
        log("DelegatedForUserDecryption", delegation, (contract, 1, 0, 99), indexed=[account], index=2),
        log("RevokedDelegationForUserDecryption", delegation[:-1], (contract, 2, 99), indexed=[account], index=3),
    )
    assert block.allowed == (a, b)
    assert [(item.delegate, item.contract, item.counter, item.new_expiry) for item in block.delegations] == [
        (b"\xaa" * 20, b"\xcc" * 20, 1, 99),
        (b"\xaa" * 20, b"\xcc" * 20, 2, 0),
    ]


def test_what_makes_no_sense_is_marked_and_harms_nothing_else() -> None:
    good, a = handle(), handle()
    version = Handle(a[:31] + b"\1")
    strange_type = Handle(a[:30] + b"\xc8\0")
    other_chain = new_handle(FheType.UINT8, 5)
    word = (0x100).to_bytes(32, "big")
    block = read(
        binary("FheAdd", a, a, version),
        binary("FheAdd", a, a, strange_type, index=1),
        binary("FheAdd", a, a, other_chain, index=2),
        binary("FheAdd", a, version, handle(), index=3),
        binary("FheAdd", a, handle(FheType.UINT16), handle(), index=4),
        binary("FheDiv", a, word, handle(), clear=True, index=5),
        log("TrivialEncrypt", ("uint256", "uint8", "bytes32"), (7, 3, handle()), index=6),
        log("FheNot", (), (), data=b"short", index=7),
        log("FheSum", (), (), data=b"\xff" * 96, index=8),
        log("Allowed", ("bytes32",), (a,), index=9),
        log("AllowedForDecryption", ("bytes32[]",), ([version, a],), index=10),
        binary("FheAdd", a, a, good, index=11),
        Log(b"\x11" * 20, (TOPICS["FheAdd"], CALLER), b"", HEADER.hash, TRANSACTION, 12),
        Log(CONTRACTS.executor, (b"u" * 32,), b"", HEADER.hash, TRANSACTION, 13),
        Log(CONTRACTS.executor, (), b"", HEADER.hash, TRANSACTION, 14),
    )
    assert [fault.log_index for fault in block.faults] == list(range(11))
    assert [fault.handle for fault in block.faults[:3]] == [version, strange_type, other_chain]
    assert block.faults[5].rule == "DIVISION_BY_ZERO"
    marked = {item.computation.output: item.failure for item in block.computations}
    assert marked.pop(good) is None
    assert [failure and failure.rule for failure in marked.values()] == [
        "INVALID_INPUT",
        "INVALID_INPUT",
        "DIVISION_BY_ZERO",
        "INVALID_INPUT",
    ]
    assert block.allowed == (a,)


def test_graphs_may_not_be_endless() -> None:
    chain = [handle() for _ in range(21)]
    logs = [binary("FheAdd", one, one, two, index=at) for at, (one, two) in enumerate(pairwise(chain))]
    block = read(*logs, max_depth=12)
    assert [item.failure and item.failure.rule for item in block.computations] == [None] * 12 + ["GRAPH_TOO_DEEP"] * 8


def test_answers_of_nodes_are_checked() -> None:
    block = {"number": "0x5", "hash": "0x" + "11" * 32, "parentHash": "0x" + "22" * 32, "logsBloom": "0x" + "ff" * 256}
    header = read_header(block)
    assert (header.number, header.may_log(CONTRACTS.acl)) == (5, True)
    assert not read_header(block | {"logsBloom": "0x" + "00" * 256}).may_log(CONTRACTS.acl)
    for name, value in [
        ("number", 5),
        ("number", "0xzz"),
        ("number", "0x-1"),
        ("number", hex(1 << 64)),
        ("hash", "0x11"),
        ("parentHash", None),
        ("hash", "0xzz"),
    ]:
        with pytest.raises(NodeFault):
            read_header(block | {name: value})
    entry = {
        "address": "0x" + "33" * 20,
        "topics": ["0x" + "44" * 32],
        "data": "0x",
        "blockHash": "0x" + "11" * 32,
        "transactionHash": "0x" + "55" * 32,
        "logIndex": "0x1",
    }
    assert read_logs([entry | {"logIndex": "0x2"}, entry], header.hash)[0].index == 1
    lies: list[Json] = [
        [entry, entry],
        [entry | {"removed": True}],
        [entry | {"blockHash": "0x" + "12" * 32}],
        {},
        ["x"],
    ]
    for wrong in lies:
        with pytest.raises(NodeFault):
            read_logs(wrong, header.hash)
