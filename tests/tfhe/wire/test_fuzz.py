"""A hundred thousand broken objects: nothing but WireError comes out, and no length field makes memory grow."""

from __future__ import annotations

import tracemalloc
from random import Random

import pytest

from coproc.tfhe.wire import Release, WireError, read_object, write_object
from coproc.tfhe.wire.container import OBJECTS
from tests.tfhe.wire.examples import example
from tests.tfhe.wire.mutations import MUTATORS, blow_up_a_length

MUTATIONS = 105_000


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
