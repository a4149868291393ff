"""What a service says about its own health: plain data, made by whoever runs the actors.

Decides the fields and what probes conclude from them; knows nothing of HTTP.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from coproc.metrics import Figure


@dataclass(frozen=True, slots=True)
class ActorReport:
    """How one actor is."""

    state: str
    healthy: bool
    restarts: int = 0
    error: str | None = None
    """Its latest crash."""


@dataclass(frozen=True, slots=True)
class BreakerReport:
    """How the circuit breaker before one dependency is."""

    name: str
    state: str
    """``closed``, ``open`` or ``half_open``."""
    failures: int = 0
    """Failures in a row."""
    retry_seconds: float = 0.0
    """How long the dependency is left in peace."""
    openings: int = 0
    """How often it has opened."""
    error: str | None = None
    """Its latest failure; None once it has answered again."""


@dataclass(frozen=True, slots=True)
class ExecutorReport:
    """What one executor has done since the process began."""

    name: str
    slots: int
    """Jobs that it takes at once."""
    running: int
    jobs: int
    """Finished ones."""
    failures: int
    levels: int
    bootstraps: int
    busy_seconds: float
    """Time during which at least one level ran, the present one included."""
    kernel_seconds: float = 0.0
    """CPU time inside keyswitches and bootstraps, over all threads; 0 where the executor does not measure it."""
    lanes: int | None = None
    """Bootstraps that run at the same time; None for devices."""
    lane_slots: int = 0
    """Bootstraps for which there was room in the rounds that ran."""


@dataclass(frozen=True, slots=True)
class HealthReport:
    """How a service is."""

    started: bool
    """Every actor has come up once."""
    ready: bool
    """Callers should come here."""
    draining: bool
    actors: Mapping[str, ActorReport] = field(default_factory=dict[str, ActorReport])
    """In start order."""
    numbers: Mapping[str, float] = field(default_factory=dict[str, float])
    """Figures without labels, by the names of ``coproc.metrics.FAMILIES``."""
    figures: tuple[Figure, ...] = ()
    """Those with labels."""
    breakers: tuple[BreakerReport, ...] = ()
    executors: tuple[ExecutorReport, ...] = ()
    """The one in use first, then what takes over from it."""
    notices: tuple[str, ...] = ()
    """What an operator has chosen that callers should know of."""

    @property
    def degraded(self) -> tuple[str, ...]:
        """Actors that do not do what they are there for."""
        return tuple(name for name, actor in self.actors.items() if not actor.healthy)
