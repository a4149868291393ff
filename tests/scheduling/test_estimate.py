"""Estimates only have to order groups as their real sizes do."""

from __future__ import annotations

from coproc.program.computation import Computation, Operation
from coproc.program.types import FheType, Handle, new_handle
from coproc.scheduling.estimate import Estimate, estimate
from coproc.store.base import WorkGroup


def of(*computations: Computation) -> Estimate:
    return estimate(WorkGroup(1, b"k", b"t", computations, frozenset(), 0))


def binary(operation: Operation, fhe_type: FheType, first: Handle | None = None) -> Computation:
    operands = (first or new_handle(fhe_type), new_handle(fhe_type))
    return Computation(new_handle(fhe_type), operation, operands, is_allowed=True)


def test_harder_and_wider_operations_cost_more() -> None:
    order = (Operation.BIT_AND, Operation.ADD, Operation.MUL, Operation.DIV)
    sizes = [of(binary(operation, FheType.UINT64)) for operation in order]
    assert [size.cost for size in sizes] == sorted({size.cost for size in sizes})
    assert [size.path for size in sizes] == sorted({size.path for size in sizes})
    assert of(binary(Operation.ADD, FheType.UINT8)).cost < of(binary(Operation.ADD, FheType.UINT64)).cost


def test_chains_are_long_and_neighbours_are_not() -> None:
    first = binary(Operation.ADD, FheType.UINT32)
    chain = of(first, binary(Operation.ADD, FheType.UINT32, first.output))
    side_by_side = of(first, binary(Operation.ADD, FheType.UINT32))
    assert chain.cost == side_by_side.cost
    assert chain.path == 2 * side_by_side.path
