"""Retries, jitter and the circuit breaker."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from coproc.errors import InvalidInput, RecoverableError
from coproc.resilience import Breaker, BreakerState, CircuitOpen, FullJitter, Guard, RetryPolicy, retry

jumping = pytest.mark.usefixtures("autojump_clock")


def always_half() -> float:
    return 0.5


@dataclass
class Dependency:
    """Fails as told, then answers."""

    errors: list[Exception] = field(default_factory=list[Exception])
    calls: list[float] = field(default_factory=list[float])

    async def call(self) -> str:
        await trio.lowlevel.checkpoint()
        self.calls.append(trio.current_time())
        if self.errors:
            raise self.errors.pop(0)
        return "answer"


@given(attempt=st.integers(0, 10**6), chance=st.floats(0, 1, exclude_max=True))
def test_jitter_is_full_and_bounded(attempt: int, chance: float) -> None:
    backoff = FullJitter(initial=0.5, maximum=8.0)
    assert 0.0 <= backoff.delay(attempt, chance) <= 8.0
    assert backoff.delay(attempt, 0.0) == 0.0
    assert [backoff.delay(n, 0.999999) for n in range(6)] == pytest.approx([0.5, 1, 2, 4, 8, 8], rel=1e-5)


@jumping
async def test_recoverable_errors_are_tried_again_with_growing_waits() -> None:
    dependency = Dependency([RecoverableError("away")] * 3)
    policy = RetryPolicy(attempts=5, seconds=100, backoff=FullJitter(1.0, 3.0))
    assert await retry(dependency.call, policy, what="ask", chance=always_half) == "answer"
    first = dependency.calls[0]
    assert [when - first for when in dependency.calls] == pytest.approx([0, 0.5, 1.5, 3.0])


@jumping
async def test_patience_ends_by_attempts_and_by_time() -> None:
    dependency = Dependency([RecoverableError(f"away {n}") for n in range(9)])
    with pytest.raises(RecoverableError, match="away 2"):
        await retry(dependency.call, RetryPolicy(attempts=3), what="ask")
    began = trio.current_time()
    policy = RetryPolicy(attempts=99, seconds=10, backoff=FullJitter(8.0, 8.0))
    with pytest.raises(RecoverableError, match="away 5"):
        await retry(dependency.call, policy, what="ask", chance=always_half)
    assert trio.current_time() - began == pytest.approx(8.0)


async def test_irrecoverable_errors_and_defects_come_out_at_once() -> None:
    for error in (InvalidInput("x", "is bad"), KeyError("x")):
        dependency = Dependency([error])
        with pytest.raises(type(error)):
            await retry(dependency.call, what="ask")
        assert len(dependency.calls) == 1


def test_the_breaker_opens_probes_and_closes() -> None:
    breaker = Breaker(threshold=3, cooldown=10)
    for now in (0.0, 1.0):
        admitted = breaker.admit(now)
        assert admitted is not None
        breaker = admitted.failed(now)
        assert breaker.state(now) is BreakerState.CLOSED
    breaker = breaker.failed(2.0)
    assert breaker.state(2.0) is BreakerState.OPEN
    assert breaker.admit(11.9) is None
    assert breaker.state(12.0) is BreakerState.HALF_OPEN
    probe = breaker.admit(12.0)
    assert probe is not None
    assert probe.admit(12.1) is None, "one probe at a time"
    assert probe.failed(12.2).state(22.1) is BreakerState.OPEN, "the cooldown starts afresh"
    assert probe.succeeded() == Breaker(threshold=3, cooldown=10)
    assert probe.gave_up().admit(12.3) is not None


def test_success_forgets_failures() -> None:
    breaker = Breaker(threshold=2).failed(0.0).succeeded().failed(1.0)
    assert breaker.state(1.0) is BreakerState.CLOSED


@jumping
async def test_a_guard_counts_only_what_may_pass() -> None:
    guard = Guard("thing", Breaker(threshold=2, cooldown=5))
    for error in (RecoverableError("away"), InvalidInput("x", "bad"), RecoverableError("away")):
        with pytest.raises(type(error)), guard.calling():
            raise error
    assert guard.state is BreakerState.CLOSED
    with pytest.raises(RecoverableError), guard.calling():
        raise RecoverableError("away again")
    assert (guard.state, guard.error) == (BreakerState.OPEN, "away again")
    assert (guard.failures, guard.retry_after) == (2, 5.0)
    with pytest.raises(CircuitOpen) as caught, guard.calling():
        raise AssertionError("not to be reached")
    assert caught.value.context["retry_after"] == 5.0
    await trio.sleep(5)
    with trio.move_on_after(1), guard.calling():
        await trio.sleep_forever()
    assert guard.state is BreakerState.HALF_OPEN, "a cancelled probe decides nothing"
    with guard.calling():
        pass
    assert (guard.state, guard.error) == (BreakerState.CLOSED, None)
    assert (guard.failures, guard.retry_after) == (0, 0.0)


@jumping
async def test_retries_wait_for_an_open_circuit() -> None:
    guard = Guard("thing", Breaker(threshold=1, cooldown=5))
    dependency = Dependency([RecoverableError("away")])
    policy = RetryPolicy(attempts=5, seconds=60, backoff=FullJitter(1.0, 1.0))
    began = trio.current_time()
    assert await retry(dependency.call, policy, what="ask", guard=guard, chance=always_half) == "answer"
    assert len(dependency.calls) == 2
    assert trio.current_time() - began == pytest.approx(6.0, abs=0.6)
