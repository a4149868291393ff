"""Every operation on every type of the table, up to 2048 bits."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import numpy as np
import pytest

from coproc.circuits.evaluation import evaluate, verify
from coproc.circuits.strategy import Strategy
from coproc.program.computation import Operation
from coproc.program.lowering import LoweredInput, lower
from coproc.program.meaning import evaluate_graph
from coproc.program.operations import RULES, Shape
from coproc.program.types import FheType
from coproc.program.wordgraph import Constant, Input, Step, Value, WordGraph

if TYPE_CHECKING:
    from coproc.program.wordgraph import Operand

QUADRATIC = {Operation.MUL, Operation.DIV, Operation.REM}
WIDEST_QUADRATIC = 64
"""Beyond, these take seconds to build; other tests cover their widths."""


def operand_lists(
    operation: Operation, fhe_type: FheType, rng: random.Random
) -> list[tuple[list[FheType], tuple[Operand, ...]]]:
    """Inputs and operands for each kind of operands that the operation takes."""
    clear = Constant(rng.getrandbits(fhe_type.bits) | 1)
    one, two = [fhe_type], [fhe_type, fhe_type]
    by_shape: dict[Shape, list[tuple[list[FheType], tuple[Operand, ...]]]] = {
        Shape.BINARY: [(two, (Value(0), Value(1))), (one, (Value(0), clear))],
        Shape.UNARY: [(one, (Value(0),))],
        Shape.SELECT: [([FheType.BOOL, *two], (Value(0), Value(1), Value(2)))],
        Shape.COLLECTION: [([fhe_type] * 5, tuple(map(Value, range(5))))],
        Shape.MEMBERSHIP: [([fhe_type] * 5, tuple(map(Value, range(5))))],
        Shape.MULTIPLY_DIVIDE: [(two, (Value(0), Value(1), clear)), (one, (Value(0), clear, Constant(7)))],
        Shape.CLEAR: [([], (clear,))],
    }
    return by_shape.get(RULES[operation].shape, [])  # random values are tested on ciphertexts


def graphs(fhe_type: FheType, rng: random.Random) -> list[WordGraph]:
    """One graph for each operation that the type has, and for each kind of right operand."""
    made: list[WordGraph] = []
    for operation, rule in RULES.items():
        if fhe_type not in rule.types or (operation in QUADRATIC and fhe_type.bits > WIDEST_QUADRATIC):
            continue
        results = [FheType.BOOL if rule.yields_bool else fhe_type]
        if operation is Operation.CAST:
            results = [FheType.BOOL, FheType.UINT4, FheType.INT64, FheType.UINT256]
        for inputs, operands in operand_lists(operation, fhe_type, rng):
            made += [
                WordGraph(tuple(map(Input, inputs)), (Step(operation, result, operands),), (len(inputs),))
                for result in results
            ]
    return made


@pytest.mark.parametrize("fhe_type", list(FheType))
def test_every_operation(fhe_type: FheType) -> None:
    rng = random.Random(fhe_type)
    for number, graph in enumerate(graphs(fhe_type, rng)):
        lowered = lower(graph, list(Strategy)[number % 2])
        assert not lowered.failures
        verify(lowered.circuit)
        rows = [[rng.getrandbits(source.type.bits) for source in graph.inputs] for _ in range(6)]
        rows[0] = [0] * len(graph.inputs)
        rows[1] = [(1 << source.type.bits) - 1 for source in graph.inputs]
        columns = [
            [(row[source.number] >> (2 * source.block)) & 3 for row in rows]
            for source in lowered.inputs
            if isinstance(source, LoweredInput)
        ]
        blocks = evaluate(lowered.circuit, np.array(columns, dtype=np.int64).reshape(-1, len(rows)))
        (output,) = lowered.outputs
        mask = (1 << graph.type_of(output.number).bits) - 1
        for column, row in enumerate(rows):
            found = sum(int(blocks[output.first + i, column]) << (2 * i) for i in range(output.blocks))
            assert found == evaluate_graph(graph, row)[output.number] & mask, graph.steps[0]
