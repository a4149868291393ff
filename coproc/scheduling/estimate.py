"""What a group will cost, roughly: good enough to order and size batches, made before anything is planned.

Decides weights; knows nothing of circuits. Real counts come from planning. A weight says how the bootstraps and the
levels of an operation grow with the number ``b`` of 2-bit blocks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from coproc.program.computation import Operation
from coproc.program.types import handle_type

if TYPE_CHECKING:
    from coproc.program.types import Handle
    from coproc.store.base import WorkGroup


@dataclass(frozen=True, slots=True)
class Estimate:
    """Estimated size of a group."""

    cost: int
    """Bootstraps."""
    path: int
    """Levels of the longest chain."""


@dataclass(frozen=True, slots=True)
class _Weight:
    per_block: float
    per_block_squared: float = 0.0
    levels: float = 1.0
    levels_per_doubling: float = 0.0
    levels_per_block: float = 0.0


_LINEAR: Final = _Weight(1.0)
_CARRIES: Final = _Weight(3.0, levels=2.0, levels_per_doubling=1.0)
_COMPARISON: Final = _Weight(1.5, levels=1.0, levels_per_doubling=1.0)
_PRODUCT: Final = _Weight(4.0, 1.5, levels=3.0, levels_per_doubling=2.0)
_QUOTIENT: Final = _Weight(8.0, 12.0, levels=2.0, levels_per_block=10.0)
_SHIFT: Final = _Weight(2.0, levels=2.0, levels_per_doubling=1.0)
_WEIGHTS: Final = {
    **dict.fromkeys((Operation.ADD, Operation.SUB, Operation.NEG, Operation.SUM), _CARRIES),
    **dict.fromkeys((Operation.MUL,), _PRODUCT),
    **dict.fromkeys((Operation.DIV, Operation.REM, Operation.MUL_DIV), _QUOTIENT),
    **dict.fromkeys((Operation.SHL, Operation.SHR, Operation.ROTL, Operation.ROTR), _SHIFT),
    **dict.fromkeys((Operation.EQ, Operation.NE, Operation.GE, Operation.GT, Operation.LE, Operation.LT), _COMPARISON),
    **dict.fromkeys((Operation.MIN, Operation.MAX, Operation.IS_IN), _CARRIES),
    Operation.TRIVIAL_ENCRYPT: _Weight(0.0, levels=0.0),
}


def estimate(work: WorkGroup) -> Estimate:
    """Estimate a group; computations come with producers before consumers."""
    cost = 0.0
    depth: dict[Handle, float] = {}
    for computation in work.computations:
        widths = [handle_type(handle).blocks for handle in (computation.output, *computation.inputs)]
        blocks, doublings = max(widths), max(widths).bit_length() - 1
        weight = _WEIGHTS.get(computation.operation, _LINEAR)
        repeats = max(1, len(computation.inputs) - 1)
        cost += repeats * (weight.per_block * blocks + weight.per_block_squared * blocks**2)
        own = weight.levels + weight.levels_per_doubling * doublings + weight.levels_per_block * blocks
        depth[computation.output] = own + max((depth.get(handle, 0.0) for handle in computation.inputs), default=0.0)
    return Estimate(cost=max(1, round(cost)), path=round(max(depth.values(), default=0.0)))
