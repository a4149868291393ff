"""Rewrites of word graphs: the same values for fewer bootstraps.

Every rule is a function from a graph to a graph with the same value numbers; rules only change what steps read. What no
longer has a reader is dropped when the graph is lowered. A rule takes a step over only if nobody else reads it, so that
nothing is computed twice.

Rules that act between steps and inside circuits have names too: ``coproc.program.rules`` lists all.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from coproc.program.computation import Operation
from coproc.program.types import FheType
from coproc.program.wordgraph import RANDOM, Constant, Step, Value, WordGraph

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from coproc.program.wordgraph import Operand

MAX_TERMS: Final = 128
"""Terms of one sum of columns; beyond, carries would span too many columns at once."""
FEW: Final = 2
_COMMUTING: Final = frozenset(
    {
        Operation.ADD,
        Operation.MUL,
        Operation.BIT_AND,
        Operation.BIT_OR,
        Operation.BIT_XOR,
        Operation.EQ,
        Operation.NE,
        Operation.MIN,
        Operation.MAX,
    }
)


def rewrite(graph: WordGraph, off: frozenset[str] = frozenset()) -> WordGraph:
    """Apply every rule but those named in ``off``."""
    for name, rule in RULES.items():
        if name not in off:
            graph = rule(graph)
    return graph


def common_steps(graph: WordGraph) -> WordGraph:
    """Let steps read the first of equal steps: the same operation on the same operands, in either order if it commutes.

    Draws of random values are never equal.
    """
    first = len(graph.inputs)
    seen: dict[tuple[Operation, FheType, tuple[Operand, ...]], int] = {}
    same: dict[int, Value] = {}
    steps: list[Step] = []
    for number, step in enumerate(graph.steps, first):
        operands = tuple(same.get(item.number, item) if isinstance(item, Value) else item for item in step.operands)
        steps.append(replace(step, operands=operands))
        ordered = tuple(sorted(operands, key=repr)) if step.operation in _COMMUTING else operands
        earlier = seen.setdefault((step.operation, step.result, ordered), number)
        if earlier != number and step.operation not in RANDOM:
            same[number] = Value(earlier)
    return replace(graph, steps=tuple(steps))


def select_of_sum(graph: WordGraph) -> WordGraph:
    """Turn ``select(c, x + a, x)`` into ``x + select(c, a, 0)``, and likewise for ``-`` and for swapped branches."""
    steps = list(graph.steps)
    uses = _uses(graph)
    first = len(graph.inputs)
    for index, step in enumerate(graph.steps):
        if step.operation is not Operation.IF_THEN_ELSE:
            continue
        for changed, kept in ((1, 2), (2, 1)):
            branch = step.operands[changed]
            if not isinstance(branch, Value) or branch.number < first or uses[branch.number] != 1:
                continue
            inner = steps[branch.number - first]
            term = _other_term(inner, step.operands[kept])
            if term is None or len(inner.operands) != FEW:
                continue
            zero = Constant(0)
            gated = (term, zero) if changed == 1 else (zero, term)
            # The branch's own step becomes the gate, so that the numbers of all values stay.
            steps[branch.number - first] = Step(Operation.IF_THEN_ELSE, inner.result, (step.operands[0], *gated))
            steps[index] = Step(inner.operation, step.result, (step.operands[kept], branch))
            graph = replace(graph, steps=tuple(steps))
            if not _is_ordered(graph):
                # The condition comes after the branch: leave it as it was.
                steps[branch.number - first], steps[index] = inner, step
                graph = replace(graph, steps=tuple(steps))
                continue
            return select_of_sum(graph)
    return graph


def difference_of_sum(graph: WordGraph) -> WordGraph:
    """Turn ``(x + a) - x`` into ``a``, whoever else reads the sum."""
    steps = list(graph.steps)
    first = len(graph.inputs)
    for index, step in enumerate(steps):
        left = step.operands[0] if step.operation is Operation.SUB else None
        if not isinstance(left, Value) or left.number < first:
            continue
        inner = steps[left.number - first]
        term = _other_term(inner, step.operands[1]) if inner.operation is Operation.ADD else None
        if term is not None:
            steps[index] = Step(Operation.ADD, step.result, (term, Constant(0)))
    return replace(graph, steps=tuple(steps))


def column_sums(graph: WordGraph) -> WordGraph:
    """Turn chains of additions, subtractions and negations into one sum of columns."""
    uses = _uses(graph)
    steps = list(graph.steps)
    first = len(graph.inputs)
    for index, step in enumerate(steps):
        terms = _terms(step)
        if terms is None:
            continue
        gathered: list[tuple[Operand, bool]] = []
        for operand, off in terms:
            is_step = isinstance(operand, Value) and operand.number >= first
            inner = _terms(steps[operand.number - first]) if is_step and isinstance(operand, Value) else None
            own = isinstance(operand, Value) and uses[operand.number] == 1
            if inner is not None and own and len(inner) + len(gathered) < MAX_TERMS:
                gathered += [(deeper, off != negative) for deeper, negative in inner]
            else:
                gathered.append((operand, off))
        if len(gathered) > max(FEW, len(terms)):
            operands, signs = zip(*gathered, strict=True)
            steps[index] = Step(Operation.SUM, step.result, operands, signs)
    return replace(graph, steps=tuple(steps))


def boolean_trees(graph: WordGraph) -> WordGraph:
    """Turn trees of AND, and of OR, over booleans into one step with many operands."""
    uses = _uses(graph)
    steps = list(graph.steps)
    first = len(graph.inputs)
    for index, step in enumerate(steps):
        if step.operation not in {Operation.BIT_AND, Operation.BIT_OR} or step.result is not FheType.BOOL:
            continue
        gathered: list[Operand] = []
        for operand in step.operands:
            inner = steps[operand.number - first] if isinstance(operand, Value) and operand.number >= first else None
            own = isinstance(operand, Value) and uses[operand.number] == 1
            if inner is not None and inner.operation is step.operation and own:
                gathered += inner.operands
            else:
                gathered.append(operand)
        if len(gathered) > FEW:
            steps[index] = Step(step.operation, step.result, tuple(gathered))
    return replace(graph, steps=tuple(steps))


RULES: Final[Mapping[str, Callable[[WordGraph], WordGraph]]] = {
    "common_steps": common_steps,
    "select_of_sum": select_of_sum,
    "difference_of_sum": difference_of_sum,
    "column_sums": column_sums,
    "boolean_trees": boolean_trees,
}
"""By name, in the order in which they are applied."""


def _uses(graph: WordGraph) -> Counter[int]:
    """Count the readers of every value; being wanted counts as two, so that it is never taken over."""
    uses: Counter[int] = Counter()
    for number in graph.wanted:
        uses[number] += 2
    for step in graph.steps:
        uses.update(operand.number for operand in step.operands if isinstance(operand, Value))
    return uses


def _other_term(step: Step, known: Operand) -> Operand | None:
    """Return ``a`` if the step is ``known + a``, ``a + known`` or ``known - a``."""
    if step.operation not in {Operation.ADD, Operation.SUB} or known not in step.operands:
        return None
    if step.operands[0] == known:
        return step.operands[1]
    return step.operands[0] if step.operation is Operation.ADD else None


def _is_ordered(graph: WordGraph) -> bool:
    first = len(graph.inputs)
    return all(
        operand.number < number
        for number, step in enumerate(graph.steps, first)
        for operand in step.operands
        if isinstance(operand, Value)
    )


def _terms(step: Step) -> list[tuple[Operand, bool]] | None:
    """Read a step as a sum; None if it is none."""
    match step.operation:
        case Operation.ADD:
            return [(operand, False) for operand in step.operands]
        case Operation.SUB:
            return [(step.operands[0], False), (step.operands[1], True)]
        case Operation.NEG:
            return [(step.operands[0], True)]
        case Operation.SUM:
            signs = step.subtracted or (False,) * len(step.operands)
            return list(zip(step.operands, signs, strict=True))
        case _:
            return None
