"""A thousand random programs: compiled and rewritten, they give what plain integers give."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import numpy as np
import pytest

from coproc.circuits.strategy import Strategy
from coproc.executors import create_executor
from coproc.executors.evaluation import Evaluation
from coproc.program.lowering import LoweringSettings
from coproc.program.meaning import evaluate_graph
from coproc.program.planning import GroupGraph, Plan, PlannedInput, plan
from coproc.program.rules import RULE_NAMES
from coproc.program.types import FheType, Handle, handle_type
from coproc.program.wordgraph import name_values
from coproc.tfhe.lwe import bodies, decode, phases
from coproc.tfhe.parameters import TOY_2_2
from tests.program.test_planning import random_group, run_plan

if TYPE_CHECKING:
    from collections.abc import Sequence

    from coproc.tfhe.client import ClientKey
    from coproc.tfhe.keys import EvaluationKey

SMALL = (FheType.UINT4, FheType.UINT8, FheType.INT8, FheType.UINT16, FheType.INT16)


def draw(rng: random.Random) -> tuple[GroupGraph, dict[Handle, int], dict[tuple[int, Handle], int]]:
    """Draw a program, its inputs and what it should give; some results are wanted, others are not."""
    made = random_group(rng, rng.randrange(1, 56), SMALL)
    wanted = frozenset(item.output for item in made if rng.random() < 0.4) or frozenset({made[-1].output})
    named = name_values(made, sorted(wanted), {})
    inputs = [rng.getrandbits(source.type.bits) for source in named.graph.inputs]
    clear = evaluate_graph(named.graph, inputs)
    expected = {
        (1, named.handles[number]): clear[number] & ((1 << handle_type(named.handles[number]).bits) - 1)
        for number in named.graph.wanted
    }
    return GroupGraph(1, tuple(made), wanted, {}), dict(zip(named.handles, inputs, strict=False)), expected


@pytest.mark.parametrize("seed", range(20))
def test_in_the_clear(seed: int) -> None:
    rng = random.Random(1000 + seed)
    for number in range(50):
        group, values, expected = draw(rng)
        planned = plan([group], list(Strategy)[number % 2])
        assert not planned.failures
        assert run_plan(planned, values) == expected


@pytest.mark.parametrize(
    "off", [*([name] for name in RULE_NAMES), RULE_NAMES], ids=lambda off: off[0] if len(off) == 1 else "all"
)
def test_without_a_rule(off: Sequence[str]) -> None:
    rng = random.Random(len(off[0]))
    settings = LoweringSettings(rewrites_off=frozenset(off))
    for number in range(12):
        group, values, expected = draw(rng)
        planned = plan([group], list(Strategy)[number % 2], settings)
        assert not planned.failures
        assert run_plan(planned, values) == expected


def run_on_ciphertexts(
    planned: Plan, values: dict[Handle, int], client_key: ClientKey, key: EvaluationKey
) -> dict[tuple[int, Handle], int]:
    """Encrypt, compute and decrypt."""
    rng = np.random.default_rng()
    big = client_key.glwe_key.reshape(-1)
    digits = [
        (values[item.handle] >> (2 * item.block)) & 3 for item in planned.inputs if isinstance(item, PlannedInput)
    ]
    masks = rng.integers(0, 1 << 64, (len(digits), len(big)), dtype=np.uint64)
    messages = np.array(digits, dtype=np.uint64) << np.uint64(TOY_2_2.delta_log2)
    executor = create_executor("cpu")
    inputs = np.column_stack([masks, bodies(masks, big, messages)])
    evaluation = Evaluation(executor, executor.prepare(key), planned.circuit, inputs)
    while evaluation.levels_left:
        evaluation.run_level()
    found = decode(phases(evaluation.outputs(), big), TOY_2_2.delta_log2)
    return {
        (item.group_id, item.handle): sum(int(found[item.first + i]) << (2 * i) for i in range(item.blocks))
        for item in planned.outputs
    }


def test_on_ciphertexts(toy_client_key: ClientKey, toy_evaluation_key: EvaluationKey) -> None:
    rng = random.Random(77)
    for number in range(50):
        group, values, expected = draw(rng)
        planned = plan([group], list(Strategy)[number % 2])
        assert run_on_ciphertexts(planned, values, toy_client_key, toy_evaluation_key) == expected
