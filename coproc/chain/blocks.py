"""Headers and logs as a node tells them in JSON.

Decides what a well-formed answer is; a node that breaks the rules is at fault, not the chain. Knows nothing of events.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias

from eth_utils.crypto import keccak

from coproc.errors import RecoverableError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Json: TypeAlias = "Mapping[str, Json] | Sequence[Json] | str | int | float | bool | None"

HASH_BYTES: Final = 32
ADDRESS_BYTES: Final = 20
BLOOM_BYTES: Final = 256


class NodeFault(RecoverableError):
    """A node answered with an error, with nonsense, or with what contradicts itself: ask later, or ask another."""

    rule = "NODE_FAULT"


@dataclass(frozen=True, slots=True)
class Header:
    """What following a chain needs to know of a block."""

    number: int
    hash: bytes
    parent: bytes
    bloom: bytes = b""
    """Bloom filter of the addresses and topics of its logs, 256 bytes; empty where a chain keeps none."""

    def may_log(self, address: bytes) -> bool:
        """Whether the bloom filter says that ``address`` may have logged something."""
        if not any(self.bloom):
            return False
        digest = keccak(address)
        bits = int.from_bytes(self.bloom, "big")
        return all(bits >> (int.from_bytes(digest[at : at + 2], "big") & 2047) & 1 for at in (0, 2, 4))


@dataclass(frozen=True, slots=True)
class Log:
    """One event, not yet decoded."""

    address: bytes
    topics: tuple[bytes, ...]
    data: bytes
    block_hash: bytes
    transaction_hash: bytes
    index: int


def read_header(answer: Json) -> Header:
    """Read a block as ``eth_getBlockBy...`` and ``newHeads`` give it. Raises NodeFault."""
    fields = _object(answer, "block")
    bloom = fields.get("logsBloom")
    return Header(
        read_quantity(fields.get("number"), "block.number"),
        read_bytes(fields.get("hash"), "block.hash", HASH_BYTES),
        read_bytes(fields.get("parentHash"), "block.parentHash", HASH_BYTES),
        b"" if bloom is None else read_bytes(bloom, "block.logsBloom", BLOOM_BYTES),
    )


def read_logs(answer: Json, block_hash: bytes) -> tuple[Log, ...]:
    """Read the logs of one block, in order.

    Raises:
        NodeFault: they are malformed, or those of another block.
    """
    if not isinstance(answer, list | tuple):
        raise NodeFault("the node's logs are no list")
    logs = sorted((_read_log(item) for item in answer), key=lambda log: log.index)
    if any(log.block_hash != block_hash for log in logs):
        raise NodeFault("the node gave logs of another block", asked=block_hash.hex())
    if len({log.index for log in logs}) != len(logs):
        raise NodeFault("the node gave a log twice", asked=block_hash.hex())
    return tuple(logs)


def read_quantity(value: Json, field: str) -> int:
    """Read ``0x...`` as a number. Raises NodeFault."""
    if not isinstance(value, str) or not value.startswith("0x"):
        raise NodeFault(f"the node's {field} is no quantity")
    try:
        number = int(value, 16)
    except ValueError:
        raise NodeFault(f"the node's {field} is no quantity") from None
    if not 0 <= number < 1 << 63:
        raise NodeFault(f"the node's {field} is out of bounds")
    return number


def read_bytes(value: Json, field: str, size: int | None = None) -> bytes:
    """Read ``0x...`` as bytes, of a size if one is given. Raises NodeFault."""
    if not isinstance(value, str) or not value.startswith("0x"):
        raise NodeFault(f"the node's {field} is no data")
    try:
        data = bytes.fromhex(value[2:])
    except ValueError:
        raise NodeFault(f"the node's {field} is no data") from None
    if size is not None and len(data) != size:
        raise NodeFault(f"the node's {field} has {len(data)} bytes, not {size}")
    return data


def _read_log(item: Json) -> Log:
    fields = _object(item, "log")
    topics = fields.get("topics")
    if not isinstance(topics, list | tuple):
        raise NodeFault("the node's log.topics are no list")
    if fields.get("removed") is True:
        raise NodeFault("the node gave a log that it has removed")
    return Log(
        read_bytes(fields.get("address"), "log.address", ADDRESS_BYTES),
        tuple(read_bytes(topic, "log.topics", HASH_BYTES) for topic in topics),
        read_bytes(fields.get("data"), "log.data"),
        read_bytes(fields.get("blockHash"), "log.blockHash", HASH_BYTES),
        read_bytes(fields.get("transactionHash"), "log.transactionHash", HASH_BYTES),
        read_quantity(fields.get("logIndex"), "log.logIndex"),
    )


def _object(answer: Json, what: str) -> Mapping[str, Json]:
    if not isinstance(answer, dict):
        raise NodeFault(f"the node's {what} is no object")
    return answer
