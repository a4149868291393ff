"""Events of fhevm's contracts, as computations and permissions.

Decides what each event of FHEVMExecutor and ACL means: those of fhevm 0.11 (npm ``@fhevm/host-contracts`` 0.10.0), and
FheSum, FheIsIn and FheMulDiv of later releases. Handles are taken as the contract made them, so that it does not
matter that 0.12 and later hash more into them. What makes no sense is marked with its reason; it never keeps the rest
of a block from being read. Knows nothing of nodes and stores.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, cast

from eth_abi.abi import decode
from eth_abi.exceptions import DecodingError
from eth_utils.crypto import keccak

from coproc.errors import InvalidInput
from coproc.program.computation import Computation, Operation, Scalar
from coproc.program.operations import check, scalar_value
from coproc.program.types import FheType, Handle, handle_type, parse_handle
from coproc.store.base import Failure
from coproc.store.chains import ChainBlock, ChainComputation, Delegation, Fault

if TYPE_CHECKING:
    from collections.abc import Sequence

    from coproc.chain.blocks import Header, Log

MAX_DEPTH: Final = 512
"""Computations of one transaction that follow one another (the same limit as over gRPC)."""
_BINARY: Final = {
    "FheAdd": Operation.ADD,
    "FheSub": Operation.SUB,
    "FheMul": Operation.MUL,
    "FheDiv": Operation.DIV,
    "FheRem": Operation.REM,
    "FheBitAnd": Operation.BIT_AND,
    "FheBitOr": Operation.BIT_OR,
    "FheBitXor": Operation.BIT_XOR,
    "FheShl": Operation.SHL,
    "FheShr": Operation.SHR,
    "FheRotl": Operation.ROTL,
    "FheRotr": Operation.ROTR,
    "FheEq": Operation.EQ,
    "FheNe": Operation.NE,
    "FheGe": Operation.GE,
    "FheGt": Operation.GT,
    "FheLe": Operation.LE,
    "FheLt": Operation.LT,
    "FheMin": Operation.MIN,
    "FheMax": Operation.MAX,
}
_EXECUTOR_TYPES: Final = {
    **dict.fromkeys(_BINARY, ("bytes32", "bytes32", "bytes1", "bytes32")),
    "FheNeg": ("bytes32", "bytes32"),
    "FheNot": ("bytes32", "bytes32"),
    "Cast": ("bytes32", "uint8", "bytes32"),
    "TrivialEncrypt": ("uint256", "uint8", "bytes32"),
    "FheIfThenElse": ("bytes32", "bytes32", "bytes32", "bytes32"),
    "FheRand": ("uint8", "bytes16", "bytes32"),
    "FheRandBounded": ("uint256", "uint8", "bytes16", "bytes32"),
    "FheSum": ("bytes32[]", "bytes32"),
    "FheIsIn": ("bytes32", "bytes32[]", "bytes32"),
    "FheMulDiv": ("bytes32", "bytes32", "bytes32", "bytes1", "bytes32"),
    "VerifyInput": ("bytes32", "address", "bytes", "uint8", "bytes32"),
}
_DELEGATION_TYPES: Final = ("address", "uint64", "uint64", "uint64")
_ACL_TYPES: Final = {
    "Allowed": (("address",), ("bytes32",)),
    "AllowedForDecryption": ((), ("bytes32[]",)),
    "DelegatedForUserDecryption": (("address",), _DELEGATION_TYPES),
    "RevokedDelegationForUserDecryption": (("address",), _DELEGATION_TYPES[:-1]),
}
"""Types after the first address, which is indexed in every event: further indexed ones, and the data."""


def _topic(name: str, types: Sequence[str]) -> bytes:
    return bytes(keccak(text=f"{name}({','.join(('address', *types))})"))


EXECUTOR_TOPICS: Final = {_topic(name, types): name for name, types in _EXECUTOR_TYPES.items()}
ACL_TOPICS: Final = {_topic(name, (*indexed, *data)): name for name, (indexed, data) in _ACL_TYPES.items()}


@dataclass(frozen=True, slots=True)
class Contracts:
    """Whose events count."""

    executor: bytes
    acl: bytes
    """Addresses, 20 bytes each."""


class _Refused(Exception):
    """An event that makes no sense; ``output`` is the handle it names, if that much is clear."""

    def __init__(self, rule: str, message: str) -> None:
        super().__init__(message)
        self.rule = rule


def read_block(
    chain_id: int, header: Header, logs: Sequence[Log], contracts: Contracts, *, max_depth: int = MAX_DEPTH
) -> ChainBlock:
    """Read what a block brings. Logs of other contracts, and other events of ours, say nothing to us."""
    reader = _Reader(chain_id, max_depth)
    for log in logs:
        name = None
        if log.topics and log.address == contracts.executor:
            name = EXECUTOR_TOPICS.get(log.topics[0])
        elif log.topics and log.address == contracts.acl:
            name = ACL_TOPICS.get(log.topics[0])
        if name is not None:
            reader.read(name, log)
    return ChainBlock(
        chain_id,
        header.number,
        header.hash,
        header.parent,
        tuple(reader.computations),
        tuple(dict.fromkeys(reader.allowed)),
        tuple(reader.delegations),
        tuple(reader.faults),
    )


class _Reader:
    """Collects what the events of one block say."""

    def __init__(self, chain_id: int, max_depth: int) -> None:
        self.computations: list[ChainComputation] = []
        self.allowed: list[Handle] = []
        self.delegations: list[Delegation] = []
        self.faults: list[Fault] = []
        self._chain = chain_id.to_bytes(8, "big")
        self._max_depth = max_depth
        self._depths: defaultdict[bytes, dict[Handle, int]] = defaultdict(dict)
        """By transaction: how many computations lead to each of its results."""

    def read(self, name: str, log: Log) -> None:
        try:
            if name in _EXECUTOR_TYPES:
                self._read_executor(name, log)
            else:
                self._read_acl(name, log)
        except _Refused as refused:
            self._fault(log, None, refused.rule, str(refused))

    def _read_executor(self, name: str, log: Log) -> None:
        values = _decode(_EXECUTOR_TYPES[name], log)
        raw = cast("bytes", values[-1])
        try:
            output = self._parse_output(raw)
        except InvalidInput as error:
            self._fault(log, raw, error.rule, f"{name}: {error.message}")
            return
        if name == "VerifyInput":
            return  # the value came, or comes, with its list
        operation, operands, announced = _meaning(name, values)
        computation = Computation(output, operation, operands, is_allowed=False)
        failure = self._judge(computation, announced, log.transaction_hash)
        if failure is not None:
            self._fault(log, raw, failure.rule, f"{name}: {failure.message}")
        self.computations.append(ChainComputation(log.transaction_hash, computation, failure))

    def _parse_output(self, raw: bytes) -> Handle:
        output = parse_handle(raw, "result")
        if output[22:30] != self._chain:
            raise InvalidInput("result", f"names chain {int.from_bytes(output[22:30], 'big')}")
        return output

    def _judge(self, computation: Computation, announced: int | None, transaction: bytes) -> Failure | None:
        """Say why a computation can never be done."""
        depths = self._depths[transaction]
        depth = 1 + max((depths.get(handle, 0) for handle in computation.inputs), default=0)
        depths.setdefault(computation.output, depth)
        try:
            for number, operand in enumerate(computation.operands):
                if not isinstance(operand, Scalar):
                    parse_handle(operand, f"operands[{number}]")
            check(computation, "event")
        except InvalidInput as error:
            return Failure(error.rule, error.message)
        if announced is not None and announced != handle_type(computation.output):
            made = handle_type(computation.output).name
            return Failure("INVALID_INPUT", f"result: has type {made}, not number {announced}")
        if _divides_by_zero(computation):
            return Failure("DIVISION_BY_ZERO", f"{computation.operation.name} by a clear zero")
        if depth > self._max_depth:
            return Failure("GRAPH_TOO_DEEP", f"follows on {depth - 1} others of its transaction")
        return None

    def _read_acl(self, name: str, log: Log) -> None:
        indexed, types = _ACL_TYPES[name]
        if len(log.topics) != 2 + len(indexed):
            raise _Refused("MALFORMED_EVENT", f"{name} has {len(log.topics)} topics")
        values = _decode(types, log)
        if name == "Allowed":
            self._allow(log, [cast("bytes", values[0])])
        elif name == "AllowedForDecryption":
            self._allow(log, cast("Sequence[bytes]", values[0]))
        else:
            contract, counter, old, *rest = cast("tuple[str, int, int, int]", values)
            self.delegations.append(
                Delegation(
                    log.index,
                    log.topics[1][12:],
                    log.topics[2][12:],
                    bytes.fromhex(contract[2:]),
                    counter,
                    old,
                    rest[0] if rest else 0,
                )
            )

    def _allow(self, log: Log, handles: Sequence[bytes]) -> None:
        for raw in handles:
            try:
                self.allowed.append(parse_handle(raw, "handle"))
            except InvalidInput as error:
                self._fault(log, raw, error.rule, f"allowed: {error.message}")

    def _fault(self, log: Log, handle: bytes | None, rule: str, message: str) -> None:
        self.faults.append(Fault(log.index, log.transaction_hash, handle, rule, message))


def _decode(types: Sequence[str], log: Log) -> tuple[object, ...]:
    try:
        return decode(types, log.data)
    except (DecodingError, OverflowError) as error:
        raise _Refused("MALFORMED_EVENT", f"data of {len(log.data)} bytes: {error}") from error


def _meaning(name: str, values: tuple[object, ...]) -> tuple[Operation, tuple[Handle | Scalar, ...], int | None]:
    """Turn an event's arguments into an operation, its operands and the type number that it announces, if any."""
    announced: int | None = None
    operands: tuple[Handle | Scalar, ...]
    match name:
        case "FheNeg" | "FheNot":
            operation = Operation.NEG if name == "FheNeg" else Operation.NOT
            operands = (Handle(cast("bytes", values[0])),)
        case "Cast":
            value, announced, _ = cast("tuple[bytes, int, bytes]", values)
            operation, operands = Operation.CAST, (Handle(value),)
        case "TrivialEncrypt":
            clear, announced, _ = cast("tuple[int, int, bytes]", values)
            operation, operands = Operation.TRIVIAL_ENCRYPT, (Scalar(clear.to_bytes(32, "big")),)
        case "FheIfThenElse":
            operation = Operation.IF_THEN_ELSE
            operands = tuple(Handle(value) for value in cast("tuple[bytes, ...]", values[:3]))
        case "FheRand":
            announced, seed, _ = cast("tuple[int, bytes, bytes]", values)
            operation, operands = Operation.RAND, (Scalar(seed),)
        case "FheRandBounded":
            bound, announced, seed, _ = cast("tuple[int, int, bytes, bytes]", values)
            operation, operands = Operation.RAND_BOUNDED, (Scalar(seed), Scalar(bound.to_bytes(32, "big")))
        case "FheSum":
            operation = Operation.SUM
            operands = tuple(Handle(value) for value in cast("Sequence[bytes]", values[0]))
        case "FheIsIn":
            value, candidates, _ = cast("tuple[bytes, Sequence[bytes], bytes]", values)
            operation, operands = Operation.IS_IN, tuple(Handle(item) for item in (value, *candidates))
        case "FheMulDiv":
            one, other, divisor, scalar, _ = cast("tuple[bytes, bytes, bytes, bytes, bytes]", values)
            # Bit 0: the divisor is clear (it always is); bit 1: the second factor is.
            factor = Scalar(other) if scalar[0] & 2 else Handle(other)
            operation, operands = Operation.MUL_DIV, (Handle(one), factor, Scalar(divisor))
        case _:
            lhs, rhs, scalar, _ = cast("tuple[bytes, bytes, bytes, bytes]", values)
            operation, operands = _BINARY[name], (Handle(lhs), Scalar(rhs) if scalar[0] & 1 else Handle(rhs))
    return operation, operands, announced


def _divides_by_zero(computation: Computation) -> bool:
    if computation.operation not in {Operation.DIV, Operation.REM, Operation.MUL_DIV}:
        return False
    divisor = computation.operands[-1]
    fhe_type: FheType = handle_type(computation.output)
    return isinstance(divisor, Scalar) and scalar_value(divisor, fhe_type) == 0
