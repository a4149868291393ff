"""The scheduler's rules, without a clock, a task or a store."""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace

import pytest

from coproc.errors import InvalidInput, RecoverableError
from coproc.resilience import FullJitter
from coproc.scheduling.core import next_time, offer, step
from coproc.scheduling.model import (
    NEVER,
    Action,
    Adopt,
    Cancel,
    Candidate,
    Claim,
    Claimed,
    ClaimFailed,
    Computed,
    Drain,
    Event,
    Fail,
    Given,
    HandBack,
    JobFailed,
    Policy,
    Release,
    Renew,
    Renewed,
    RenewFailed,
    Settled,
    Start,
    State,
    Tick,
    WorkEnded,
    WorkWaiting,
)
from coproc.store.base import WorkGroup
from coproc.store.rules import ATTEMPTS_EXHAUSTED

POLICY = Policy(capacity=8, jobs=1, batch_groups=4, batch_cost=100, window=0.1, backoff=FullJitter(1.0, 8.0))


def group(number: int, *, key: bytes = b"k", attempts: int = 0) -> WorkGroup:
    return WorkGroup(number, key, b"t", (), frozenset(), attempts)


def candidate(
    number: int, *, cost: int = 10, path: int = 1, tenant: bytes = b"T", key: bytes = b"k", attempts: int = 0
) -> Candidate:
    return Candidate(group(number, key=key, attempts=attempts), tenant, cost, path)


@dataclass
class Machine:
    """Feeds events and collects actions; groups came just before it begins, so that what comes is a crowd."""

    state: State = field(default_factory=lambda: State(POLICY, arrived_at=0.0))
    now: float = 0.0

    def feed(self, event: Event, *, at: float | None = None) -> list[Action]:
        self.now = self.now if at is None else at
        self.state, actions = step(self.state, event, self.now)
        return list(actions)

    def claimed(self, *groups: Candidate, at: float | None = None) -> list[Action]:
        """Take groups over, whether the core asked for so many or not, without the Claim that follows."""
        self.feed(WorkWaiting(), at=at)
        return [action for action in self.feed(Claimed(groups)) if not isinstance(action, Claim)]

    def idle(self) -> None:
        """Answer a claim in flight with nothing."""
        if self.state.claiming:
            self.feed(Claimed(()))


def started(actions: list[Action]) -> list[list[int]]:
    return [[work.group_id for work in action.groups] for action in actions if isinstance(action, Start)]


def test_it_claims_at_first_and_then_when_woken_or_when_it_is_time_to_poll() -> None:
    machine = Machine()
    assert machine.feed(Tick(), at=5.0) == [Claim(4)]
    assert machine.feed(WorkWaiting()) == []
    assert machine.feed(Claimed(())) == [Claim(4)], "that claim may have looked too early"
    assert machine.feed(Claimed(())) == []
    assert next_time(machine.state) > 5.0
    assert machine.feed(WorkWaiting(), at=5.5) == [Claim(4)]
    machine.feed(Claimed(()))
    poll = next_time(machine.state)
    assert 7.0 <= poll <= 10.0
    assert machine.feed(Tick(), at=poll) == [Claim(4)]


def idle() -> Machine:
    """Nothing is held, and nothing is known to be waiting."""
    machine = Machine(State(POLICY))
    machine.feed(Tick(), at=5.0)
    assert machine.feed(Claimed(())) == []
    return machine


def offered(machine: Machine) -> Machine:
    state = offer(machine.state, machine.now)
    assert state is not None
    machine.state = state
    return machine


def test_whoever_has_nothing_to_do_offers_to_take_what_is_being_stored() -> None:
    machine = offered(idle())
    assert offer(machine.state, machine.now) is None, "one offer at a time"
    assert machine.feed(Given((candidate(1),)), at=5.5) == [Start(1, (group(1),))]
    assert offer(machine.state, machine.now) is None, "there is work"
    machine.feed(Computed(1))
    machine.feed(Settled(1))
    offered(machine)
    assert machine.feed(Given(())) == []
    offered(machine)


def test_an_offer_keeps_nobody_from_claiming_and_puts_no_poll_off() -> None:
    machine = idle()
    poll = next_time(machine.state)
    offered(machine)
    assert machine.feed(WorkWaiting(), at=5.5) == [Claim(4)]
    assert machine.feed(Given((candidate(1),))) == [Start(1, (group(1),))]
    assert started(machine.feed(Claimed((candidate(2),)))) == []
    machine = offered(idle())
    machine.feed(Given(()), at=poll - 0.001)
    assert next_time(machine.state) == poll
    assert machine.feed(Tick(), at=poll) == [Claim(4)]


@pytest.mark.parametrize(
    "events", [[WorkWaiting()], [WorkWaiting(), ClaimFailed()], [WorkWaiting(), Claimed((candidate(1),))], [Drain()]]
)
def test_nothing_is_offered_while_there_may_be_something_else_to_do(events: list[Event]) -> None:
    machine = idle()
    for event in events:
        machine.feed(event)
    assert offer(machine.state, machine.now) is None


def test_a_drain_waits_for_what_was_offered_and_gives_it_back() -> None:
    machine = offered(idle())
    assert machine.feed(Drain()) == []
    assert not machine.state.is_drained
    assert machine.feed(Given((candidate(1),))) == [Release(frozenset({1}))]
    assert machine.state.is_drained
    machine = offered(idle())
    machine.feed(Drain())
    machine.feed(HandBack())
    assert machine.state.is_drained, "whoever comes later finds nobody"


def test_before_the_first_claim_and_when_one_is_due_nothing_is_offered() -> None:
    assert offer(State(POLICY), 5.0) is None
    machine = idle()
    assert offer(machine.state, next_time(machine.state)) is None


def test_what_is_given_to_whoever_has_become_busy_is_given_back() -> None:
    """But for what fits into its reserve."""
    machine = offered(idle())
    machine.feed(WorkWaiting(), at=5.5)
    assert started(machine.feed(Claimed(tuple(candidate(number) for number in range(4))))) == [[0, 1, 2, 3]]
    machine.feed(Tick(), at=5.5 + POLICY.deference)
    machine.idle()
    actions = machine.feed(Given(tuple(candidate(number) for number in (4, 5, 6))))
    assert [action for action in actions if isinstance(action, Release)] == [Release(frozenset({5, 6}))]
    assert [number for number, held in machine.state.held.items() if held.is_waiting] == [4]


def test_nothing_is_taken_beside_a_suspect() -> None:
    machine = offered(idle())
    machine.feed(WorkWaiting(), at=5.5)
    assert started(machine.feed(Claimed((candidate(1, attempts=1),)))) == [[1]]
    assert machine.feed(Given((candidate(2),))) == [Release(frozenset({2}))]
    machine.feed(WorkWaiting())
    assert machine.feed(Tick(), at=20.0) == [Renew(frozenset({1}))], "no claim before the suspect is through"
    machine.feed(Computed(1))
    assert machine.feed(Settled(1)) == [Claim(1)]


def test_what_ended_on_its_way_is_noticed_at_once() -> None:
    for answer in (Given((candidate(1),)), Claimed((candidate(1),))):
        machine = idle()
        if isinstance(answer, Given):
            offered(machine)
        else:
            machine.feed(WorkWaiting(), at=5.5)
        machine.feed(WorkEnded())
        assert machine.feed(answer) == [Start(1, (group(1),)), Renew(frozenset({1}))]


def test_what_ended_on_its_way_is_noticed_beside_other_work() -> None:
    """Even if a renewal is under way, and one comes back before."""
    machine = idle()
    machine.feed(WorkWaiting(), at=5.5)
    machine.feed(Claimed((candidate(1),)))
    machine.feed(Tick(), at=5.5 + POLICY.renew_seconds)
    assert machine.state.claiming
    assert machine.state.renewing
    machine.feed(WorkEnded())
    assert machine.feed(Renewed(frozenset({1}), frozenset({1}))) == [Renew(frozenset({1}))]
    machine.feed(Claimed((candidate(2),)))
    assert machine.feed(Renewed(frozenset({1}), frozenset({1}))) == [Renew(frozenset({1, 2}))]
    assert machine.feed(Renewed(frozenset({1, 2}), frozenset({1, 2}))) == []


def test_with_a_claim_under_way_no_more_is_taken_than_may_be_held() -> None:
    machine = Machine(State(replace(POLICY, capacity=6)))
    machine.feed(Tick(), at=5.0)
    machine.feed(Claimed(()))
    offered(machine)
    assert machine.feed(WorkWaiting(), at=5.5) == [Claim(4)]
    machine.feed(Given(tuple(candidate(number) for number in range(4))))
    machine.feed(Claimed(tuple(candidate(number) for number in range(10, 14))))
    assert sorted(machine.state.held) == [0, 1, 10, 11, 12, 13]


def test_claims_are_of_one_batch_and_leave_room_for_what_is_held() -> None:
    machine = Machine(State(replace(POLICY, capacity=6)))
    assert machine.feed(WorkWaiting()) == [Claim(4)]
    assert machine.feed(Claimed((candidate(0),))) == [Start(1, (group(0),))], "a lone one starts at once"
    assert machine.feed(Tick(), at=POLICY.deference) == [], "one came where four were wanted: there are no more"
    assert machine.feed(WorkWaiting()) == []
    assert machine.feed(Tick(), at=2 * POLICY.deference) == [Claim(1)], "a reserve, after those who have nothing to do"
    machine.feed(Claimed((candidate(1),)))
    assert machine.feed(WorkWaiting(), at=1.0) == [], "the reserve is full"
    assert machine.feed(Computed(1), at=2.0) == [Claim(3)], "what may fill the batch is asked for before it starts"
    assert next_time(machine.state) > 2.0, "there is nothing to do before the answer"
    actions = machine.feed(Claimed((candidate(2), candidate(3), candidate(4))), at=2.1)
    assert started(actions) == [[1, 2, 3, 4]]
    machine.feed(Tick(), at=2.1 + POLICY.deference)
    assert machine.feed(Claimed((candidate(5),))) == []
    assert not machine.state.claiming, "six are held, one of which is being stored"


def test_a_batch_does_not_wait_for_a_claim_that_fails_or_brings_too_little() -> None:
    for answer in (ClaimFailed(), Claimed(()), Claimed((candidate(9),))):
        machine = Machine()
        machine.claimed(*(candidate(number) for number in range(4)))
        machine.feed(Tick(), at=0.1)
        assert machine.feed(Claimed((candidate(4),)), at=0.2) == []
        assert machine.feed(Computed(1), at=1.0) == [Claim(3)]
        expected = [4, 9] if isinstance(answer, Claimed) and answer.groups else [4]
        begun = started(machine.feed(answer, at=1.01))
        assert begun == [expected]


def test_a_lone_group_starts_at_once_and_a_crowd_waits_for_company() -> None:
    machine = Machine(State(replace(POLICY, jobs=3)))
    assert started(machine.claimed(candidate(1), at=5.0)) == [[1]]
    machine.idle()
    assert started(machine.claimed(candidate(2), at=5.3)) == [], "others came 0.3 seconds before"
    machine.idle()
    assert next_time(machine.state) == pytest.approx(5.4)
    assert started(machine.feed(Tick(), at=5.4)) == [[2]]
    assert started(machine.claimed(candidate(3), at=5.9)) == [[3]], "nobody came for a while"


def test_a_failing_claim_backs_off_even_if_woken() -> None:
    machine = Machine()
    machine.feed(Tick(), at=0.0)
    assert machine.feed(ClaimFailed()) == []
    assert machine.feed(WorkWaiting()) == []
    assert next_time(machine.state) == 0.5
    machine.feed(Tick(), at=0.5)
    machine.feed(ClaimFailed())
    assert next_time(machine.state) == 1.5


def test_the_first_group_waits_for_company_and_a_full_batch_does_not() -> None:
    machine = Machine()
    assert started(machine.claimed(candidate(1), at=0.0)) == []
    machine.idle()
    assert next_time(machine.state) == 0.1
    assert started(machine.claimed(candidate(2), at=0.05)) == []
    machine.idle()
    assert started(machine.feed(Tick(), at=0.1)) == [[1, 2]]
    machine = Machine()
    assert started(machine.claimed(*(candidate(number) for number in range(4)))) == [[0, 1, 2, 3]]


def test_a_batch_is_bounded_by_cost_but_takes_one_group_of_any_size() -> None:
    machine = Machine()
    actions = machine.claimed(candidate(1, cost=1000, path=9), candidate(2, cost=60, path=8), candidate(3, cost=60))
    assert started(actions) == [[1]]
    assert started(machine.feed(Computed(1))) == [[2]]


def test_the_longest_critical_path_comes_first_until_patience_is_over() -> None:
    machine = Machine()
    machine.claimed(candidate(1, path=1), candidate(2, path=7), at=0.0)
    machine.idle()
    assert started(machine.feed(Tick(), at=0.1)) == [[2, 1]]
    machine.claimed(candidate(3, path=1, cost=90), at=0.2)
    machine.claimed(candidate(4, path=50, cost=90), at=40.0)
    assert started(machine.feed(Computed(1))) == [[3]], "an overdue group goes before a longer one"


def test_jobs_have_one_key() -> None:
    machine = Machine()
    machine.claimed(candidate(1, key=b"a"), candidate(2, key=b"b"), candidate(3, key=b"a"))
    machine.idle()
    assert started(machine.feed(Tick(), at=0.1)) == [[1, 3]]
    assert started(machine.feed(Computed(1))) == [[2]]


def test_tenants_share_a_batch_however_much_one_of_them_sends() -> None:
    machine = Machine(State(Policy(capacity=100, jobs=1, batch_groups=4, batch_cost=1000)))
    flood = [candidate(number, tenant=b"loud") for number in range(20)]
    assert started(machine.claimed(*flood)) == [[0, 1, 2, 3]]
    machine.claimed(candidate(100, tenant=b"quiet"), candidate(101, tenant=b"quiet"))
    chosen = started(machine.feed(Computed(1)))[0]
    assert chosen[0] == 100, "the quiet tenant owes less"
    assert 101 in chosen


def test_a_tenant_that_was_away_gets_no_credit_for_it() -> None:
    machine = Machine(State(Policy(capacity=1000, jobs=1, batch_groups=4, batch_cost=1000)))
    machine.claimed(*(candidate(number, tenant=b"first") for number in range(400)))
    for job in range(1, 50):
        machine.feed(Computed(job))
    machine.claimed(*(candidate(1000 + number, tenant=b"second") for number in range(400)))
    shares = {b"first": 0, b"second": 0}
    for job in range(50, 70):
        for numbers in started(machine.feed(Computed(job))):
            for number in numbers:
                shares[b"second" if number >= 1000 else b"first"] += 1
    assert abs(shares[b"first"] - shares[b"second"]) <= 5


def test_leases_are_renewed_and_a_lost_group_is_forgotten() -> None:
    machine = Machine()
    machine.claimed(*(candidate(number) for number in range(4)))
    machine.idle()
    assert next_time(machine.state) <= 10.0
    assert Renew(frozenset(range(4))) in machine.feed(Tick(), at=10.0)
    assert machine.feed(Renewed(frozenset(range(4)), frozenset({1, 2, 3}))) == []
    assert set(machine.state.held) == {1, 2, 3}
    machine.idle()
    assert Renew(frozenset({1, 2, 3})) in machine.feed(Tick(), at=20.0)
    assert machine.feed(Renewed(frozenset({1, 2, 3}), frozenset())) == [Cancel(1)]
    assert machine.feed(JobFailed(1, RecoverableError("cancelled"))) == []


def test_a_failing_renewal_is_repeated_soon() -> None:
    machine = Machine()
    machine.claimed(candidate(1))
    machine.idle()
    machine.feed(Tick(), at=10.0)
    machine.idle()
    machine.feed(RenewFailed(), at=10.1)
    assert Renew(frozenset({1})) in machine.feed(Tick(), at=12.7)


def test_a_group_that_is_stored_makes_room() -> None:
    machine = Machine()
    machine.claimed(*(candidate(number) for number in range(4)))
    machine.feed(Computed(1))
    assert set(machine.state.held) == {0, 1, 2, 3}, "leases last until the results are stored"
    for number in range(4):
        machine.feed(Settled(number))
    assert not machine.state.held


def test_what_may_pass_is_tried_again_here_and_then_fails() -> None:
    machine = Machine()
    machine.claimed(candidate(1))
    machine.idle()
    machine.feed(Tick(), at=0.1)
    assert machine.feed(JobFailed(1, RecoverableError("away"))) == []
    assert started(machine.feed(Tick(), at=0.5)) == []
    machine.idle()
    assert started(machine.feed(Tick(), at=0.7)) == [[1]]
    machine.feed(JobFailed(2, RecoverableError("away")))
    assert started(machine.feed(Tick(), at=1.9)) == [[1]]
    (failed,) = (a for a in machine.feed(JobFailed(3, RecoverableError("away"))) if not isinstance(a, Claim))
    assert isinstance(failed, Fail)
    assert failed.failure.rule == ATTEMPTS_EXHAUSTED
    assert "away" in failed.failure.message


def test_a_dependency_that_is_away_is_charged_to_nobody() -> None:
    machine = Machine()
    machine.claimed(candidate(1))
    machine.idle()
    machine.feed(Tick(), at=0.1)
    for job in range(1, 30):
        actions = machine.feed(JobFailed(job, RecoverableError("no database"), counts=False))
        assert not [action for action in actions if isinstance(action, Fail)]
        machine.idle()
        machine.feed(Tick(), at=machine.now + 100.0)
        machine.idle()
        if machine.state.renewing:
            machine.feed(Renewed(frozenset({1}), frozenset({1})))
    assert 1 in machine.state.held


def test_a_batch_that_fails_for_good_is_taken_apart() -> None:
    machine = Machine()
    machine.claimed(*(candidate(number) for number in range(3)))
    machine.idle()
    assert started(machine.feed(Tick(), at=0.1)) == [[0, 1, 2]]
    assert started(machine.feed(JobFailed(1, InvalidInput("x", "is poison")))) == [[0]]
    assert started(machine.feed(Computed(2))) == [[1]]
    actions = machine.feed(JobFailed(3, InvalidInput("x", "is poison")))
    assert [action.work.group_id for action in actions if isinstance(action, Fail)] == [1]
    assert started(actions) == [[2]]


def test_a_suspect_runs_with_nothing_else_held() -> None:
    machine = Machine()
    actions = machine.claimed(candidate(1), candidate(2, attempts=1), candidate(3, attempts=1))
    assert actions == [Release(frozenset({1, 3}))]
    assert machine.feed(WorkWaiting()) == []
    assert machine.feed(Tick(), at=0.1) == [Start(1, (group(2, attempts=1),))]
    assert machine.feed(Computed(1)) == []
    assert machine.feed(Settled(2)) == [Claim(1)], "one at a time while suspects are about"
    machine.feed(Claimed((candidate(3, attempts=1),)))
    machine.feed(Tick(), at=0.3)
    machine.feed(Computed(2))
    assert machine.feed(Settled(3)) == [Claim(1)]
    assert Claim(3) in machine.feed(Claimed((candidate(1),)))


def test_a_suspect_waits_for_what_is_running() -> None:
    machine = Machine()
    machine.claimed(*(candidate(number) for number in range(4)))
    machine.feed(Claimed((candidate(9, attempts=2),)))
    assert machine.feed(Tick(), at=1.0) == []
    machine.feed(Computed(1))
    for number in range(3):
        assert machine.feed(Settled(number)) == []
    assert started(machine.feed(Settled(3))) == [[9]]


def test_a_group_whose_workers_keep_ending_fails_without_being_tried_again() -> None:
    machine = Machine()
    (failed,) = machine.claimed(candidate(1, attempts=Policy().takeovers))
    assert isinstance(failed, Fail)
    assert failed.failure.rule == ATTEMPTS_EXHAUSTED
    machine.feed(Settled(1))
    assert not machine.state.held


def test_workers_that_ended_are_no_failures_of_the_group() -> None:
    """Workers are killed and databases are away for reasons of their own: what was taken over is tried as any other."""
    machine = Machine()
    policy = machine.state.policy
    machine.feed(Claimed((candidate(1, attempts=policy.takeovers - 1),)))
    for job in range(1, policy.attempts + 1):
        assert started(machine.feed(Tick(), at=100.0 * job)) == [[1]]
        failed = [a for a in machine.feed(JobFailed(job, RecoverableError("away"))) if isinstance(a, Fail)]
        assert [a.failure.rule for a in failed] == [ATTEMPTS_EXHAUSTED] * (job == policy.attempts)


def test_a_drain_gives_back_what_waits_and_lets_jobs_finish() -> None:
    machine = Machine(State(Policy(capacity=8, jobs=1, batch_groups=2, batch_cost=100)))
    machine.claimed(*(candidate(number) for number in range(3)))
    assert machine.feed(Drain()) == [Release(frozenset({2}))]
    assert machine.feed(Claimed((candidate(7),))) == [Release(frozenset({7}))]
    assert not machine.state.is_drained
    assert machine.feed(Computed(1)) == []
    machine.feed(Settled(0))
    machine.feed(Settled(1))
    assert machine.state.is_drained
    assert next_time(machine.state) == NEVER


def test_handing_back_cancels_and_releases_but_lets_results_be_stored() -> None:
    machine = Machine(State(Policy(capacity=8, jobs=2, batch_groups=2, batch_cost=100)))
    machine.claimed(*(candidate(number) for number in range(4)))
    machine.idle()
    machine.feed(Computed(1))
    machine.idle()
    machine.feed(Drain())
    assert machine.feed(HandBack()) == [Cancel(2), Release(frozenset({2, 3}))]
    assert set(machine.state.held) == {0, 1}
    machine.feed(JobFailed(2, RecoverableError("cancelled")))
    machine.feed(Settled(0))
    machine.feed(Settled(1))
    assert machine.state.is_drained


def test_a_job_that_fails_while_draining_goes_back() -> None:
    machine = Machine()
    machine.claimed(*(candidate(number) for number in range(4)))
    machine.idle()
    machine.feed(Drain())
    assert machine.feed(JobFailed(1, RecoverableError("away"))) == [Release(frozenset(range(4)))]
    assert machine.state.is_drained


@dataclass
class World:
    """A store and an executor that behave at random, and know what should come of it."""

    chance: random.Random
    waiting: dict[int, int] = field(default_factory=dict[int, int])
    leased: set[int] = field(default_factory=set[int])
    poison: set[int] = field(default_factory=set[int])
    done: set[int] = field(default_factory=set[int])
    failed: set[int] = field(default_factory=set[int])
    running: dict[int, tuple[WorkGroup, ...]] = field(default_factory=dict[int, tuple[WorkGroup, ...]])
    pending: list[Event] = field(default_factory=list[Event])

    def perform(self, action: Action) -> None:
        match action:
            case Claim():
                numbers = list(self.waiting)[: action.limit]
                if self.chance.random() < 0.1:
                    self.pending.append(ClaimFailed())
                    return
                groups = [
                    candidate(
                        number,
                        attempts=self.waiting.pop(number),
                        tenant=bytes([number % 3]),
                        key=bytes([number % 2]),
                        cost=self.chance.randrange(1, 60),
                        path=self.chance.randrange(20),
                    )
                    for number in numbers
                ]
                self.leased |= set(numbers)
                self.pending.append(Claimed(tuple(groups)))
            case Renew():
                self.pending.append(Renewed(action.group_ids, action.group_ids & frozenset(self.leased)))
            case Release():
                assert action.group_ids <= self.leased
                self.leased -= action.group_ids
                self.waiting |= dict.fromkeys(action.group_ids, 0)
            case Start():
                numbers = {work.group_id for work in action.groups}
                busy = {work.group_id for groups in self.running.values() for work in groups}
                assert numbers <= self.leased
                assert not numbers & busy
                assert len({work.key_id for work in action.groups}) == 1
                if any(work.attempts for work in action.groups):
                    assert self.leased == numbers, "a suspect runs alone"
                self.running[action.job] = action.groups
            case Cancel():
                self.running.pop(action.job, None)
            case Fail():
                assert action.work.group_id in self.poison
                self.failed.add(action.work.group_id)
                self.pending.append(Settled(action.work.group_id))
                self.leased.discard(action.work.group_id)

    def finish_job(self) -> list[Event]:
        job = self.chance.choice(list(self.running))
        groups = self.running.pop(job)
        if self.chance.random() < 0.2:
            return [JobFailed(job, RecoverableError("hiccup"), counts=False)]
        if any(work.group_id in self.poison for work in groups):
            return [JobFailed(job, InvalidInput("x", "poison"))]
        self.done |= {work.group_id for work in groups}
        self.leased -= {work.group_id for work in groups}
        return [Computed(job), *(Settled(work.group_id) for work in groups)]


@pytest.mark.parametrize("seed", range(40))
def test_whatever_happens_every_group_is_done_or_failed_once(seed: int) -> None:
    chance = random.Random(seed)
    total = 60
    world = World(chance, poison=set(chance.sample(range(total), 6)))
    world.waiting = {number: int(chance.random() < 0.1) for number in range(total)}
    state = State(Policy(capacity=12, jobs=2, batch_groups=5, batch_cost=100, window=0.05))
    now = 0.0
    for _ in range(20_000):
        if len(world.done) + len(world.failed) == total and not state.held:
            break
        events: list[Event] = []
        if world.pending and chance.random() < 0.7:
            events.append(world.pending.pop(0))
        elif world.running and chance.random() < 0.5:
            events += world.finish_job()
        elif chance.random() < 0.1:
            events.append(WorkWaiting())
        else:
            wanted = next_time(state)
            now = max(now, wanted) if wanted < NEVER and not world.pending and not world.running else now + 0.01
            events.append(Tick())
        for event in events:
            state, actions = step(state, event, now, chance.random())
            assert len(state.held) <= 12
            assert len(state.jobs) <= 2
            for action in actions:
                world.perform(action)
    assert world.failed == world.poison
    assert world.done == set(range(total)) - world.poison
    assert not world.leased


def test_another_policy_holds_from_the_next_job_on() -> None:
    machine = Machine()
    state, _ = step(replace(machine.state, asked=4), Claimed(tuple(candidate(number) for number in range(3))), 0.0)
    assert next_time(state) == pytest.approx(POLICY.window)
    state, actions = step(state, Adopt(replace(POLICY, window=0.0, batch_groups=2, jobs=2)), 0.01)
    assert [len(action.groups) for action in actions if isinstance(action, Start)] == [2, 1]
    state, actions = step(state, Adopt(replace(POLICY, capacity=1)), 0.02)
    assert not [action for action in actions if isinstance(action, Claim | Cancel | Release)], "what is held stays"
    assert len(state.held) == 3
