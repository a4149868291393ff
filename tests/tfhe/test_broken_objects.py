"""Broken ciphertexts, lists and keys are refused by their readers with the error of the format and no other."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace
from random import Random
from typing import TYPE_CHECKING

import numpy as np
import pytest

from coproc.tfhe.ciphertext import CiphertextKind, describe, read_ciphertext, write_ciphertext
from coproc.tfhe.compact_list import expand_compact_list, read_compact_list
from coproc.tfhe.parameters import TOY_2_2
from coproc.tfhe.server_key import load_casting_key, load_server_key, read_server_key_facts
from coproc.tfhe.wire import WireError, write_object
from coproc.tfhe.wire.ciphertexts import (
    BlockCompactList,
    CompactCiphertextList,
    CompressedFheUint,
    IntegerCompactList,
    SeededBlock,
    SeededRadix,
    UnsignedKind,
)
from coproc.tfhe.wire.core import NATIVE_MODULUS, LweCompactCiphertextList, PBSOrder, SeededLweCiphertext
from coproc.tfhe.wire.parameters import NoCasting
from tests.tfhe.serverkeys import compressed_server_key, seed
from tests.tfhe.wire.mutations import MUTATORS

if TYPE_CHECKING:
    from collections.abc import Callable

# Small enough that most bytes are structure, not words.
TINY = replace(TOY_2_2, lwe_dimension=2, polynomial_size=4, compact_lwe_dimension=4)
ROUNDS = 3000


def plain() -> bytes:
    blocks = np.arange(10, dtype=np.uint64).reshape(2, 5)
    return write_ciphertext(blocks, TINY, CiphertextKind.UINT, 4, b"tag")


def seeded() -> bytes:
    lwe = SeededLweCiphertext(7, 5, seed(1), NATIVE_MODULUS)
    block = SeededBlock(lwe, 3, 4, 4, PBSOrder.KEYSWITCH_BOOTSTRAP, 1)
    return write_object(CompressedFheUint(SeededRadix((block, block)), b"tag"))


def compact() -> bytes:
    lwe = LweCompactCiphertextList(np.arange(6, dtype=np.uint64), 5, 2, NATIVE_MODULUS)
    blocks = BlockCompactList(lwe, 3, 4, 4, NoCasting(PBSOrder.KEYSWITCH_BOOTSTRAP))
    return write_object(CompactCiphertextList(IntegerCompactList(blocks, (UnsignedKind(2),)), b""))


def key() -> bytes:
    return write_object(compressed_server_key(TINY, tag=b"tag"))


READERS: list[tuple[Callable[[], bytes], Callable[[bytes], object]]] = [
    (plain, lambda data: read_ciphertext(data, TINY, CiphertextKind.UINT, 4)),
    (plain, describe),
    (seeded, lambda data: read_ciphertext(data, TINY, CiphertextKind.UINT, 4)),
    (seeded, describe),
    (compact, lambda data: read_compact_list(data, TINY)),
    (compact, lambda data: expand_compact_list(data, TINY)),
    (key, read_server_key_facts),
    (key, load_server_key),
    (key, load_casting_key),
]


@pytest.mark.parametrize(("make", "read"), READERS)
def test_only_the_error_of_the_format_comes_out(make: Callable[[], bytes], read: Callable[[bytes], object]) -> None:
    rng = Random(make.__name__)
    original = make()
    read(original)
    refused = 0
    for turn in range(ROUNDS):
        broken = MUTATORS[turn % len(MUTATORS)](original, rng)
        try:
            read(broken)
        except WireError:
            refused += 1
    assert refused > ROUNDS // 2


@pytest.mark.parametrize(("make", "read"), READERS)
def test_broken_objects_cost_little_memory(make: Callable[[], bytes], read: Callable[[bytes], object]) -> None:
    rng = Random(3)
    original = make()
    read(original)
    tracemalloc.start()
    try:
        for turn in range(200):
            try:
                read(MUTATORS[turn % len(MUTATORS)](original, rng))
            except WireError:
                continue
        assert tracemalloc.get_traced_memory()[1] < 1 << 21
    finally:
        tracemalloc.stop()
