"""What a batch costs at most, and whether saying so takes long."""

from __future__ import annotations

from coproc.program import costs
from coproc.program.computation import Computation, Operation, Scalar
from coproc.program.costs import FEW, cost_of, is_quick
from coproc.program.types import FheType, new_handle


def chain(operation: Operation, count: int) -> list[Computation]:
    first, second = (new_handle(FheType.UINT8) for _ in range(2))
    made: list[Computation] = []
    for _ in range(count):
        made.append(Computation(new_handle(FheType.UINT8), operation, (first, second), is_allowed=True))
        first = made[-1].output
    return made


def test_an_estimate_is_quick_once_its_operations_have_been_counted() -> None:
    costs._COUNTS.clear()  # as in a new process
    batch = chain(Operation.BIT_AND, 3)
    assert not is_quick(batch)
    one, three = cost_of(batch[:1]), cost_of(batch)
    assert (three.bootstraps, three.depth) == (3 * one.bootstraps, 3)
    assert one.bootstraps > 0
    assert is_quick(batch)
    assert not is_quick(chain(Operation.BIT_AND, FEW + 1)), "however quick each is"
    assert not is_quick([*batch, *chain(Operation.MUL, 1)])
    trivial = Computation(new_handle(FheType.UINT8), Operation.TRIVIAL_ENCRYPT, (Scalar(b"1"),), is_allowed=True)
    assert is_quick([trivial])
