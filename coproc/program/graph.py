"""The order of a batch: producers before consumers.

Decides whether a batch of computations is a graph without cycles in which every output is defined once; pure.
"""

from __future__ import annotations

from graphlib import CycleError, TopologicalSorter
from typing import TYPE_CHECKING

from coproc.errors import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Sequence

    from coproc.program.computation import Computation
    from coproc.program.types import Handle


def order(computations: Sequence[Computation], field: str) -> tuple[Computation, ...]:
    """Sort a batch so that every producer comes before its consumers; what needs no move keeps its place.

    The same computation twice is kept once (allowed if either is).

    Raises:
        InvalidInput: if an output is defined in two ways or depends on itself.
    """
    defined: dict[Handle, Computation] = {}
    position: dict[Handle, int] = {}
    for index, item in enumerate(computations):
        known = defined.setdefault(item.output, item)
        position.setdefault(item.output, index)
        if known is item:
            continue
        if (known.operation, known.operands) != (item.operation, item.operands):
            raise InvalidInput(
                f"{field}[{index}].output_handle",
                f"is defined differently by {field}[{position[item.output]}]",
            )
        if item.is_allowed:
            defined[item.output] = item
    sorter = TopologicalSorter(
        {handle: [source for source in item.inputs if source in defined] for handle, item in defined.items()},
    )
    try:
        sorter.prepare()
    except CycleError as error:
        index = min(position[handle] for handle in error.args[1])
        raise InvalidInput(f"{field}[{index}].output_handle", "depends on itself") from error
    ordered: list[Computation] = []
    while sorter.is_active():
        ready = sorted(sorter.get_ready(), key=position.__getitem__)
        ordered += [defined[handle] for handle in ready]
        sorter.done(*ready)
    return tuple(ordered)
