"""Whole groups: from computations to circuits, against plain integers."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import numpy as np
import pytest

from coproc.circuits.evaluation import evaluate, verify
from coproc.circuits.strategy import Strategy
from coproc.program.computation import Computation, Operation, Scalar
from coproc.program.meaning import evaluate_graph
from coproc.program.operations import RULES
from coproc.program.planning import GroupGraph, Lanes, Plan, PlannedInput, lower_cached, plan
from coproc.program.types import FheType, Handle, handle_type, new_handle
from coproc.program.wordgraph import name_values

if TYPE_CHECKING:
    from collections.abc import Sequence

    from coproc.circuits.circuit import Circuit

WIDTHS = (FheType.UINT8, FheType.UINT16, FheType.UINT64, FheType.INT8, FheType.INT64)
BINARY = (
    Operation.ADD,
    Operation.SUB,
    Operation.BIT_AND,
    Operation.BIT_OR,
    Operation.BIT_XOR,
    Operation.MIN,
    Operation.MAX,
    Operation.MUL,
    Operation.SHL,
    Operation.SHR,
    Operation.DIV,
    Operation.REM,
)
COMPARISONS = (Operation.EQ, Operation.NE, Operation.LT, Operation.LE, Operation.GT, Operation.GE)


def random_group(rng: random.Random, steps: int, types: Sequence[FheType] = WIDTHS) -> list[Computation]:
    """Draw a group over one integer type, booleans and casts."""
    fhe_type = rng.choice(types)
    numbers = [new_handle(fhe_type) for _ in range(3)]
    bools = [new_handle(FheType.BOOL)]
    made: list[Computation] = []

    def emit(operation: Operation, result: FheType, *operands: Handle | Scalar) -> None:
        handle = new_handle(result)
        made.append(Computation(handle, operation, operands, is_allowed=True))
        if result is fhe_type:
            numbers.append(handle)
        elif result is FheType.BOOL:
            bools.append(handle)

    for _ in range(steps):
        right = rng.choice(
            [
                rng.choice(numbers),
                rng.choice(numbers),
                Scalar((rng.getrandbits(fhe_type.bits) or 1).to_bytes(32, "big")),
            ]
        )
        match rng.randrange(6):
            case 0 | 1:
                emit(rng.choice(BINARY), fhe_type, rng.choice(numbers), right)
            case 2:
                emit(rng.choice(COMPARISONS), FheType.BOOL, rng.choice(numbers), right)
            case 3:
                emit(Operation.IF_THEN_ELSE, fhe_type, rng.choice(bools), rng.choice(numbers), rng.choice(numbers))
            case 4:
                emit(rng.choice([Operation.NEG, Operation.NOT]), fhe_type, rng.choice(numbers))
            case _:
                emit(rng.choice([Operation.BIT_AND, Operation.BIT_XOR]), FheType.BOOL, rng.choice(bools), bools[0])
    if fhe_type in RULES[Operation.MUL_DIV].types:
        emit(Operation.SUM, fhe_type, *numbers[:5])
        emit(Operation.IS_IN, FheType.BOOL, numbers[-1], *numbers[:3])
        emit(Operation.MUL_DIV, fhe_type, numbers[0], rng.choice(numbers), Scalar(bytes([rng.randrange(1, 256)])))
        emit(Operation.ROTL, fhe_type, numbers[0], numbers[1])
        emit(Operation.ROTR, fhe_type, numbers[0], Scalar(bytes([rng.randrange(256)])))
    emit(Operation.CAST, FheType.UINT64, numbers[-1])
    emit(Operation.CAST, FheType.BOOL, numbers[-1])
    emit(Operation.TRIVIAL_ENCRYPT, fhe_type, Scalar(bytes([rng.randrange(256)])))
    return made


def run_plan(planned: Plan, values: dict[Handle, int]) -> dict[tuple[int, Handle], int]:
    """Evaluate a plan in the clear."""
    blocks = [
        (values[item.handle] >> (2 * item.block)) & 3 for item in planned.inputs if isinstance(item, PlannedInput)
    ]
    verify(planned.circuit)
    out = evaluate(planned.circuit, np.array(blocks, dtype=np.int64).reshape(-1, 1))[:, 0]
    return {
        (item.group_id, item.handle): sum(int(out[item.first + i]) << (2 * i) for i in range(item.blocks))
        for item in planned.outputs
    }


@pytest.mark.parametrize("strategy", list(Strategy))
@pytest.mark.parametrize("seed", range(24))
def test_random_groups_compute_what_integers_do(seed: int, strategy: Strategy) -> None:
    rng = random.Random(seed)
    groups = [
        GroupGraph(number, tuple(made), frozenset(item.output for item in made), {})
        for number in range(3)
        if (made := random_group(rng, 8))
    ]
    values: dict[Handle, int] = {}
    expected: dict[tuple[int, Handle], int] = {}
    for group in groups:
        named = name_values(group.computations, sorted(group.wanted), {})
        inputs = [rng.getrandbits(source.type.bits) for source in named.graph.inputs]
        values |= {named.handles[number]: value for number, value in enumerate(inputs)}
        clear = evaluate_graph(named.graph, inputs)
        for handle in group.wanted:
            number = named.handles.index(handle)
            expected[group.group_id, handle] = clear[number] & ((1 << handle_type(handle).bits) - 1)
    planned = plan(groups, strategy)
    assert not planned.failures
    assert run_plan(planned, values) == expected


def test_clear_inputs_take_no_ciphertext() -> None:
    public, secret = new_handle(FheType.UINT8), new_handle(FheType.UINT8)
    output = new_handle(FheType.UINT8)
    group = GroupGraph(
        1,
        (Computation(output, Operation.BIT_AND, (secret, public), is_allowed=True),),
        frozenset({output}),
        {public: 0x0F},
    )
    planned = plan([group], Strategy.THROUGHPUT)
    assert {item.handle for item in planned.inputs if isinstance(item, PlannedInput)} == {secret}
    assert planned.circuit.bootstraps == 0
    assert run_plan(planned, {secret: 0xA7}) == {(1, output): 0x07}


def test_what_nobody_wants_is_not_computed() -> None:
    a, first, second = (new_handle(FheType.UINT64) for _ in range(3))
    group = GroupGraph(
        1,
        (
            Computation(first, Operation.NEG, (a,), is_allowed=False),
            Computation(second, Operation.NOT, (a,), is_allowed=True),
        ),
        frozenset({second}),
        {},
    )
    planned = plan([group], Strategy.THROUGHPUT)
    assert planned.circuit.bootstraps == 0
    assert [item.handle for item in planned.outputs] == [second]


def test_the_same_program_of_two_users_is_lowered_once() -> None:
    def transfer() -> GroupGraph:
        a, b, result = (new_handle(FheType.UINT32) for _ in range(3))
        return GroupGraph(1, (Computation(result, Operation.ADD, (a, b), is_allowed=True),), frozenset({result}), {})

    before = lower_cached.cache_info()
    plan([transfer(), transfer()], Strategy.THROUGHPUT)
    after = lower_cached.cache_info()
    assert after.misses - before.misses <= 1
    assert after.hits - before.hits >= 1


def test_the_transfer_costs_what_the_design_promises() -> None:
    """ge, select, add, sub on 64 bits: 112 bootstraps where one call at a time takes 313."""
    amount, source, target = (new_handle(FheType.UINT64) for _ in range(3))
    ok, moved, new_target, new_source = (
        new_handle(FheType.BOOL),
        *(new_handle(FheType.UINT64) for _ in range(3)),
    )
    zero = new_handle(FheType.UINT64)
    computations = (
        Computation(zero, Operation.TRIVIAL_ENCRYPT, (Scalar(b"\0"),), is_allowed=False),
        Computation(ok, Operation.GE, (source, amount), is_allowed=False),
        Computation(moved, Operation.IF_THEN_ELSE, (ok, amount, zero), is_allowed=True),
        Computation(new_target, Operation.ADD, (target, moved), is_allowed=True),
        Computation(new_source, Operation.SUB, (source, moved), is_allowed=True),
    )
    group = GroupGraph(1, computations, frozenset({moved, new_target, new_source}), {})
    planned = plan([group], Strategy.THROUGHPUT)
    assert (planned.circuit.bootstraps, planned.circuit.depth) == (112, 49)
    result = run_plan(planned, {amount: 30, source: 100, target: 7})
    assert result == {(1, moved): 30, (1, new_target): 37, (1, new_source): 70}
    result = run_plan(planned, {amount: 101, source: 100, target: 7})
    assert result == {(1, moved): 0, (1, new_target): 7, (1, new_source): 100}


def additions(count: int) -> tuple[list[GroupGraph], dict[Handle, int], dict[tuple[int, Handle], int]]:
    """Independent additions of 64 bits, with inputs and results."""
    groups: list[GroupGraph] = []
    values: dict[Handle, int] = {}
    expected: dict[tuple[int, Handle], int] = {}
    for number in range(count):
        a, b, result = (new_handle(FheType.UINT64) for _ in range(3))
        groups.append(
            GroupGraph(number, (Computation(result, Operation.ADD, (a, b), is_allowed=True),), frozenset({result}), {})
        )
        values |= {a: 2**63 + number, b: 2**63 + 5}
        expected[number, result] = number + 5
    return groups, values, expected


def test_a_lone_request_on_many_lanes_gets_few_rounds() -> None:
    groups, values, expected = additions(1)
    planned = plan(groups, Lanes(64))
    assert planned.circuit.depth == 6
    assert run_plan(planned, values) == expected


def test_full_lanes_get_few_bootstraps() -> None:
    groups, values, expected = additions(8)
    planned = plan(groups, Lanes(2))
    assert (planned.circuit.bootstraps, planned.circuit.depth) == (8 * 32, 32)
    assert run_plan(planned, values) == expected


@pytest.mark.parametrize("lanes", [1, 3, 10, 30, 100])
@pytest.mark.parametrize("count", [1, 2, 5])
def test_the_choice_is_never_worse_than_the_fewest_bootstraps(count: int, lanes: int) -> None:
    groups, values, expected = additions(count)
    planned, plain = plan(groups, Lanes(lanes)), plan(groups, Strategy.THROUGHPUT)

    def rounds(circuit: Circuit) -> int:
        return sum(-(-level.bootstraps // lanes) for level in circuit.levels)

    assert rounds(planned.circuit) <= rounds(plain.circuit)
    assert run_plan(planned, values) == expected


@pytest.mark.parametrize("divisor", [b"\0", b"\x01\0"])
def test_a_clear_zero_divisor_fails_that_computation_alone(divisor: bytes) -> None:
    a = new_handle(FheType.UINT8)
    bad, dependant, good = (new_handle(FheType.UINT8) for _ in range(3))
    computations = (
        Computation(bad, Operation.DIV, (a, Scalar(divisor)), is_allowed=True),
        Computation(dependant, Operation.NOT, (bad,), is_allowed=True),
        Computation(good, Operation.NOT, (a,), is_allowed=True),
    )
    planned = plan([GroupGraph(1, computations, frozenset({bad, dependant, good}), {})], Strategy.THROUGHPUT)
    assert {handle: error.rule for handle, error in planned.failures.items()} == {bad: "DIVISION_BY_ZERO"}
    assert run_plan(planned, {a: 1}) == {(1, good): 254}
