"""Feature flags: settings that a running worker takes from a file, without a restart.

Decides which settings may change while jobs run, what a file of flags may say, and that it holds as a whole or not at
all. Must not know who reads the file nor when.

What may change follows from one rule: workers of one network agree on every bit of a result.

- ``executor``, ``batch_window_seconds`` and ``maximum_batch`` change no bit and take effect at once, for the next job.
  ``executor`` therefore chooses only among those that share one arithmetic.
- ``shift_semantics``, ``rewrites`` and ``strategy`` are the *plan*: they change bits, shifts even values. They belong
  under ``next_plan`` with a moment: every worker that has read the file by then changes at that moment. A job that has
  been planned goes on as planned. What is in force follows from file and time alone, so that one that starts agrees.

What a file does not name is as the service was configured. Nothing else can be a flag.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC
from typing import TYPE_CHECKING, Annotated, Final, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from coproc.config import (  # noqa: TC001 - pydantic reads them
    BatchWindow,
    ExecutorName,
    MaximumBatch,
    RewriteName,
    ShiftSemantics,
    StrategyName,
)
from coproc.layers import InvalidConfiguration

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime
    from pathlib import Path

    from coproc.config import Config

MAX_BYTES: Final = 1 << 16
"""A larger file is none of ours."""


@dataclass(frozen=True, slots=True)
class PlanFlags:
    """What all workers of a network must agree on."""

    shift_semantics: ShiftSemantics
    rewrites_off: frozenset[RewriteName]
    strategy: StrategyName


@dataclass(frozen=True, slots=True)
class Flags:
    """What a worker goes by."""

    executor: ExecutorName
    batch_window_seconds: float
    maximum_batch: int
    plan: PlanFlags

    @classmethod
    def of(cls, config: Config) -> Flags:
        """Take everything from the configuration."""
        plan = PlanFlags(config.shift_semantics, config.rewrites_off, config.strategy)
        return cls(config.executor, config.batch_window_seconds, config.maximum_batch, plan)

    def describe(self, rules: tuple[RewriteName, ...]) -> Iterator[tuple[str, str]]:
        """List every flag and its value as text; a rewrite is ``true`` where the rule is applied."""
        yield "executor", self.executor
        yield "batch_window_seconds", f"{self.batch_window_seconds:g}"
        yield "maximum_batch", str(self.maximum_batch)
        yield "strategy", self.plan.strategy
        yield "shift_semantics", self.plan.shift_semantics
        for rule in rules:
            yield f"rewrites.{rule}", "false" if rule in self.plan.rewrites_off else "true"


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False, hide_input_in_errors=True)


class PlanPart(_Part):
    """What may be said of a plan; what is left out stays."""

    strategy: StrategyName | None = None
    shift_semantics: ShiftSemantics | None = None
    rewrites: Annotated[dict[RewriteName, bool], Field(max_length=64)] = {}
    """Rules by name: whether each is applied."""

    def over(self, base: PlanFlags) -> PlanFlags:
        """Put what is named here over ``base``."""
        off = set(base.rewrites_off)
        for rule, applied in self.rewrites.items():
            (off.discard if applied else off.add)(rule)
        return PlanFlags(self.shift_semantics or base.shift_semantics, frozenset(off), self.strategy or base.strategy)


class NextPlan(PlanPart):
    """A plan that takes the place of the present one."""

    effective_at: AwareDatetime
    """When, with its time zone."""


class FlagFile(PlanPart):
    """What a file of flags may say, in JSON; everything may be left out."""

    executor: Literal["auto", "cpu", "gpu", "emulated"] | None = None
    """``reference`` and ``concrete`` give other bits: they take the setting and a restart."""
    batch_window_seconds: BatchWindow | None = None
    maximum_batch: MaximumBatch | None = None
    next_plan: NextPlan | None = None

    def flags(self, base: Flags, now: datetime) -> Flags:
        """Say what is in force: the file over the configuration, at a time."""
        plan = self.over(base.plan)
        if self.next_plan is not None and self.next_plan.effective_at <= now:
            plan = self.next_plan.over(plan)
        window = self.batch_window_seconds
        return Flags(
            self.executor or base.executor,
            base.batch_window_seconds if window is None else window,
            self.maximum_batch or base.maximum_batch,
            plan,
        )

    def changes_at(self, now: datetime) -> datetime | None:
        """When the plan changes next; None: not any more."""
        due = None if self.next_plan is None else self.next_plan.effective_at
        return None if due is None or due <= now else due.astimezone(UTC)


def read_bytes(path: Path) -> bytes:
    """Read a file of flags whole.

    Raises:
        InvalidConfiguration: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return file.read(MAX_BYTES + 1)
    except OSError as error:
        raise InvalidConfiguration(f"flags_file: cannot be read: {error.strerror}") from error


def parse(data: bytes) -> FlagFile:
    """Check a file of flags as a whole.

    Raises:
        InvalidConfiguration: names every flag that breaks a rule, and the rule.
    """
    if len(data) > MAX_BYTES:
        raise InvalidConfiguration(f"flags_file: must be at most {MAX_BYTES} bytes")
    try:
        json.loads(data, object_pairs_hook=_once)
        return FlagFile.model_validate_json(data)
    except ValidationError as error:
        faults = "; ".join(
            f"{'.'.join(map(str, fault['loc'])) or 'file'}: {fault['msg'][:1].lower()}{fault['msg'][1:]}"
            for fault in error.errors(include_url=False, include_input=False)
        )
        raise InvalidConfiguration(f"flags_file: {faults}") from None
    except (ValueError, RecursionError) as error:
        raise InvalidConfiguration(f"flags_file: must be JSON: {error}") from None


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """Refuse a name that comes twice: which of them is meant?"""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name comes twice")
    return found
