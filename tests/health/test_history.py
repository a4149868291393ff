"""The history keeps what happened, in bounded memory, whatever counters do."""

from __future__ import annotations

import pytest

from coproc.health.history import Backlog, History, Reading, read, sum_up
from coproc.health.report import ExecutorReport, HealthReport
from coproc.store.base import State
from coproc.store.overview import QueueEntry


def executor(bootstraps: int, busy: float, name: str = "cpu") -> ExecutorReport:
    return ExecutorReport(name, 3, 1, 0, 0, 0, bootstraps, busy)


def reading(clock: float, bootstraps: int = 0, *, sequence: int | None = 0, groups: int = 0, done: int = 0) -> Reading:
    report = HealthReport(
        started=True,
        ready=True,
        draining=False,
        numbers={"groups_done_total": done},
        executors=(executor(bootstraps, clock / 2),),
    )
    backlog = None if sequence is None else Backlog(0, groups, 1, 12, 3.0, sequence)
    return read(1000.0 + clock, clock, 0.01, report, backlog)


def test_the_first_reading_only_starts_the_counting() -> None:
    history = History()
    history.add(reading(0.0, 500, sequence=7))
    assert not history.points("short")
    history.add(reading(2.0, 600, sequence=10, groups=4, done=3))
    (point,) = history.points("short")
    assert (point.at, point.seconds, point.results, point.done) == (1002.0, 2.0, 3, 3)
    assert (point.computed, point.busy) == ({"cpu": 100}, {"cpu": 1.0})
    assert (point.waiting, point.ready, point.computing, point.bootstraps, point.oldest) == (0, 4, 1, 12, 3.0)


def test_a_counter_that_is_set_back_started_anew() -> None:
    history = History()
    history.add(reading(0.0, 500, done=9))
    history.add(reading(2.0, 30, done=2))
    (point,) = history.points("short")
    assert (point.computed, point.done) == ({"cpu": 30}, 2)


def test_an_executor_that_comes_later_counts_from_nothing() -> None:
    history = History()
    report = HealthReport(started=True, ready=True, draining=False)
    history.add(read(0.0, 0.0, 0.0, report, None))
    history.add(reading(2.0, 40))
    assert history.points("short")[0].computed == {"cpu": 40}


def test_while_the_database_is_away_nothing_is_known_of_it() -> None:
    history = History()
    for clock, sequence in ((0.0, 5), (2.0, None), (4.0, 500), (6.0, 503)):
        history.add(reading(clock, sequence=sequence))
    assert [point.results for point in history.points("short")] == [None, None, 3]
    assert [point.ready for point in history.points("short")] == [None, 0, 0]


def test_long_intervals_add_up_and_keep_the_peak() -> None:
    history = History(long_seconds=6.0)
    for number in range(7):
        history.add(reading(2.0 * number, 10 * number, sequence=number if number != 2 else None, groups=number % 4))
    first, second = history.points("long")
    assert (first.at, first.seconds, second.at) == (1006.0, 6.0, 1012.0)
    assert (first.computed, second.computed) == ({"cpu": 30}, {"cpu": 30})
    assert (first.ready, second.ready) == (3, 2)
    assert (first.results, second.results) == (1, 3)
    assert first.busy == {"cpu": pytest.approx(3.0)}


def test_memory_is_bounded_and_what_is_known_is_not_told_again() -> None:
    history = History(short=5, long=2, long_seconds=4.0)
    for number in range(50):
        history.add(reading(2.0 * number))
    assert len(history.points("short")) == 5
    assert len(history.points("long")) == 2
    newest = history.points("short")[-1].at
    assert history.points("short", newest - 2.0) == [history.points("short")[-1]]
    assert not history.points("short", newest)


def test_a_clock_that_stands_still_makes_no_interval() -> None:
    history = History()
    for _ in range(3):
        history.add(reading(1.0))
    assert not history.points("short")


def test_tenants_are_added_up() -> None:
    entries = [
        QueueEntry(None, State.READY, 2, 10, 1.0),
        QueueEntry("a", State.READY, 3, 5, 4.0),
        QueueEntry("a", State.WAITING, 7, None, 2.0),
        QueueEntry("b", State.COMPUTING, 1, 1, None),
    ]
    assert sum_up(entries, 9) == Backlog(7, 5, 1, 16, 4.0, 9)
    assert sum_up([], 0) == Backlog(0, 0, 0, None, None, 0)
