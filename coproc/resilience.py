"""How a dependency that fails for a while is treated: retries with full jitter behind a circuit breaker.

Decides when to try again and when to stop asking; must not know any dependency. Only ``RecoverableError`` is tried
again or counted: an ``IrrecoverableError`` is an answer. Times are of the Trio clock, in seconds.
"""

from __future__ import annotations

import random
from contextlib import contextmanager
from dataclasses import dataclass, replace
from enum import Enum
from typing import TYPE_CHECKING, TypeVar

import structlog
import trio
from tenacity import AsyncRetrying

from coproc.errors import RecoverableError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator

    from tenacity import RetryCallState

T = TypeVar("T")

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class FullJitter:
    """Exponential backoff with full jitter: uniform in ``[0, min(maximum, initial * 2^attempt)]``.

    Callers that failed together come back spread over the whole interval (AWS Architecture Blog, "Exponential Backoff
    And Jitter").
    """

    initial: float = 0.2
    maximum: float = 10.0

    def delay(self, attempt: int, chance: float) -> float:
        """Seconds to wait after failure number ``attempt`` (from 0); ``chance`` is uniform in ``[0, 1)``."""
        return chance * min(self.maximum, self.initial * 2.0 ** min(attempt, 64))


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How long to try: until ``attempts`` calls have failed or ``seconds`` have passed."""

    attempts: int = 5
    seconds: float = 60.0
    backoff: FullJitter = FullJitter()


class BreakerState(Enum):
    """What a breaker lets through."""

    CLOSED = "closed"
    """Everything."""
    OPEN = "open"
    """Nothing, until the cooldown is over."""
    HALF_OPEN = "half_open"
    """One call, to find out."""


@dataclass(frozen=True, slots=True)
class Breaker:
    """A circuit breaker as a value: each transition returns the next one, and none looks at a clock.

    ``threshold`` failures in a row open it; after ``cooldown`` seconds one call may probe, whose result closes it or
    opens it again.
    """

    threshold: int = 5
    cooldown: float = 10.0
    failures: int = 0
    """Failures in a row."""
    opened_at: float | None = None
    probing: bool = False

    def state(self, now: float) -> BreakerState:
        """Return the state at a time."""
        if self.opened_at is None:
            return BreakerState.CLOSED
        return BreakerState.HALF_OPEN if now >= self.opened_at + self.cooldown else BreakerState.OPEN

    def admit(self, now: float) -> Breaker | None:
        """Return the breaker with a call under way, or None if the call must not be made."""
        state = self.state(now)
        if state is BreakerState.OPEN or (state is BreakerState.HALF_OPEN and self.probing):
            return None
        return replace(self, probing=state is BreakerState.HALF_OPEN)

    def succeeded(self) -> Breaker:
        """Return the breaker after a call that got an answer."""
        return replace(self, failures=0, opened_at=None, probing=False)

    def failed(self, now: float) -> Breaker:
        """Return the breaker after a call that failed for a reason that may pass."""
        failures = self.failures + 1
        opens = self.probing or failures >= self.threshold
        return replace(self, failures=failures, opened_at=now if opens else self.opened_at, probing=False)

    def gave_up(self) -> Breaker:
        """Return the breaker after a call that was cancelled, which says nothing about the dependency."""
        return replace(self, probing=False)


class CircuitOpen(RecoverableError):
    """The dependency has failed several times in a row and is left in peace; ``retry_after`` says for how long."""

    rule = "CIRCUIT_OPEN"


class Guard:
    """Holds the breaker of one dependency and tells health pages about it."""

    def __init__(
        self, name: str, breaker: Breaker | None = None, clock: Callable[[], float] = trio.current_time
    ) -> None:
        """Guard a dependency; outside of Trio's thread with another ``clock``, such as ``time.monotonic``."""
        self.name = name
        self.openings = 0
        """How often the breaker has opened."""
        self._clock = clock
        self._breaker = breaker or Breaker()
        self.error: str | None = None
        """The latest failure, as text; None once a call has succeeded again."""

    @property
    def state(self) -> BreakerState:
        """The state now."""
        return self._breaker.state(self._clock())

    @property
    def failures(self) -> int:
        """Failures in a row."""
        return self._breaker.failures

    @property
    def retry_after(self) -> float:
        """Seconds for which the dependency is left in peace, 0 if it may be asked."""
        opened_at = self._breaker.opened_at
        return 0.0 if opened_at is None else max(0.0, opened_at + self._breaker.cooldown - self._clock())

    def check(self) -> None:
        """Raise CircuitOpen if no call would be let through now; for those that have to wait before theirs."""
        if self._breaker.admit(self._clock()) is None:
            raise self._refusal()

    def _refusal(self) -> CircuitOpen:
        wait = self.retry_after
        reason = "" if self.error is None else f", after {self.error}"
        text = f"{self.name} is not asked for another {wait:.1f} s{reason}"
        return CircuitOpen(text, retry_after=wait, after=self.error)

    @contextmanager
    def calling(self) -> Generator[None]:
        """Make one call inside the block.

        Raises:
            CircuitOpen: the call must not be made now.
        """
        now = self._clock()
        admitted = self._breaker.admit(now)
        if admitted is None:
            raise self._refusal()
        self._breaker = admitted
        try:
            yield
        except RecoverableError as error:
            self.error = error.message
            self._move(self._breaker.failed(self._clock()))
            raise
        except Exception:
            self._succeed()
            raise
        except BaseException:
            self._breaker = self._breaker.gave_up()
            raise
        self._succeed()

    def _succeed(self) -> None:
        self.error = None
        self._move(self._breaker.succeeded())

    def _move(self, after: Breaker) -> None:
        before, self._breaker = self._breaker, after
        if (before.opened_at is None) is not (after.opened_at is None):
            self.openings += after.opened_at is not None
            now = self._clock()
            log.warning("circuit breaker", dependency=self.name, state=after.state(now).value, error=self.error)


async def retry(
    call: Callable[[], Awaitable[T]],
    policy: RetryPolicy | None = None,
    *,
    what: str,
    guard: Guard | None = None,
    chance: Callable[[], float] | None = None,
) -> T:
    """Call until it succeeds, fails for good, or the policy's patience is over.

    Args:
        call: the operation; safe to be called again.
        policy: attempts, seconds and waits.
        what: names the operation in logs.
        guard: asked before each call; an open circuit counts as a failed attempt.
        chance: source of jitter, uniform in ``[0, 1)``.

    Raises:
        RecoverableError: the last one, when patience is over.
        Exception: whatever else ``call`` raises, at once.
    """
    policy = policy or RetryPolicy()
    draw = chance or random.SystemRandom().random
    give_up_at = trio.current_time() + policy.seconds

    def wait(state: RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome is not None else None
        closed_for = error.context.get("retry_after") if isinstance(error, CircuitOpen) else None
        waits = policy.backoff.delay(state.attempt_number - 1, draw())
        return waits + (closed_for if isinstance(closed_for, float) else 0.0)

    def stop(state: RetryCallState) -> bool:
        return state.attempt_number >= policy.attempts or trio.current_time() + state.upcoming_sleep > give_up_at

    def is_recoverable(state: RetryCallState) -> bool:
        return state.outcome is not None and isinstance(state.outcome.exception(), RecoverableError)

    def tell(state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome is not None else None
        log.warning("trying again", what=what, attempt=state.attempt_number, error=str(error))

    async def call_once() -> T:
        if guard is None:
            return await call()
        with guard.calling():
            return await call()

    # Nearly always the first call succeeds, and all this need not be set up.
    try:
        return await call_once()
    except RecoverableError as error:
        failed = [error]
    async for attempt in AsyncRetrying(
        sleep=trio.sleep, wait=wait, stop=stop, retry=is_recoverable, before_sleep=tell, reraise=True
    ):
        with attempt:
            if failed:
                raise failed.pop()
            return await call_once()
    raise RecoverableError(f"{what} was not tried")  # the loop returns or raises
