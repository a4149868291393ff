"""Runs are wide enough to fill the lanes, and short enough to let narrow levels through."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coproc.executors.sharing import LEAST_ROUNDS, MOST_ROUNDS, run_width, shares

WAITING = st.lists(st.integers(1, 40_000), min_size=1, max_size=12)
LANES = st.sampled_from([1, 2, 3, 8, 64])


@given(waiting=WAITING, elsewhere=st.lists(st.integers(1, 40_000), max_size=4), lanes=LANES)
def test_every_run_goes_on_fills_its_rounds_and_ends_soon(waiting: list[int], elsewhere: list[int], lanes: int) -> None:
    width = run_width([*waiting, *elsewhere], lanes)
    granted = shares(waiting, width, lanes)
    assert all(0 <= share <= left for share, left in zip(granted, waiting, strict=True))
    assert granted[0] > 0, "what has waited longest goes on"
    assert LEAST_ROUNDS * lanes <= width <= MOST_ROUNDS * lanes
    assert sum(granted) <= width
    if len(waiting) > 1:
        assert sum(granted) < lanes or sum(granted) % lanes == 0
        assert sum(granted) + lanes > min(sum(waiting), width), "less than a round is put off"
    else:
        assert granted[0] == min(waiting[0], width), "one alone waits for nobody"


@settings(deadline=None)
@given(waiting=st.lists(st.integers(1, 4_000), min_size=1, max_size=12), lanes=LANES)
def test_nobody_waits_for_ever(waiting: list[int], lanes: int) -> None:
    """Played on with levels that go to the end of the queue once they have run, each as wide as before."""
    queue = [[number, width] for number, width in enumerate(waiting)]
    ended = dict.fromkeys(range(len(waiting)), 0)
    most = 2 + len(waiting) * (2 + 2 * sum(waiting) // (LEAST_ROUNDS * lanes))
    for _ in range(most):
        left = [width for _, width in queue]
        for entry, share in zip(queue.copy(), shares(left, run_width(left, lanes), lanes), strict=True):
            entry[1] -= share
            if not entry[1]:
                ended[entry[0]] += 1
                queue.remove(entry)
                queue.append([entry[0], waiting[entry[0]]])
        if min(ended.values()):
            break
    assert min(ended.values()) > 0


@pytest.mark.parametrize(
    ("waiting", "lanes", "expected"),
    [
        ([3], 2, [3]),
        ([5_000], 2, [256]),
        ([20, 20], 16, [20, 12]),
        ([146, 146], 2, [128, 128]),
        ([40, 40], 64, [40, 24]),
        ([5_000, 5], 2, [15, 5]),
        ([5_000, 5, 3_000], 2, [12, 5, 13]),
        ([12] * 8, 64, [12, 12, 12, 12, 12, 4, 0, 0]),
        ([1, 1], 64, [1, 1]),
    ],
)
def test_shares(waiting: list[int], lanes: int, expected: list[int]) -> None:
    assert shares(waiting, run_width(waiting, lanes), lanes) == expected
