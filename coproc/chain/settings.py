"""Which chains are followed, and how.

Decides names, defaults and bounds; who follows is ``nurseries.chain``.
"""

from __future__ import annotations

import re
from typing import Annotated, Final
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_serializer, field_validator

from coproc.chain.events import MAX_DEPTH, Contracts

_ADDRESS: Final = re.compile(r"0x[0-9a-fA-F]{40}")
_KEY_ID: Final = re.compile(r"(0x)?[0-9a-fA-F]{64}")
_SCHEMES: Final = ("ws", "wss", "http", "https")

Address = Annotated[str, Field(pattern=_ADDRESS.pattern)]


class ChainSettings(BaseModel):
    """One chain whose contracts call."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    chain_id: int = Field(ge=1, lt=1 << 63)
    urls: tuple[str, ...] = Field(min_length=1, repr=False)
    """Nodes, in order of preference: ``wss://...`` is told of new blocks, ``https://...`` is asked for them."""
    executor: Address
    """Of FHEVMExecutor."""
    acl: Address
    """Of ACL."""
    key_id: str
    """The server key that the chain's values are encrypted under, as ``coproc keygen`` names it."""
    first_block: int | None = Field(default=None, ge=0)
    """Where to start the first time; None: at the newest block."""
    confirmations: int = Field(default=0, ge=0, le=10_000)
    """How many blocks must follow one before it counts."""
    reorg_depth: int = Field(default=64, ge=1, le=4096)
    """How many blocks a reorganisation may replace. A deeper one needs a person."""
    poll_seconds: float = Field(default=2.0, gt=0, le=600)
    """How often a node is asked for its newest block, told or not."""
    request_seconds: float = Field(default=10.0, gt=0, le=600)
    """Longest wait for an answer."""
    stale_seconds: float = Field(default=60.0, gt=0)
    """How long a node may have no new block before another one is asked, where there is another one."""
    requests_in_flight: int = Field(default=16, ge=1, le=1024)
    max_depth: int = Field(default=MAX_DEPTH, ge=1)
    """Computations of one transaction that follow one another; deeper ones fail."""

    @property
    def contracts(self) -> Contracts:
        """Whose events count."""
        return Contracts(bytes.fromhex(self.executor[2:]), bytes.fromhex(self.acl[2:]))

    @property
    def key(self) -> bytes:
        """The key id as bytes."""
        return bytes.fromhex(self.key_id.removeprefix("0x"))

    @field_validator("urls")
    @classmethod
    def _check_urls(cls, urls: tuple[str, ...]) -> tuple[str, ...]:
        for url in urls:
            parts = urlsplit(url)
            if parts.scheme not in _SCHEMES or not parts.hostname:
                raise ValueError("must be like wss://host/path or https://host/path")
        return urls

    @field_validator("key_id")
    @classmethod
    def _check_key_id(cls, key_id: str) -> str:
        if not _KEY_ID.fullmatch(key_id):
            raise ValueError("must be 64 hexadecimal digits")
        return key_id

    @field_serializer("urls", when_used="json")
    def _hide_paths(self, urls: tuple[str, ...]) -> tuple[str, ...]:
        """Paths and user names of nodes are secrets."""
        return tuple(host_of(url) for url in urls)


def host_of(url: str) -> str:
    """Name a node without what lets one in."""
    parts = urlsplit(url)
    port = f":{parts.port}" if parts.port else ""
    return f"{parts.scheme}://{parts.hostname}{port}"
