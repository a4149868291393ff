"""How many bootstraps of each waiting level run next, where levels of several jobs run as one.

Decides the width of a run and the share of each job in it: a pure function of what waits. It must not know executors,
keys, tasks nor time.

- A level is cut where it would hold others up. One job alone gets long runs, cut only so that newcomers need not wait
  for the end of a very wide level; the narrower the levels that wait beside it are, the shorter its runs get.
- Shares are equal, but nobody gets more than it has: a narrow level runs whole, wide ones divide the rest.
- What would begin another round without filling it waits for the next run, where other levels fill it up; the level
  that has waited longest is the last to be shortened.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

MOST_ROUNDS: Final = 128
"""Bootstraps on each lane in one run, at most: with real parameters less than a second."""
LEAST_ROUNDS: Final = 8
"""Bootstraps on each lane for which a run may always last: a batch of so many takes less than a tenth longer for each
of them than the largest, and shorter ones much longer."""


EQUAL_SHARES: Final = 2
"""How many equal shares of the narrowest level one run may have: with one, levels that are about as narrow would cut
wider ones into runs that leave batches unfilled."""


def run_width(waiting: Sequence[int], lanes: int) -> int:
    """Return how many bootstraps one run may have.

    Args:
        waiting: bootstraps left in every level that waits, whatever its key.
        lanes: bootstraps that run at the same time.
    """
    if len(waiting) == 1:
        return MOST_ROUNDS * lanes
    return min(MOST_ROUNDS * lanes, max(LEAST_ROUNDS * lanes, EQUAL_SHARES * len(waiting) * min(waiting)))


def shares(waiting: Sequence[int], width: int, lanes: int) -> list[int]:
    """Divide one run among levels under one key.

    Args:
        waiting: bootstraps left in each level, at least 1, the level that has waited longest first.
        width: bootstraps of the run, at most.
        lanes: bootstraps that run at the same time.

    Returns:
        Bootstraps of each level in this run; some may be 0, not all.
    """
    granted = _divide(waiting, width)
    if len(waiting) > 1 and sum(granted) > lanes:
        surplus = sum(granted) % lanes
        for place in reversed(range(len(granted))):
            taken = min(surplus, granted[place])
            granted[place] -= taken
            surplus -= taken
    return granted


def _divide(waiting: Sequence[int], width: int) -> list[int]:
    """Give everyone the same, but nobody more than it has, the narrowest first."""
    granted = [0] * len(waiting)
    left, open_shares = width, len(waiting)
    for place in sorted(range(len(waiting)), key=waiting.__getitem__):
        granted[place] = min(waiting[place], -(-left // open_shares))
        left -= granted[place]
        open_shares -= 1
    return granted
