"""The cache keeps what was used last, within its bytes, and never mixes keys."""

from __future__ import annotations

import numpy as np

from coproc.program.types import FheType, new_handle
from coproc.scheduling.cache import Value, ValueCache


def value(words: int, key_id: bytes = b"k") -> Value:
    return Value(key_id, np.zeros((1, words), dtype=np.uint64), None)


def test_the_least_recently_used_goes_first() -> None:
    cache = ValueCache(capacity=80)
    first, second, third = (new_handle(FheType.UINT8) for _ in range(3))
    cache.add({first: value(5), second: value(5)})
    assert set(cache.find([first], b"k")) == {first}
    cache.add({third: value(5)})
    assert set(cache.find([first, second, third], b"k")) == {first, third}
    assert (cache.size, cache.hits, cache.misses) == (80, 3, 1)


def test_what_is_too_large_is_not_kept_and_bytes_are_counted_once() -> None:
    cache = ValueCache(capacity=80)
    handle = new_handle(FheType.UINT8)
    cache.add({handle: value(5)})
    cache.add({handle: value(6)})
    assert cache.size == 48
    cache.add({new_handle(FheType.UINT8): value(11)})
    assert cache.size == 48
    assert cache.find([handle], b"k")


def test_what_would_not_be_read_anyway_is_neither_hit_nor_miss() -> None:
    cache = ValueCache(capacity=80)
    handle = new_handle(FheType.UINT8)
    cache.add({handle: value(5)})
    assert set(cache.find([handle, new_handle(FheType.UINT8)], b"k", counted=False)) == {handle}
    assert (cache.hits, cache.misses) == (0, 0)


def test_another_key_finds_nothing() -> None:
    cache = ValueCache(capacity=80)
    handle = new_handle(FheType.UINT8)
    cache.add({handle: value(5, b"one")})
    assert not cache.find([handle], b"two")
