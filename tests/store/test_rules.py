"""The pure decisions: groups, contradictions, and the encoding of operands."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coproc.program.computation import Computation, Operation, Scalar
from coproc.program.types import FheType, Handle, new_handle
from coproc.store.base import Failure
from coproc.store.operands import decode_operands, encode_operands
from coproc.store.rules import connected_groups, inherited

HANDLES = [new_handle(FheType.UINT8) for _ in range(12)]
operands = st.lists(st.one_of(st.sampled_from(HANDLES), st.binary(max_size=300).map(Scalar)), max_size=5)


@given(operands, operands)
def test_operands_survive_and_differ_when_they_differ(
    first: list[Handle | Scalar],
    second: list[Handle | Scalar],
) -> None:
    assert decode_operands(encode_operands(first)) == tuple(first)
    assert (encode_operands(first) == encode_operands(second)) == (first == second)


@pytest.mark.parametrize("data", [b"\x00", b"\x02\x00\x00\x00\x00", b"\x01\x00\x00\x00\x02a"])
def test_broken_operands_are_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="operands"):
        decode_operands(data)


@given(st.lists(st.tuples(st.integers(0, 11), st.integers(0, 11)), max_size=12))
def test_groups_are_the_connected_components(edges: list[tuple[int, int]]) -> None:
    """Against the plain definition: merge sets until no edge joins two."""
    outputs = HANDLES
    sources = {output: [outputs[a] for a, b in edges if outputs[b] == output and a < b] for output in outputs}
    computations = [Computation(output, Operation.ADD, tuple(sources[output]), is_allowed=True) for output in outputs]
    expected = [{output} for output in outputs]
    for output in outputs:
        for source in sources[output]:
            joined = [part for part in expected if output in part or source in part]
            expected = [part for part in expected if part not in joined] + [set[Handle]().union(*joined)]
    groups = connected_groups(computations)
    assert sorted(map(sorted, expected)) == sorted(sorted(c.output for c in group) for group in groups)
    positions = [[outputs.index(computation.output) for computation in group] for group in groups]
    assert all(group == sorted(group) for group in positions)
    assert positions == sorted(positions)


def test_the_root_cause_is_kept() -> None:
    first = inherited(HANDLES[0], Failure("BROKEN", "x"))
    second = inherited(HANDLES[1], first)
    assert first == second
    assert second.cause == HANDLES[0]
