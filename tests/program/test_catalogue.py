"""The catalogue's programs: they compute what integers do, at the costs that we promise."""

from __future__ import annotations

import random

import numpy as np
import pytest

from coproc.circuits.evaluation import evaluate, verify
from coproc.circuits.strategy import Strategy
from coproc.program.catalogue import PROGRAMS, TFHE_RS, WIDTHS, operation_graph
from coproc.program.lowering import LoweredInput, lower
from coproc.program.meaning import evaluate_graph
from coproc.program.types import FheType


@pytest.mark.parametrize("strategy", list(Strategy))
@pytest.mark.parametrize("name", PROGRAMS)
def test_programs_compute_what_integers_do(name: str, strategy: Strategy) -> None:
    graph = PROGRAMS[name].graph
    lowered = lower(graph, strategy)
    verify(lowered.circuit)
    rng = random.Random(name)
    rows = [
        [rng.getrandbits(min(source.type.bits, rng.choice([4, 30, 58]))) for source in graph.inputs] for _ in range(12)
    ]
    rows[1] = [rows[1][0] & 1] * len(graph.inputs)  # ties
    columns = [
        [(row[source.number] >> (2 * source.block)) & 3 for row in rows]
        for source in lowered.inputs
        if isinstance(source, LoweredInput)
    ]
    blocks = evaluate(lowered.circuit, np.array(columns))
    for number, row in enumerate(rows):
        values = evaluate_graph(graph, row)
        for output in lowered.outputs:
            found = sum(int(blocks[output.first + i, number]) << (2 * i) for i in range(output.blocks))
            assert found == values[output.number]


# The most bootstraps, fewest first; and the most rounds, fewest rounds first.
PROMISED = {
    "transfer": (112, 15),
    "transfer_by_product": (112, 15),
    "transfer_by_two_selects": (112, 15),
    "swap_request": (176, 10),
    "auction_4": (265, 15),
    "auction_16": (1332, 75),
    "vote_8": (630, 34),
    "vote_32": (2394, 35),
    "order_match": (160, 14),
    "fee_split": (618, 74),
    "payroll_8": (749, 43),
    "range_check": (33, 4),
    "address_in_8": (353, 4),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_programs_cost_no_more_than_promised(name: str) -> None:
    bootstraps, depth = PROMISED[name]
    assert lower(PROGRAMS[name].graph, Strategy.THROUGHPUT).circuit.bootstraps <= bootstraps
    assert lower(PROGRAMS[name].graph, Strategy.LATENCY).circuit.depth <= depth


OPERATIONS_AT_64 = {
    "add": 32,
    "sub": 32,
    "neg": 32,
    "mul": 1114,
    "div": 2272,
    "rem": 2272,
    "lt": 16,
    "ge": 16,
    "eq": 17,
    "ne": 17,
    "min": 85,
    "max": 85,
    "if_then_else": 64,
    "shl": 211,
    "rotl": 227,
    "sum_8": 157,
    "sum_32": 656,
    "rand": 32,
}


@pytest.mark.parametrize(("name", "bootstraps"), OPERATIONS_AT_64.items())
def test_operations_cost_no_more_than_promised(name: str, bootstraps: int) -> None:
    assert lower(operation_graph(name, FheType.UINT64), Strategy.THROUGHPUT).circuit.bootstraps <= bootstraps


def test_every_figure_of_tfhe_rs_has_a_circuit_beside_it() -> None:
    for name, figures in TFHE_RS.items():
        assert len(figures) == len(WIDTHS)
        assert lower(operation_graph(name, FheType.UINT8), Strategy.THROUGHPUT).circuit.bootstraps <= figures[0][0]
