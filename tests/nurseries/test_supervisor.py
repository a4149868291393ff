"""Restart policies, backoff, budget and the order of stopping, all under the mock clock."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from coproc.errors import FatalError
from nurseries.supervisor import (
    ActorStopped,
    Backoff,
    Child,
    ChildState,
    CrashBudget,
    CrashBudgetExceeded,
    Restart,
    StartFailed,
    Strategy,
    Supervisor,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

pytestmark = pytest.mark.usefixtures("autojump_clock")


class Diary:
    """Writes down what actors do, with the time."""

    def __init__(self) -> None:
        self.entries: list[tuple[float, str]] = []
        self.began = trio.current_time()

    def note(self, what: str) -> None:
        self.entries.append((round(trio.current_time() - self.began, 6), what))

    @property
    def words(self) -> list[str]:
        return [what for _, what in self.entries]

    def actor(self, name: str, crashes_after: Sequence[float | None] = ()) -> Actor:
        return Actor(self, name, crashes_after)


class Actor:
    """Runs for the times given (None, or the list at its end: for ever), then crashes."""

    def __init__(self, diary: Diary, name: str, lives: Sequence[float | None]) -> None:
        self.diary, self.name, self.lives = diary, name, list(lives)
        self.stopping = trio.Event()
        self.slow_stop = 0.0

    async def run(self, *, task_status: trio.TaskStatus[object]) -> None:
        self.diary.note(f"{self.name} up")
        task_status.started()
        life = self.lives.pop(0) if self.lives else None
        try:
            with trio.move_on_after(life if life is not None else float("inf")) as scope:
                await self.stopping.wait()
                await trio.sleep(self.slow_stop)
            if scope.cancelled_caught:
                raise ValueError(self.name)
        finally:
            self.diary.note(f"{self.name} down")


@pytest.fixture
async def diary() -> Diary:
    await trio.lowlevel.checkpoint()
    return Diary()


def no_jitter() -> float:
    return 0.0


async def stop_after(seconds: float, supervisor: Supervisor) -> None:
    await trio.sleep(seconds)
    supervisor.request_stop()


async def test_children_start_in_order_and_stop_in_reverse(diary: Diary, nursery: trio.Nursery) -> None:
    actors = [diary.actor(name) for name in "abc"]
    supervisor = Supervisor("tree", [Child(actor.name, actor.run, stop=actor.stopping.set) for actor in actors])
    await nursery.start(supervisor.run)
    assert supervisor.healthy
    assert [status.state for status in supervisor.status] == [ChildState.RUNNING] * 3
    supervisor.request_stop()
    await trio.testing.wait_all_tasks_blocked()
    assert diary.words == ["a up", "b up", "c up", "c down", "b down", "a down"]


async def test_each_stage_has_its_own_grace(diary: Diary, nursery: trio.Nursery) -> None:
    actors = [diary.actor(name) for name in "abc"]
    actors[0].slow_stop, actors[1].slow_stop, actors[2].slow_stop = 1.0, 100.0, 2.0
    children = [Child(actor.name, actor.run, stop=actor.stopping.set, stop_grace=5.0) for actor in actors]
    supervisor = Supervisor("tree", children)
    await nursery.start(supervisor.run)
    supervisor.request_stop()
    await trio.sleep(20)
    assert diary.entries[3:] == [(2.0, "c down"), (7.0, "b down"), (8.0, "a down")]


async def test_backoff_grows_and_only_the_crashed_one_restarts(diary: Diary, nursery: trio.Nursery) -> None:
    steady, flaky = diary.actor("steady"), diary.actor("flaky", [1.0, 1.0, 1.0])
    supervisor = Supervisor(
        "tree",
        [Child("flaky", flaky.run), Child("steady", steady.run)],
        backoff=Backoff(initial=0.1, factor=2.0, maximum=0.3),
        chance=no_jitter,
    )
    await nursery.start(supervisor.run)
    await trio.sleep(10)
    ups = [when for when, what in diary.entries if what == "flaky up"]
    assert ups == pytest.approx([0.0, 1.1, 2.3, 3.6])
    assert diary.words.count("steady up") == 1
    assert [status.restarts for status in supervisor.status] == [3, 0]
    assert supervisor.status[0].error == "ValueError: flaky"
    nursery.cancel_scope.cancel()


async def test_backoff_starts_afresh_after_a_long_life(diary: Diary, nursery: trio.Nursery) -> None:
    flaky = diary.actor("flaky", [1.0, 1.0, 100.0])
    supervisor = Supervisor(
        "tree",
        [Child("flaky", flaky.run)],
        backoff=Backoff(initial=1.0, factor=10.0, maximum=50.0),
        budget=CrashBudget(5, 60.0),
        chance=no_jitter,
    )
    await nursery.start(supervisor.run)
    await trio.sleep(200)
    ups = [when for when, what in diary.entries if what == "flaky up"]
    assert ups == pytest.approx([0.0, 2.0, 13.0, 114.0])
    nursery.cancel_scope.cancel()


def test_jitter_only_shortens() -> None:
    backoff = Backoff(initial=1.0, factor=2.0, maximum=6.0, jitter=0.5)
    assert [backoff.delay(n, 0.0) for n in range(4)] == [1.0, 2.0, 4.0, 6.0]
    assert [backoff.delay(n, 1.0) for n in range(4)] == [0.5, 1.0, 2.0, 3.0]
    assert backoff.delay(10**9, 0.0) == 6.0


async def test_the_budget_stops_the_tree_in_order(diary: Diary) -> None:
    steady, flaky, late = diary.actor("steady"), diary.actor("flaky", [1.0] * 9), diary.actor("late")
    supervisor = Supervisor(
        "tree",
        [Child("steady", steady.run), Child("flaky", flaky.run), Child("late", late.run)],
        budget=CrashBudget(2, 60.0),
        chance=no_jitter,
    )
    with pytest.raises(CrashBudgetExceeded, match="flaky crashed 3 times"):
        await supervisor.run()
    assert diary.words.count("flaky up") == 3
    assert diary.words[-2:] == ["late down", "steady down"]


async def test_crashes_that_are_far_apart_cost_nothing(diary: Diary, nursery: trio.Nursery) -> None:
    flaky = diary.actor("flaky", [30.0] * 20)
    supervisor = Supervisor("tree", [Child("flaky", flaky.run)], budget=CrashBudget(2, 50.0), chance=no_jitter)
    await nursery.start(supervisor.run)
    await trio.sleep(1000)
    assert supervisor.status[0].restarts == 20
    nursery.cancel_scope.cancel()


async def test_rest_for_one_restarts_what_depends_on_the_crashed(diary: Diary, nursery: trio.Nursery) -> None:
    actors = [diary.actor("a"), diary.actor("b", [1.0]), diary.actor("c"), diary.actor("d")]
    supervisor = Supervisor(
        "tree",
        [Child(actor.name, actor.run) for actor in actors],
        strategy=Strategy.REST_FOR_ONE,
        chance=no_jitter,
    )
    await nursery.start(supervisor.run)
    await trio.sleep(5)
    assert diary.words == [
        *("a up", "b up", "c up", "d up"),
        *("b down", "d down", "c down"),
        *("b up", "c up", "d up"),
    ]
    assert supervisor.healthy
    nursery.cancel_scope.cancel()


async def test_an_elder_crash_during_backoff_comes_first(diary: Diary, nursery: trio.Nursery) -> None:
    actors = [diary.actor("a", [1.5]), diary.actor("b", [1.0]), diary.actor("c")]
    supervisor = Supervisor(
        "tree",
        [Child(actor.name, actor.run) for actor in actors],
        strategy=Strategy.REST_FOR_ONE,
        backoff=Backoff(initial=1.0),
        chance=no_jitter,
    )
    await nursery.start(supervisor.run)
    await trio.sleep(20)
    assert diary.entries[3:] == [
        *((1.0, "b down"), (1.0, "c down"), (1.5, "a down")),
        *((3.5, "a up"), (3.5, "b up"), (3.5, "c up")),
    ]
    nursery.cancel_scope.cancel()


async def test_a_failing_restart_counts_and_is_tried_again(nursery: trio.Nursery) -> None:
    starts = 0

    async def moody(*, task_status: trio.TaskStatus[object]) -> None:
        nonlocal starts
        starts += 1
        if starts in {2, 3}:
            raise OSError("port in use")
        task_status.started()
        if starts == 1:
            raise ValueError("crash")
        await trio.sleep_forever()

    supervisor = Supervisor("tree", [Child("moody", moody)], chance=no_jitter)
    await nursery.start(supervisor.run)
    await trio.sleep(5)
    assert starts == 4
    assert supervisor.healthy
    assert supervisor.status[0].restarts == 3
    nursery.cancel_scope.cancel()


async def test_a_first_start_that_fails_is_fatal_and_unwinds(diary: Diary) -> None:
    async def broken(*, task_status: trio.TaskStatus[object]) -> None:  # noqa: ARG001 - an actor that never starts
        raise OSError("no such port")

    first, never = diary.actor("first"), diary.actor("never")
    supervisor = Supervisor("tree", [Child("first", first.run), Child("broken", broken), Child("never", never.run)])
    with pytest.raises(StartFailed, match="no such port") as caught:
        await supervisor.run()
    assert caught.value.__cause__ is not None
    assert diary.words == ["first up", "first down"]


async def test_a_start_that_takes_too_long_fails() -> None:
    async def sleepy(*, task_status: trio.TaskStatus[object]) -> None:  # noqa: ARG001 - an actor that never starts
        await trio.sleep_forever()

    began = trio.current_time()
    with pytest.raises(StartFailed, match="not started after 3 s"):
        await Supervisor("tree", [Child("sleepy", sleepy, start_timeout=3.0)]).run()
    assert trio.current_time() == began + 3


@pytest.mark.parametrize(
    ("policy", "fails", "restarted"),
    [
        (Restart.PERMANENT, False, True),
        (Restart.PERMANENT, True, True),
        (Restart.TRANSIENT, False, False),
        (Restart.TRANSIENT, True, True),
        (Restart.TEMPORARY, False, False),
        (Restart.TEMPORARY, True, False),
    ],
)
async def test_restart_policies(policy: Restart, fails: bool, restarted: bool, nursery: trio.Nursery) -> None:  # noqa: FBT001 - a table of cases
    starts = 0

    async def brief(*, task_status: trio.TaskStatus[object]) -> None:
        nonlocal starts
        starts += 1
        task_status.started()
        await trio.sleep(1)
        if starts > 1:
            await trio.sleep_forever()
        if fails:
            raise ValueError("crash")

    supervisor = Supervisor("tree", [Child("brief", brief, restart=policy)])
    await nursery.start(supervisor.run)
    await trio.sleep(10)
    assert starts == (2 if restarted else 1)
    failed_for_good = fails and not restarted
    assert supervisor.healthy is not failed_for_good
    supervisor.request_stop()


async def test_fatal_stops_everything_in_order_and_goes_up(diary: Diary) -> None:
    async def doomed(*, task_status: trio.TaskStatus[object]) -> None:
        task_status.started()
        async with trio.open_nursery() as inner:
            inner.start_soon(trio.sleep_forever)
            await trio.sleep(1)
            raise FatalError("the disk is gone")

    first, last = diary.actor("first"), diary.actor("last")
    children = [Child("first", first.run), Child("doomed", doomed), Child("last", last.run)]
    with pytest.raises(ActorStopped, match="the disk is gone"):
        await Supervisor("tree", children).run()
    assert diary.entries[-2:] == [(1.0, "last down"), (1.0, "first down")]


async def test_a_supervisor_is_an_actor(diary: Diary, nursery: trio.Nursery) -> None:
    flaky, sibling = diary.actor("flaky", [1.0] * 3), diary.actor("sibling")
    inner = Supervisor("inner", [Child("flaky", flaky.run)], budget=CrashBudget(1, 60.0), chance=no_jitter)
    outer = Supervisor(
        "outer",
        [Child("sibling", sibling.run), Child("inner", inner.run, stop=inner.request_stop)],
        chance=no_jitter,
    )
    with pytest.raises(ActorStopped, match="flaky crashed"):
        await outer.run()
    assert diary.words.count("flaky up") == 2
    assert diary.words[-1] == "sibling down"

    calm = diary.actor("calm")
    inner = Supervisor("inner", [Child("calm", calm.run)])
    outer = Supervisor("outer", [Child("inner", inner.run, stop=inner.request_stop)])
    await nursery.start(outer.run)
    outer.request_stop()
    await trio.testing.wait_all_tasks_blocked()
    assert diary.words[-2:] == ["calm up", "calm down"]


async def test_cancellation_ends_everything_at_once(diary: Diary) -> None:
    actors = [diary.actor(name) for name in "ab"]
    supervisor = Supervisor("tree", [Child(actor.name, actor.run, stop=actor.stopping.set) for actor in actors])
    with trio.move_on_after(1):
        await supervisor.run()
    assert sorted(diary.entries[2:]) == [(1.0, "a down"), (1.0, "b down")]


async def test_stop_during_backoff_does_not_wait_for_it(diary: Diary, nursery: trio.Nursery) -> None:
    flaky = diary.actor("flaky", [1.0])
    supervisor = Supervisor("tree", [Child("flaky", flaky.run)], backoff=Backoff(initial=50.0, maximum=50.0))
    nursery.start_soon(stop_after, 2.0, supervisor)
    await supervisor.run()
    assert trio.current_time() == diary.began + 2


async def test_a_stop_asked_for_while_starting_starts_no_more(diary: Diary) -> None:
    supervisor: Supervisor

    async def stopper(*, task_status: trio.TaskStatus[object]) -> None:
        supervisor.request_stop()
        task_status.started()
        await trio.sleep_forever()

    never = diary.actor("never")
    supervisor = Supervisor("tree", [Child("stopper", stopper), Child("never", never.run)])
    await supervisor.run()
    assert diary.words == []


async def test_changes_are_reported(diary: Diary) -> None:
    seen: list[str] = []
    flaky = diary.actor("flaky", [1.0])
    watch: Callable[[str], None] = seen.append
    supervisor = Supervisor(
        "tree",
        [Child("flaky", flaky.run)],
        on_change=lambda status: watch(status.state.value),
        chance=no_jitter,
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stop_after, 5.0, supervisor)
        await supervisor.run()
    assert seen == ["starting", "running", "failed", "backoff", "starting", "running", "stopping", "finished"]


def test_names_must_differ() -> None:
    async def idle(*, task_status: trio.TaskStatus[object]) -> None:
        task_status.started()

    with pytest.raises(ValueError, match="share a name"):
        Supervisor("tree", [Child("a", idle), Child("a", idle)])
