"""Ways to break serialized objects."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

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
