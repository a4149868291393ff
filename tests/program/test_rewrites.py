"""Rewrite rules: each saves what it promises, keeps values, and can be switched off."""

from __future__ import annotations

import random

import numpy as np
import pytest

from coproc.circuits.evaluation import evaluate, verify
from coproc.circuits.strategy import Strategy
from coproc.config import Config
from coproc.program.computation import Operation
from coproc.program.lowering import LoweredInput, LoweringSettings, lower
from coproc.program.meaning import evaluate_graph
from coproc.program.rewrites import rewrite
from coproc.program.rules import RULE_NAMES
from coproc.program.types import FheType
from coproc.program.wordgraph import Constant, Input, Operand, Step, Value, WordGraph

U8, BOOL = FheType.UINT8, FheType.BOOL
ADD, SUB, NEG, IF, AND, OR = (
    Operation.ADD,
    Operation.SUB,
    Operation.NEG,
    Operation.IF_THEN_ELSE,
    Operation.BIT_AND,
    Operation.BIT_OR,
)


def graph(inputs: list[FheType], steps: list[tuple[Operation, FheType, list[int]]], wanted: list[int]) -> WordGraph:
    return WordGraph(
        tuple(Input(item) for item in inputs),
        tuple(Step(op, result, tuple(Value(number) for number in operands)) for op, result, operands in steps),
        tuple(wanted),
    )


# inputs 0 to 3 are numbers, 4 to 8 booleans
INPUTS = [U8] * 4 + [BOOL] * 5
CASES = {
    "select_of_sum": [
        graph(INPUTS, [(ADD, U8, [0, 1]), (IF, U8, [4, 9, 0])], [10]),
        graph(INPUTS, [(ADD, U8, [1, 0]), (IF, U8, [4, 0, 9])], [10]),
        graph(INPUTS, [(SUB, U8, [0, 1]), (IF, U8, [4, 9, 0])], [10]),
    ],
    "difference_of_sum": [
        graph(INPUTS, [(ADD, U8, [0, 1]), (SUB, U8, [9, 0])], [10]),
        graph(INPUTS, [(ADD, U8, [1, 0]), (SUB, U8, [9, 0]), (ADD, U8, [10, 2])], [9, 11]),
    ],
    "column_sums": [
        graph(INPUTS, [(ADD, U8, [0, 1]), (ADD, U8, [9, 2]), (ADD, U8, [10, 3])], [11]),
        graph(INPUTS, [(SUB, U8, [0, 1]), (SUB, U8, [2, 9]), (NEG, U8, [10]), (SUB, U8, [11, 3])], [12]),
        graph(INPUTS, [(Operation.SUM, U8, [0, 1, 2]), (SUB, U8, [3, 9]), (ADD, U8, [10, 0])], [11]),
    ],
    "boolean_trees": [
        graph(INPUTS, [(AND, BOOL, [4, 5]), (AND, BOOL, [6, 7]), (AND, BOOL, [9, 10]), (AND, BOOL, [11, 8])], [12]),
        graph(INPUTS, [(OR, BOOL, [4, 5]), (OR, BOOL, [9, 6]), (OR, BOOL, [10, 7])], [11]),
    ],
}


def compute(item: WordGraph, values: list[list[int]], settings: LoweringSettings) -> tuple[list[list[int]], int]:
    """Run the circuit of a graph on rows of input values."""
    lowered = lower(item, Strategy.THROUGHPUT, settings)
    verify(lowered.circuit)
    columns: list[list[int]] = []
    for source in lowered.inputs:
        assert isinstance(source, LoweredInput)
        columns.append([(row[source.number] >> (2 * source.block)) & 3 for row in values])
    blocks = evaluate(lowered.circuit, np.array(columns, dtype=np.int64).reshape(-1, len(values)))
    outputs = [
        [sum(int(blocks[out.first + i, j]) << (2 * i) for i in range(out.blocks)) for out in lowered.outputs]
        for j in range(len(values))
    ]
    return outputs, lowered.circuit.bootstraps


@pytest.mark.parametrize(("name", "item"), [(name, item) for name, items in CASES.items() for item in items])
def test_a_rule_saves_bootstraps_and_keeps_values(name: str, item: WordGraph) -> None:
    rng = random.Random(1)
    values = [[rng.getrandbits(source.type.bits) for source in item.inputs] for _ in range(200)]
    with_rule, fewer = compute(item, values, LoweringSettings())
    without, more = compute(item, values, LoweringSettings(rewrites_off=frozenset({name})))
    expected = [[evaluate_graph(item, row)[number] for number in item.wanted] for row in values]
    assert with_rule == without == expected
    assert fewer < more


DIV, REM, LT, LE, GT, GE = Operation.DIV, Operation.REM, Operation.LT, Operation.LE, Operation.GT, Operation.GE
ZERO = Constant(0)


def steps(*items: tuple[Operation, FheType, tuple[Operand, ...]], wanted: list[int]) -> WordGraph:
    return WordGraph(tuple(Input(item) for item in INPUTS), tuple(Step(*item) for item in items), tuple(wanted))


# What each rule saves by itself: a graph, the bootstraps with and without it, and which other rules rest meanwhile
# because they would save the same.
ALONE: dict[str, list[tuple[WordGraph, int, int, set[str]]]] = {
    "common_steps": [
        (
            graph(INPUTS, [(ADD, U8, [0, 1]), (ADD, U8, [1, 0]), (AND, U8, [9, 2]), (AND, U8, [10, 3])], [11, 12]),
            12,
            16,
            {"shared_look_ups"},
        ),
        (graph(INPUTS, [(SUB, U8, [0, 1]), (SUB, U8, [1, 0])], [9, 10]), 8, 8, {"shared_look_ups"}),
    ],
    "borrow_of_difference": [
        (graph(INPUTS, [(SUB, U8, [0, 1]), (comparison, BOOL, order)], [9, 10]), 4, 6, set())
        for comparison, order in ((LT, [0, 1]), (GE, [0, 1]), (GT, [1, 0]), (LE, [1, 0]))
    ],
    "division_pairs": [
        (graph(INPUTS, [(DIV, U8, [0, 1]), (REM, U8, [0, 1])], [9, 10]), 60, 112, {"shared_look_ups"}),
    ],
    "shared_look_ups": [
        (graph(INPUTS, [(LT, BOOL, [0, 1]), (GE, BOOL, [0, 1])], [9, 10]), 2, 4, set()),
    ],
    "many_look_up_tables": [
        (graph(INPUTS, [(ADD, U8, [0, 1])], [9]), 4, 7, set()),
    ],
    "gates": [
        (
            steps((IF, U8, (Value(4), Value(0), ZERO)), (IF, U8, (Value(4), ZERO, Value(0))), wanted=[9, 10]),
            4,
            8,
            set(),
        ),
    ],
    "lazy_selects": [
        (graph(INPUTS, [(IF, U8, [4, 0, 1]), (Operation.EQ, BOOL, [9, 2])], [10]), 9, 11, set()),
    ],
    "dead_look_ups": [
        (graph(INPUTS, [(ADD, U8, [0, 1]), (SUB, U8, [2, 3])], [10]), 4, 8, set()),
    ],
}


@pytest.mark.parametrize(
    ("name", "item", "fewer", "more", "others"),
    [(name, *case) for name, cases in ALONE.items() for case in cases],
)
def test_a_rule_saves_by_itself(name: str, item: WordGraph, fewer: int, more: int, others: set[str]) -> None:
    rng = random.Random(2)
    values = [[rng.getrandbits(source.type.bits) for source in item.inputs] for _ in range(300)]
    expected = [[evaluate_graph(item, row)[number] for number in item.wanted] for row in values]
    with_rule, found_fewer = compute(item, values, LoweringSettings(rewrites_off=frozenset(others)))
    without, found_more = compute(item, values, LoweringSettings(rewrites_off=frozenset({name, *others})))
    assert with_rule == without == expected
    assert (found_fewer, found_more) == (fewer, more)


ADDRESS = FheType.UINT160
NAMES = [int.from_bytes(random.Random(number).randbytes(20), "big") for number in range(20)]


def chosen(names: int, *, read_all: bool = False) -> WordGraph:
    """Choose one of some known addresses by conditions, one after the other."""
    inputs = [Input(BOOL)] * (names - 1)
    made = [Step(Operation.TRIVIAL_ENCRYPT, ADDRESS, (Constant(NAMES[number]),)) for number in range(names)]
    first = len(inputs)
    for number in range(1, names):
        before = Value(first + len(made) - 1 if number > 1 else first)
        made.append(Step(IF, ADDRESS, (Value(number - 1), Value(first + number), before)))
    last = first + len(made) - 1
    return WordGraph(tuple(inputs), tuple(made), tuple(range(first + names, last + 1)) if read_all else (last,))


@pytest.mark.parametrize(
    ("names", "fewer", "more"),
    [(3, 9, 55), (4, 18, 126), (8, 49, 443), (16, 105, 1083), (17, 185, 1163)],
)
def test_what_is_chosen_among_known_values_travels_as_a_number(names: int, fewer: int, more: int) -> None:
    item = chosen(names)
    rng = random.Random(names)
    values = [[rng.randrange(2) for _ in item.inputs] for _ in range(100)]
    values[0], values[1] = [0] * len(item.inputs), [1] * len(item.inputs)
    expected = [[evaluate_graph(item, row)[number] for number in item.wanted] for row in values]
    by_number, found_fewer = compute(item, values, LoweringSettings())
    by_digits, found_more = compute(item, values, LoweringSettings(rewrites_off=frozenset({"known_choices"})))
    assert by_number == by_digits == expected
    assert (found_fewer, found_more) == (fewer, more)


@pytest.mark.parametrize("item", [chosen(16, read_all=True), chosen(2)], ids=["all read", "two"])
def test_a_number_that_saves_nothing_is_not_made(item: WordGraph) -> None:
    rng = random.Random(5)
    values = [[rng.randrange(2) for _ in item.inputs] for _ in range(60)]
    expected = [[evaluate_graph(item, row)[number] for number in item.wanted] for row in values]
    with_rule, same = compute(item, values, LoweringSettings())
    without, bootstraps = compute(item, values, LoweringSettings(rewrites_off=frozenset({"known_choices"})))
    assert with_rule == without == expected
    assert same == bootstraps


@pytest.mark.parametrize("fhe_type", [ADDRESS, FheType.INT16, U8])
@pytest.mark.parametrize("seed", range(8))
def test_choices_among_choices(seed: int, fhe_type: FheType) -> None:
    """Selects of every form among a few known values, some of which are read in between, inputs that are known too."""
    rng = random.Random(seed)
    mask = (1 << fhe_type.bits) - 1
    inputs = [Input(BOOL), Input(BOOL), Input(BOOL), Input(fhe_type), Input(fhe_type, clear=NAMES[9] & mask)]
    pool = [4]
    made: list[Step] = []
    for _ in range(rng.randrange(1, 6)):
        made.append(Step(Operation.TRIVIAL_ENCRYPT, fhe_type, (Constant(NAMES[rng.randrange(20)]),)))
        pool.append(len(inputs) + len(made) - 1)
    for _ in range(rng.randrange(4, 20)):
        one, other = rng.choice(pool), rng.choice(pool)
        step = Step(IF, fhe_type, (Value(rng.randrange(3)), Value(one), Value(other)))
        if rng.random() < 0.1:
            step = Step(Operation.BIT_XOR, fhe_type, (Value(one), Value(3)))
        made.append(step)
        pool.append(len(inputs) + len(made) - 1)
    wanted = sorted({len(inputs) + len(made) - 1, *(number for number in pool[-10:] if rng.random() < 0.3)} - {4})
    item = WordGraph(tuple(inputs), tuple(made), tuple(wanted))
    values = [
        [a, b, c, rng.getrandbits(fhe_type.bits), NAMES[9] & mask] for a in (0, 1) for b in (0, 1) for c in (0, 1)
    ]
    expected = [[evaluate_graph(item, row)[number] & mask for number in wanted] for row in values]
    for off in (frozenset[str](), frozenset({"known_choices"}), frozenset({"known_inputs"})):
        assert compute(item, values, LoweringSettings(rewrites_off=off))[0] == expected


def test_a_known_input_folds() -> None:
    item = WordGraph((Input(U8), Input(U8, clear=7)), (Step(Operation.MUL, U8, (Value(0), Value(1))),), (2,))
    values = [[value, 7] for value in range(256)]
    folded, fewer = compute(item, values, LoweringSettings())
    entered, more = compute(item, values, LoweringSettings(rewrites_off=frozenset({"known_inputs"})))
    assert folded == entered == [[value * 7 & 255] for value in range(256)]
    assert fewer < more


def test_every_rule_is_tried_here() -> None:
    assert {*CASES, *ALONE, "known_inputs", "known_choices"} == set(RULE_NAMES)


def test_random_draws_are_never_common() -> None:
    item = WordGraph((), tuple(Step(Operation.RAND, U8, (Constant(seed),)) for seed in (0, 0)), (0, 1))
    assert rewrite(item) == item


@pytest.mark.parametrize("name", [name for name in CASES if name != "difference_of_sum"])
def test_what_somebody_reads_is_left_alone(name: str) -> None:
    for item in CASES[name]:
        everything = tuple(range(len(INPUTS), len(INPUTS) + len(item.steps)))
        public = WordGraph(item.inputs, item.steps, everything)
        assert rewrite(public) == public


def test_a_condition_that_comes_late_is_left_alone() -> None:
    steps = [(ADD, U8, [0, 1]), (Operation.EQ, BOOL, [2, 3]), (IF, U8, [10, 9, 0])]
    item = graph(INPUTS, steps, [11])
    assert rewrite(item) == item
    values = [[1, 2, 3, 3, 0, 0, 0, 0, 0], [1, 2, 3, 4, 0, 0, 0, 0, 0]]
    assert compute(item, values, LoweringSettings())[0] == [[3], [1]]


def test_the_configuration_knows_every_rule() -> None:
    assert Config(rewrites_off=list(RULE_NAMES)).rewrites_off == set(RULE_NAMES)


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("operation", [Operation.SHL, Operation.SHR])
def test_a_shift_by_the_width_gives_zero_where_the_network_says_so(operation: Operation, *, signed: bool) -> None:
    fhe_type = FheType.INT8 if signed else U8
    item = WordGraph((Input(fhe_type), Input(fhe_type)), (Step(operation, fhe_type, (Value(0), Value(1))),), (2,))
    values = [[a, b] for a in (0, 1, 127, 128, 255) for b in (0, 1, 7, 8, 9, 100, 255)]
    found, _ = compute(item, values, LoweringSettings(zero_shifts=True))
    for (a, b), (result,) in zip(values, found, strict=True):
        value = a - 256 if signed and a >= 128 else a
        assert result == (value << b if operation is Operation.SHL else value >> b) & 255
    clear: tuple[Operand, ...] = (Value(0), Constant(9))
    known = WordGraph((Input(fhe_type),), (Step(operation, fhe_type, clear),), (1,))
    assert compute(known, [[200]], LoweringSettings(zero_shifts=True))[0] == [
        [255 if signed and operation is Operation.SHR else 0]
    ]
