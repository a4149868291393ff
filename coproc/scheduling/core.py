"""The scheduler's decisions as one pure function: ``step(state, event, now) -> (state, actions)``.

Decides what to claim, what to compute together and in which order, when to renew leases, whose fault a failure is and
how a drain goes. It must not know stores, executors, tasks nor clocks.

The rules:

- *Batches.* A lone group starts at once. Where groups follow each other closely, they wait ``window`` seconds for
  company; while all job slots are taken, more comes.
- *Claims.* At most one batch at a time, and a batch that is not full waits for the claim that may fill it. A claim that
  brings a single group has found the last one; one that brings a few may have left more of the same tenants. Who has no
  free job slot lets idle workers claim first and keeps a small reserve: what it holds, nobody else can compute.
- *Offers.* Who has nothing at all to do takes what is being stored, without a claim; never more than one submission,
  and no more of it than there is room for by then.
- *Order.* The tenant that was served least comes first (start-time fair queueing, Goyal et al. 1996); within a tenant
  the longest critical path, so that the batch ends as early as it can; after ``patience`` seconds the oldest.
- *Blame.* A batch that fails for good is tried again group by group: only the one at fault fails. A group that was
  under lease when a worker ended runs with nothing else held: if it ends this worker too, nothing else is charged.
- *Patience.* Failures that may pass are retried here with full jitter, under the same lease.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from coproc.errors import RecoverableError
from coproc.scheduling.model import (
    NEVER,
    Adopt,
    Cancel,
    Claim,
    Claimed,
    ClaimFailed,
    Computed,
    Drain,
    Fail,
    Given,
    HandBack,
    Held,
    JobFailed,
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
from coproc.store.base import Failure
from coproc.store.rules import ATTEMPTS_EXHAUSTED, failure_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from coproc.scheduling.model import Action, Candidate, Event


CROWD_WINDOWS: Final = 4
"""Groups that follow each other within so many windows are a crowd: waiting for more of them is worth its while."""
RESERVE_SHARE: Final = 4
"""One batch over this is how much a worker without a free job slot keeps in reserve."""
GUESTS_AT_ONCE: Final = 4
"""How many groups it claims beyond its reserve to see whether another tenant waits."""
COMPANY_FACTOR: Final = 4
"""How many times longer the chains of one tenant's work may be than those of another's in the same job."""
COMPANY_LEVELS: Final = 16
"""Chains up to this long count as equal."""


def step(state: State, event: Event, now: float, chance: float = 0.5) -> tuple[State, tuple[Action, ...]]:
    """Take in one event.

    Args:
        state: the state before.
        event: what happened.
        now: the time.
        chance: uniform in ``[0, 1)``, for jitter.

    Returns:
        The state after, and what to do, in order.
    """
    state, reaction = _react(state, event, now, chance)
    state, follow_up = _advance(state, now)
    return state, (*reaction, *follow_up)


def offer(state: State, now: float) -> State | None:
    """Offer to take what is about to be stored, to be answered by ``Given``.

    Returns:
        The state after; None if nothing is offered, since there is or may be something else to do.
    """
    is_claiming = state.claiming or state.claim_failures or state.claim_due <= now
    is_busy = is_claiming or state.held or state.offering or state.more or state.draining
    return None if is_busy else replace(state, offering=True)


def next_time(state: State) -> float:
    """When the core wants a ``Tick`` at the latest; infinite if only an event can change anything."""
    times = [state.renew_due if state.held and not state.renewing else NEVER]
    if _room(state):
        times.append(state.claim_due)
    if not _must_wait_for_suspect(state) and not _awaits_more(state):
        times += [held.ready_at + _window(state) for held in _startable(state)]
    return min(times)


# ------------------------------------------------------------------------------------------- reactions


def _react(  # noqa: C901, PLR0911, PLR0912 - one case an event
    state: State, event: Event, now: float, chance: float
) -> tuple[State, tuple[Action, ...]]:
    match event:
        case Tick():
            return state, ()
        case WorkWaiting():
            due = min(state.claim_due, now + _deference(state))
            return replace(state, claim_due=due) if not state.claim_failures else state, ()
        case Claimed():
            return _claimed(state, event, now)
        case Given():
            return _given(state, event, now)
        case ClaimFailed():
            wait = state.policy.backoff.delay(state.claim_failures, chance)
            failures = state.claim_failures + 1
            return replace(state, claiming=False, claim_failures=failures, claim_due=now + wait, more=False), ()
        case Renewed():
            return _renewed(state, event.asked - event.held, now)
        case RenewFailed():
            return replace(state, renewing=False, renew_due=now + state.policy.renew_seconds / 4), ()
        case Computed():
            groups = {number: replace(held, job=None, settling=True) for number, held in _members(state, event.job)}
            return state.with_held(groups), ()
        case JobFailed():
            return _job_failed(state, event, now, chance)
        case WorkEnded():
            # A renewal tells what is still held; one that is under way may have looked too early.
            coming = state.claiming or state.offering
            return replace(state, renew_due=now, recheck=state.renewing, ended_meanwhile=coming), ()
        case Settled():
            return _drop(state, [event.group_id]), ()
        case Drain():
            return _give_back(replace(state, draining=True), [n for n, held in state.held.items() if held.is_waiting])
        case Adopt():
            return replace(state, policy=event.policy), ()
        case HandBack():
            jobs = tuple(Cancel(job) for job in sorted(state.jobs))
            left = [number for number, held in state.held.items() if not held.settling]
            state, released = _give_back(replace(state, draining=True, offering=False), left)
            return state, (*jobs, *released)


def _claimed(state: State, event: Claimed, now: float) -> tuple[State, tuple[Action, ...]]:
    """Take over what was claimed; more is claimed at once unless there was no more."""
    policy = state.policy
    more = bool(event.groups) and len(event.groups) >= state.asked
    if more or state.claim_due <= now:
        # Woken while the claim was under way: it may have looked too early.
        claim_due = now + _deference(state)
    elif len(event.groups) > 1:
        # What is left, if anything, is that of tenants who had more than their share of the claim: no hurry.
        claim_due = now + (_deference(state) or policy.window)
    else:
        claim_due = now + policy.poll_seconds
    state, actions = _take(
        replace(state, claiming=False, claim_failures=0, claim_due=claim_due, more=more), event.groups, now
    )
    if event.groups and not state.draining:
        suspects = [held for held in state.held.values() if held.is_suspect and held.is_waiting]
        state = replace(state, careful=bool(suspects))
    return state, actions


def _given(state: State, event: Given, now: float) -> tuple[State, tuple[Action, ...]]:
    """Take over what was leased on the way, as far as there is room: something else may have come since the offer."""
    state = replace(state, offering=False)
    room = _room(replace(state, claiming=False))
    if state.claiming:
        room = max(0, min(room, state.policy.capacity - len(state.held) - state.asked))
    state, actions = _take(state, event.groups[:room], now)
    rest = frozenset(candidate.work.group_id for candidate in event.groups[room:])
    return state, (*actions, Release(rest)) if rest else actions


def _take(state: State, groups: tuple[Candidate, ...], now: float) -> tuple[State, tuple[Action, ...]]:
    """Take over what is under our lease now."""
    policy = state.policy
    if groups:
        crowded = now - state.arrived_at <= CROWD_WINDOWS * policy.window
        state = replace(state, arrived_at=now, crowded=crowded)
    if state.draining:
        return state, (Release(frozenset(candidate.work.group_id for candidate in groups)),) if groups else ()
    if groups and state.ended_meanwhile:
        state = replace(state, renew_due=now, recheck=state.renewing)
    elif groups and not state.held:
        state = replace(state, renew_due=now + policy.renew_seconds)
    state = replace(state, ended_meanwhile=state.ended_meanwhile and (state.claiming or state.offering))
    taken: dict[int, Held | None] = {}
    failed: list[Action] = []
    served = dict(state.served)
    for candidate in groups:
        work = candidate.work
        held = Held(candidate, since=now, ready_at=now)
        if work.attempts >= policy.takeovers:
            text = f"tried {work.attempts} times, and each time the worker ended or lost its lease"
            failed.append(Fail(work, Failure(ATTEMPTS_EXHAUSTED, text)))
            held = replace(held, settling=True)
        taken[work.group_id] = held
        served[candidate.tenant] = max(served.get(candidate.tenant, 0.0), state.virtual_time)
    return replace(state, served=served).with_held(taken), tuple(failed)


def _renewed(state: State, lost: frozenset[int], now: float) -> tuple[State, tuple[Action, ...]]:
    """Forget groups that another worker took over; a job without any group left is not worth its time."""
    before = state.jobs
    renew_due = now if state.recheck else now + state.policy.renew_seconds
    state = replace(state, renewing=False, renew_due=renew_due, recheck=False)
    state = _drop(state, [number for number in lost if number in state.held and not state.held[number].settling])
    return state, tuple(Cancel(job) for job in sorted(before - state.jobs))


def _job_failed(state: State, event: JobFailed, now: float, chance: float) -> tuple[State, tuple[Action, ...]]:
    members = _members(state, event.job)
    changed: dict[int, Held | None] = {}
    failed: list[Action] = []
    passes = isinstance(event.error, RecoverableError)
    for number, held in members:
        work = held.candidate.work
        if not passes and len(members) > 1:
            changed[number] = replace(held, job=None, alone=True, ready_at=now)
            continue
        tries = held.tries + int(event.counts)
        if passes and tries < state.policy.attempts:
            wait = state.policy.backoff.delay(held.waits, chance)
            changed[number] = replace(held, job=None, tries=tries, waits=held.waits + 1, ready_at=now + wait)
            continue
        failed.append(Fail(work, failure_of(event.error, attempts=tries)))
        changed[number] = replace(held, job=None, settling=True)
    state = state.with_held(changed)
    if not state.draining:
        return state, tuple(failed)
    state, released = _give_back(state, [number for number, _ in members if state.held[number].is_waiting])
    return state, (*failed, *released)


# ------------------------------------------------------------------------------------------- follow-up


def _advance(state: State, now: float) -> tuple[State, tuple[Action, ...]]:
    """Do what has become possible or due."""
    actions: list[Action] = []
    if not state.draining:
        state, started = _start_jobs(state, now)
        actions += started
        deference = _deference(state)
        if started and deference and now <= state.claim_due <= now + state.policy.window:
            state = replace(state, claim_due=now + deference)
        room = _room(state)
        if room and (state.claim_due <= now or (state.more and len(state.jobs) < state.policy.jobs)):
            state = replace(state, claiming=True, asked=room, claim_due=now + state.policy.poll_seconds)
            actions.append(Claim(room))
    if state.held and not state.renewing and state.renew_due <= now:
        state = replace(state, renewing=True)
        actions.append(Renew(frozenset(state.held)))
    return state, tuple(actions)


def _room(state: State) -> int:
    """How many groups may be claimed now."""
    if state.draining or state.claiming:
        return 0
    if state.careful:
        return int(not state.held)
    policy, jobs = state.policy, len(state.jobs)
    waiting = sum(held.is_waiting for held in state.held.values())
    wanted = policy.batch_groups - waiting
    if jobs >= policy.jobs:
        reserve = max(1, policy.batch_groups // RESERVE_SHARE) - waiting
        wanted = max(reserve, GUESTS_AT_ONCE) if jobs < policy.jobs + policy.guest_jobs else reserve
    return max(0, min(policy.capacity - len(state.held), wanted))


def _awaits_more(state: State) -> bool:
    """Whether a claim under way or due may fill the next batch."""
    return state.more and (state.claiming or _room(state) > 0)


def _deference(state: State) -> float:
    """Seconds that others may claim before us: whoever has a free job slot comes first."""
    return state.policy.deference if len(state.jobs) >= state.policy.jobs else 0.0


def _window(state: State) -> float:
    """Seconds that a group waits for company."""
    return state.policy.window if state.crowded else 0.0


def _must_wait_for_suspect(state: State) -> bool:
    """Whether a suspect waits until, or computes while, nothing else does."""
    suspects = [held for held in state.held.values() if held.is_suspect and not held.settling]
    return bool(suspects) and any(not held.is_waiting for held in state.held.values())


def _start_jobs(state: State, now: float) -> tuple[State, list[Action]]:
    actions: list[Action] = []
    if _must_wait_for_suspect(state):
        if any(held.is_suspect and held.job is not None for held in state.held.values()):
            state, released = _give_back(state, [number for number, held in state.held.items() if held.is_waiting])
            actions += released
        return state, actions
    suspect = next((held for held in state.held.values() if held.is_suspect and held.is_waiting), None)
    if suspect is not None:
        state, released = _give_back(state, [n for n in state.held if n != suspect.candidate.work.group_id])
        actions += released
    while len(state.jobs) < state.policy.jobs + state.policy.guest_jobs:
        ready = [held for held in _startable(state) if held.ready_at <= now]
        if not ready or not _is_ripe(state, ready, now):
            break
        chosen, served, virtual_time = choose_batch(state, ready, now)
        job = state.next_job
        changed = {held.candidate.work.group_id: replace(held, job=job) for held in chosen}
        state = replace(state, next_job=job + 1, served=served, virtual_time=virtual_time).with_held(changed)
        actions.append(Start(job, tuple(held.candidate.work for held in chosen)))
    return state, actions


def _startable(state: State) -> list[Held]:
    """Groups for which there is a job slot: once the common ones are taken, those of tenants with nothing computing."""
    waiting = [held for held in state.held.values() if held.is_waiting]
    jobs = len(state.jobs)
    if jobs < state.policy.jobs:
        return waiting
    if jobs >= state.policy.jobs + state.policy.guest_jobs:
        return []
    busy = {held.candidate.tenant for held in state.held.values() if held.job is not None}
    return [held for held in waiting if held.candidate.tenant not in busy]


def _is_company(candidate: Candidate, first: Candidate) -> bool:
    """Whether a group may share a job with the first one: all results of a job come at its end."""
    if candidate.tenant == first.tenant:
        return True
    shorter, longer = sorted((candidate.path, first.path))
    return longer <= COMPANY_FACTOR * max(shorter, COMPANY_LEVELS)


def _is_ripe(state: State, ready: Sequence[Held], now: float) -> bool:
    """Whether a batch is worth starting, or has waited long enough."""
    policy = state.policy
    waited = any(held.ready_at + _window(state) <= now or held.alone for held in ready)
    full = len(ready) >= policy.batch_groups or sum(held.candidate.cost for held in ready) >= policy.batch_cost
    return full or (waited and not (_awaits_more(state) and not any(held.alone for held in ready)))


def choose_batch(state: State, ready: Sequence[Held], now: float) -> tuple[list[Held], dict[bytes, float], float]:
    """Choose the groups of the next job, all under one key.

    Returns:
        The groups in order, the charges of all tenants after it, and the virtual time.
    """
    policy = state.policy
    served = dict(state.served)
    queues: dict[bytes, list[Held]] = {}
    for held in ready:
        queues.setdefault(held.candidate.tenant, []).append(held)
    for queue in queues.values():
        # Best last: it is taken from the end.
        queue.sort(key=lambda held: _urgency(held, now, policy.patience), reverse=True)
    virtual_time = state.virtual_time
    chosen: list[Held] = []
    cost = 0
    while queues and len(chosen) < policy.batch_groups and cost < policy.batch_cost:
        tenant = min(queues, key=lambda name: (served.get(name, 0.0), queues[name][-1].since, name))
        queue = queues[tenant]
        held = queue.pop()
        if not queue:
            del queues[tenant]
        fits = not chosen or (
            held.candidate.work.key_id == chosen[0].candidate.work.key_id
            and not held.alone
            and cost + held.candidate.cost <= policy.batch_cost
            and _is_company(held.candidate, chosen[0].candidate)
        )
        if not fits:
            continue
        virtual_time = max(virtual_time, served.get(tenant, 0.0))
        served[tenant] = served.get(tenant, 0.0) + held.candidate.cost / held.candidate.weight
        chosen.append(held)
        cost += held.candidate.cost
        if held.alone:
            break
    active = {held.candidate.tenant for held in state.held.values()}
    kept = {tenant: charge for tenant, charge in served.items() if tenant in active or charge > virtual_time}
    return chosen, kept, virtual_time


def _urgency(held: Held, now: float, patience: float) -> tuple[bool, float, float, int]:
    """Sort key, the smallest first: overdue ones by age, then by critical path."""
    overdue = now - held.since >= patience
    path = 0 if overdue else -held.candidate.path
    return not overdue, path, held.since, held.candidate.work.group_id


# --------------------------------------------------------------------------------------------- helpers


def _members(state: State, job: int) -> list[tuple[int, Held]]:
    return [(number, held) for number, held in state.held.items() if held.job == job]


def _drop(state: State, numbers: Iterable[int]) -> State:
    return state.with_held(dict.fromkeys(numbers))


def _give_back(state: State, numbers: Sequence[int]) -> tuple[State, tuple[Action, ...]]:
    if not numbers:
        return state, ()
    return _drop(state, numbers), (Release(frozenset(numbers)),)
