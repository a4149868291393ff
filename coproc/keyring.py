"""The evaluation keys in memory, shared by everybody who needs one.

Decides how many are kept (a real one takes 120 MB) and that only one is read at a time. How bytes become a key, and on
which thread, is given from outside.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol, TypeVar

import trio

from coproc.errors import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from coproc.tfhe.keys import EvaluationKey
    from coproc.tfhe.parameters import ClassicParameters, CompressionParameters
    from coproc.tfhe.server_key import CastingKey

T = TypeVar("T")
_MAX_FACTS: Final = 4096


class KeySource(Protocol):
    """Where serialized keys are kept; every store is one."""

    async def read_key(self, key_id: bytes) -> bytes:
        """Read the whole serialized key. Raises NotFound."""
        ...


@dataclass(frozen=True, slots=True)
class KeyFacts:
    """The small part of a key, kept long after the key itself has made room for others."""

    parameters: ClassicParameters
    tag: bytes
    casting_dimension: int = 0
    """Dimension of the compact key that can be cast from; 0: none."""
    compression: CompressionParameters | None = None
    """How ciphertexts are packed under this key; None: they cannot be."""


class KeyCache:
    """Evaluation keys by key id, the least recently used dropped first."""

    def __init__(
        self,
        source: KeySource,
        load: Callable[[bytes], Awaitable[EvaluationKey]],
        load_casting: Callable[[bytes], Awaitable[CastingKey]] | None = None,
        *,
        capacity: int = 2,
    ) -> None:
        """Keep up to ``capacity`` keys; ``load`` turns serialized bytes into a key, away from the event loop.

        ``load_casting`` does the same for the part of a key that casts compact lists; without it there is none.
        """
        if capacity < 1:
            raise ValueError(f"capacity must be at least 1, got {capacity}")
        self._source = source
        self._load = load
        self._load_casting = load_casting
        self._capacity = capacity
        self.hits = self.misses = 0
        """Keys asked for that were in memory, and that had to be read."""
        self._keys: OrderedDict[bytes, EvaluationKey] = OrderedDict()
        self._facts: OrderedDict[bytes, KeyFacts] = OrderedDict()
        # Reading a key peaks at several times its size, so that two at once could be one too many.
        self._reading = trio.Lock()

    async def get(self, key_id: bytes) -> EvaluationKey:
        """Return a key, read from the source if it is not in memory. Concurrent callers share one reading.

        Raises:
            NotFound: the source has no such key.
            InvalidInput: its bytes are no server key.
            RecoverableError: the source is out of reach.
        """
        key = self._recall(key_id)
        if key is not None:
            await trio.lowlevel.checkpoint()
            return key
        async with self._reading:
            key = self._recall(key_id)
            if key is None:
                self.misses += 1
                key = await self._load(await self._source.read_key(key_id))
                self.add(key)
            return key

    async def facts(self, key_id: bytes) -> KeyFacts:
        """Return what is known of a key without keeping the key itself in memory for it. Raises like ``get``."""
        known = self._facts.get(key_id)
        if known is not None:
            self._facts.move_to_end(key_id)
            return known
        key = await self.get(key_id)
        return KeyFacts(key.parameters, key.tag, key.casting_dimension, key.compression)

    async def casting(self, key_id: bytes) -> CastingKey:
        """Read the part of a key that casts compact lists; it is not kept. Raises like ``get``."""
        if self._load_casting is None:
            raise InvalidInput("key_id", "compact lists are not cast here")
        async with self._reading:
            return await self._load_casting(await self._source.read_key(key_id))

    async def part(self, key_id: bytes, load: Callable[[bytes], Awaitable[T]]) -> T:
        """Read a part of a key by ``load``, away from the event loop; it is not kept. Raises like ``get``."""
        async with self._reading:
            return await load(await self._source.read_key(key_id))

    async def parse(self, data: bytes) -> EvaluationKey:
        """Read a key from its bytes without keeping it. Raises InvalidInput."""
        async with self._reading:
            return await self._load(data)

    def add(self, key: EvaluationKey) -> None:
        """Keep a key that has just been read."""
        self._keys[key.key_id] = key
        self._keys.move_to_end(key.key_id)
        while len(self._keys) > self._capacity:
            self._keys.popitem(last=False)
        self._facts[key.key_id] = KeyFacts(key.parameters, key.tag, key.casting_dimension, key.compression)
        self._facts.move_to_end(key.key_id)
        while len(self._facts) > _MAX_FACTS:
            self._facts.popitem(last=False)

    def __len__(self) -> int:
        return len(self._keys)

    def _recall(self, key_id: bytes) -> EvaluationKey | None:
        key = self._keys.get(key_id)
        if key is not None:
            self.hits += 1
            self._keys.move_to_end(key_id)
        return key
