"""Which jobs take values out of lists, and what is said of those that cannot be had."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from coproc.circuits.casting import BOOLEAN, ODD
from coproc.circuits.strategy import Strategy
from coproc.keyring import KeyFacts
from coproc.program.computation import Computation, Operation, Scalar
from coproc.program.inputs import list_handle
from coproc.program.types import FheType, Handle, new_handle
from coproc.scheduling.batch import external_inputs, finish_batch, prepare_batch
from coproc.scheduling.casting import castings_of, prepare_castings
from coproc.scheduling.estimate import estimate
from coproc.store.base import StoredCiphertext, WorkGroup
from coproc.tfhe.ciphertext import CiphertextKind
from coproc.tfhe.client.compact_list import ClearValue, encrypt_list
from coproc.tfhe.parameters import TOY_2_2

if TYPE_CHECKING:
    from coproc.tfhe.client import ClientKey

KEY_ID = b"k" * 32
FACTS = KeyFacts(TOY_2_2, b"", 512)
SOURCE = list_handle(bytes(32), KEY_ID)


@pytest.fixture(scope="module")
def lists(toy_client_key: ClientKey) -> dict[Handle, StoredCiphertext]:
    """A packed list: a boolean (block 0) and an 8-bit integer (blocks 1 to 4)."""
    values = [ClearValue(1, 1, CiphertextKind.BOOL), ClearValue(7, 8, CiphertextKind.UINT)]
    data = encrypt_list(toy_client_key.compact_public_key(), values)
    return {SOURCE: StoredCiphertext(SOURCE, KEY_ID, data, is_allowed=False)}


def taken(fhe_type: FheType, *operands: Handle | Scalar) -> Computation:
    return Computation(new_handle(fhe_type), Operation.VERIFY_INPUT, operands, is_allowed=True)


def index(number: int) -> Scalar:
    return Scalar(bytes([number]))


def group(number: int, *computations: Computation) -> WorkGroup:
    wanted = frozenset(computation.output for computation in computations if computation.is_allowed)
    return WorkGroup(number, KEY_ID, b"t", computations, wanted, 0)


def test_only_what_is_wanted_is_taken_apart(lists: dict[Handle, StoredCiphertext]) -> None:
    number = taken(FheType.UINT8, SOURCE, index(1))
    claimed = group(1, number)
    assert castings_of([claimed, claimed]) == (number,)
    assert external_inputs([claimed]) == ()
    jobs, errors = prepare_castings([number], lists, FACTS)
    assert not errors
    (job,) = jobs
    assert job.under_compact_key
    # Blocks 1 to 4 are the odd half of ciphertext 0, both of 1, and the even half of 2.
    assert job.inputs.shape == (3, 513)
    level = job.circuit.levels[0]
    assert level.form.tolist() == [0, 1, 1, 2]
    assert level.table.tolist() == [ODD, 0, ODD, 0]
    flag = taken(FheType.BOOL, SOURCE, index(0))
    (both,), _ = prepare_castings([number, flag], lists, FACTS)
    assert both.circuit.levels[0].table.tolist() == [ODD, 0, ODD, 0, BOOLEAN]
    assert both.outputs == ((number.output, 0, 4), (flag.output, 4, 1))


def test_values_that_cannot_be_had_fail_by_themselves(lists: dict[Handle, StoredCiphertext]) -> None:
    good = taken(FheType.BOOL, SOURCE, index(0))
    bad = [
        taken(FheType.UINT8, SOURCE, index(2)),
        taken(FheType.UINT16, SOURCE, index(1)),
        taken(FheType.UINT8, SOURCE),
        taken(FheType.UINT8, index(1), SOURCE),
    ]
    broken = list_handle(b"x" * 32, KEY_ID)
    stored = {**lists, broken: StoredCiphertext(broken, KEY_ID, b"no list", is_allowed=False)}
    bad.append(taken(FheType.UINT8, broken, index(0)))
    (job,), errors = prepare_castings([good, *bad], stored, FACTS)
    assert [output[0] for output in job.outputs] == [good.output]
    assert errors.keys() == {computation.output for computation in bad}
    assert {error.rule for error in errors.values()} == {"LIST_UNUSABLE", "INVALID_WIRE_OBJECT"}


def test_a_group_uses_what_it_takes(lists: dict[Handle, StoredCiphertext]) -> None:
    number, lost = taken(FheType.UINT8, SOURCE, index(1)), taken(FheType.UINT8, SOURCE, index(9))
    negated = Computation(new_handle(FheType.UINT8), Operation.NEG, (number.output,), is_allowed=True)
    orphan = Computation(new_handle(FheType.UINT8), Operation.NEG, (lost.output,), is_allowed=True)
    claimed = group(1, number, lost, negated, orphan)
    (job,), errors = prepare_castings(castings_of([claimed]), lists, FACTS)
    values = job.values(KEY_ID, np.ones((4, 513), dtype=np.uint64))
    batch = prepare_batch([claimed], values, errors, FACTS, Strategy.THROUGHPUT)
    outputs = np.zeros((batch.plan.circuit.outputs.count, 513), dtype=np.uint64)
    (outcome,) = finish_batch(batch, outputs, FACTS, KEY_ID).outcomes
    assert {result.handle for result in outcome.results} == {number.output, negated.output}
    assert outcome.failures[lost.output].rule == "LIST_UNUSABLE"
    assert outcome.failures[orphan.output].cause == lost.output


def test_the_size_of_a_list_is_not_the_size_of_its_values() -> None:
    assert estimate(group(1, taken(FheType.BOOL, SOURCE, index(0)))).cost == 1
    assert estimate(group(1, taken(FheType.UINT64, SOURCE, index(0)))).cost == 32
