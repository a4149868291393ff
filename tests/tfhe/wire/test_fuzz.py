"""A hundred thousand broken objects: nothing but WireError comes out, and no length field makes memory grow."""

from __future__ import annotations

import tracemalloc
from random import Random
from typing import TYPE_CHECKING

import pytest

from coproc.tfhe.wire import Release, WireError, read_object, write_object
from coproc.tfhe.wire.container import OBJECTS
from tests.tfhe.wire.examples import example

if TYPE_CHECKING:
    from collections.abc import Callable

MUTATIONS = 105_000
HUGE = [1 << 63, (1 << 64) - 1, 1 << 40, 1 << 32, (1 << 32) - 1, 1 << 61, 0]


def truncate(data: bytes, rng: Random) -> bytes:
    return data[: rng.randrange(len(data))]


def flip_a_bit(data: bytes, rng: Random) -> bytes:
    at = rng.randrange(len(data))
    return data[:at] + bytes([data[at] ^ (1 << rng.randrange(8))]) + data[at + 1 :]


def blow_up_a_length(data: bytes, rng: Random) -> bytes:
    """Write a huge u64 over one that looks like a count: seven of its bytes are zero."""
    places = [at for at in range(len(data) - 8) if data[at] and data.startswith(b"\0" * 7, at + 1)]
    at = rng.choice(places)
    return data[:at] + rng.choice(HUGE).to_bytes(8, "little") + data[at + 8 :]


def overwrite_a_word(data: bytes, rng: Random) -> bytes:
    at = rng.randrange(len(data))
    return data[:at] + rng.randrange(1 << 32).to_bytes(4, "little") + data[at + 4 :]


def remove_some(data: bytes, rng: Random) -> bytes:
    at = rng.randrange(len(data))
    return data[:at] + data[at + rng.randint(1, 16) :]


def insert_some(data: bytes, rng: Random) -> bytes:
    at = rng.randrange(len(data))
    return data[:at] + rng.randbytes(rng.randint(1, 16)) + data[at:]


def splice(data: bytes, rng: Random) -> bytes:
    return data[: rng.randrange(len(data))] + data[rng.randrange(len(data)) :]


MUTATORS: list[Callable[[bytes, Random], bytes]] = [
    truncate,
    flip_a_bit,
    blow_up_a_length,
    overwrite_a_word,
    remove_some,
    insert_some,
    splice,
]


def samples(name: str, rng: Random, count: int) -> list[bytes]:
    """Make small objects of a type, of every release."""
    releases = list(Release)
    made = (write_object(example(name, release, rng), release) for release in releases * count)
    return sorted(made, key=len)[: len(releases) * count * 2 // 3]


@pytest.mark.parametrize("name", OBJECTS)
def test_broken_objects_raise_the_error_of_the_format_and_no_other(name: str) -> None:
    rng = Random(name)
    originals = samples(name, rng, 12)
    refused = 0
    for turn in range(MUTATIONS // len(OBJECTS)):
        mutator = MUTATORS[turn % len(MUTATORS)]
        broken = mutator(rng.choice(originals), rng)
        try:
            value = read_object(broken, OBJECTS[name])
        except WireError as error:
            refused += 1
            assert error.offset is None or 0 <= error.offset <= len(broken)  # noqa: PT017 - most, not all, are refused
        else:
            # What is accepted is a value like any other: it can be written, if the release knows all its parts.
            read_object(write_object(value, Release.V1_7), OBJECTS[name])
    assert refused > MUTATIONS // len(OBJECTS) // 2


def test_length_fields_do_not_make_memory_grow() -> None:
    rng = Random(11)
    originals = [(name, data) for name in OBJECTS for data in samples(name, rng, 2)]
    peak = 0
    for _ in range(3000):
        name, data = rng.choice(originals)
        broken = blow_up_a_length(data, rng)
        tracemalloc.start()
        try:
            read_object(broken, OBJECTS[name])
        except WireError:
            pass
        finally:
            peak = max(peak, tracemalloc.get_traced_memory()[1] - 20 * len(broken))
            tracemalloc.stop()
    assert peak < 1 << 16
