"""How the queue and the throughput went over time, in bounded memory.

Decides what is kept of a reading (rates of counters over an interval, gauges at its end), for how long, and how
intervals are put together for a longer look back. Pure: it is given readings and takes none.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from coproc.store.base import State

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from coproc.health.report import ExecutorReport, HealthReport
    from coproc.store.overview import QueueEntry

Span: TypeAlias = Literal["short", "long"]
SHORT_POINTS: Final = 300
"""Ten minutes of readings every two seconds."""
LONG_POINTS: Final = 1440
LONG_SECONDS: Final = 60.0
"""A day of minutes."""


@dataclass(frozen=True, slots=True)
class Backlog:
    """Open work of all processes, as the database has it."""

    waiting: int
    ready: int
    computing: int
    """Groups by state."""
    bootstraps: int | None
    """Estimated cost of what is ready or computed."""
    oldest_seconds: float | None
    sequence: int
    """Results told of so far."""


@dataclass(frozen=True, slots=True)
class Reading:
    """Counters and gauges at one moment."""

    at: float
    """Seconds since 1970."""
    clock: float
    """Seconds of a clock that nobody sets."""
    executors: Mapping[str, ExecutorReport]
    groups_done: float
    groups_failed: float
    lag: float
    """Seconds by which the event loop is late."""
    backlog: Backlog | None
    """None: the database did not answer."""


@dataclass(frozen=True, slots=True)
class Point:
    """What happened in one interval."""

    at: float
    """When it ended, in seconds since 1970."""
    seconds: float
    done: float
    failed: float
    """Groups that this process finished."""
    lag: float
    """The worst."""
    waiting: int | None = None
    ready: int | None = None
    computing: int | None = None
    bootstraps: int | None = None
    oldest: float | None = None
    """The backlog at its largest; None: not known."""
    results: int | None = None
    """Results of all processes."""
    computed: dict[str, int] = field(default_factory=dict[str, int])
    """Bootstraps by executor of this process."""
    busy: dict[str, float] = field(default_factory=dict[str, float])
    """Seconds, by executor of this process."""


def read(at: float, clock: float, lag: float, report: HealthReport, backlog: Backlog | None) -> Reading:
    """Take from a report what is kept."""
    numbers = report.numbers
    return Reading(
        at,
        clock,
        {executor.name: executor for executor in report.executors},
        numbers.get("groups_done_total", 0),
        numbers.get("groups_failed_total", 0),
        lag,
        backlog,
    )


def sum_up(queue: Iterable[QueueEntry], sequence: int) -> Backlog:
    """Add tenants together."""
    groups = dict.fromkeys(State, 0)
    bootstraps: list[int] = []
    ages: list[float] = []
    for entry in queue:
        groups[entry.state] += entry.groups
        bootstraps += [] if entry.bootstraps is None else [entry.bootstraps]
        ages += [] if entry.oldest_seconds is None else [entry.oldest_seconds]
    return Backlog(
        groups[State.WAITING],
        groups[State.READY],
        groups[State.COMPUTING],
        sum(bootstraps) if bootstraps else None,
        max(ages, default=None),
        sequence,
    )


class History:
    """The latest intervals twice: short ones of the last minutes, long ones of the last day."""

    def __init__(
        self, *, short: int = SHORT_POINTS, long: int = LONG_POINTS, long_seconds: float = LONG_SECONDS
    ) -> None:
        self._points: dict[Span, deque[Point]] = {"short": deque(maxlen=short), "long": deque(maxlen=long)}
        self._long_seconds = long_seconds
        self._before: Reading | None = None
        self._growing: Point | None = None

    def add(self, reading: Reading) -> None:
        """Note what happened since the reading before; the first one only starts the counting."""
        before, self._before = self._before, reading
        if before is None or reading.clock <= before.clock:
            return
        point = _between(before, reading)
        self._points["short"].append(point)
        grown = point if self._growing is None else _together(self._growing, point)
        if grown.seconds >= self._long_seconds:
            self._points["long"].append(grown)
            self._growing = None
        else:
            self._growing = grown

    def points(self, span: Span, after: float = 0.0) -> Sequence[Point]:
        """Intervals that ended after a time, oldest first."""
        return [point for point in self._points[span] if point.at > after]


def _between(before: Reading, now: Reading) -> Point:
    backlog, earlier = now.backlog, before.backlog
    point = Point(
        now.at,
        now.clock - before.clock,
        _risen(before.groups_done, now.groups_done),
        _risen(before.groups_failed, now.groups_failed),
        now.lag,
        computed={
            name: int(_risen(before.executors[name].bootstraps if name in before.executors else 0, report.bootstraps))
            for name, report in now.executors.items()
        },
        busy={
            name: _risen(before.executors[name].busy_seconds if name in before.executors else 0.0, report.busy_seconds)
            for name, report in now.executors.items()
        },
    )
    if backlog is None:
        return point
    return replace(
        point,
        waiting=backlog.waiting,
        ready=backlog.ready,
        computing=backlog.computing,
        bootstraps=backlog.bootstraps,
        oldest=backlog.oldest_seconds,
        # After the database was away, what happened meanwhile belongs to no interval.
        results=None if earlier is None else max(0, backlog.sequence - earlier.sequence),
    )


def _risen(before: float, now: float) -> float:
    """Tell by how much a counter has risen; one that was set back started at 0."""
    return now - before if now >= before else now


def _together(first: Point, second: Point) -> Point:
    """Put two intervals together that follow each other."""
    return Point(
        second.at,
        first.seconds + second.seconds,
        first.done + second.done,
        first.failed + second.failed,
        max(first.lag, second.lag),
        _known(max, first.waiting, second.waiting),
        _known(max, first.ready, second.ready),
        _known(max, first.computing, second.computing),
        _known(max, first.bootstraps, second.bootstraps),
        _oldest(first.oldest, second.oldest),
        _known(lambda one, other: one + other, first.results, second.results),
        {name: first.computed.get(name, 0) + second.computed.get(name, 0) for name in first.computed | second.computed},
        {name: first.busy.get(name, 0.0) + second.busy.get(name, 0.0) for name in first.busy | second.busy},
    )


def _known(join: Callable[[int, int], int], one: int | None, other: int | None) -> int | None:
    if one is None or other is None:
        return other if one is None else one
    return join(one, other)


def _oldest(one: float | None, other: float | None) -> float | None:
    return max((age for age in (one, other) if age is not None), default=None)
