"""A file of flags holds as a whole or not at all, and what is in force follows from file and time alone."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from coproc.config import REWRITES, Config
from coproc.flags import MAX_BYTES, Flags, parse, read_bytes
from coproc.layers import InvalidConfiguration

if TYPE_CHECKING:
    from pathlib import Path

NOW = datetime(2027, 1, 1, 12, tzinfo=UTC)
BASE = Flags.of(Config(database_url="memory://", rewrites_off=frozenset({"gates"})))


def flags(file: dict[str, object], now: datetime = NOW) -> Flags:
    return parse(json.dumps(file).encode()).flags(BASE, now)


def test_what_is_not_named_is_as_configured() -> None:
    assert flags({}) == BASE
    assert flags({"batch_window_seconds": 0}) == replace(BASE, batch_window_seconds=0.0)
    assert flags({"maximum_batch": 3, "executor": "cpu"}) == replace(BASE, maximum_batch=3, executor="cpu")


def test_every_rewrite_has_a_flag_either_way() -> None:
    for rule in REWRITES:
        assert flags({"rewrites": {rule: False}}).plan.rewrites_off == {"gates", rule}
    assert flags({"rewrites": {"gates": True}}).plan.rewrites_off == set()
    shown = dict(flags({"rewrites": {"column_sums": False}}).describe(REWRITES))
    assert {name for name, value in shown.items() if value == "false"} == {"rewrites.gates", "rewrites.column_sums"}
    assert set(shown) == {
        "executor",
        "batch_window_seconds",
        "maximum_batch",
        "strategy",
        "shift_semantics",
        *(f"rewrites.{rule}" for rule in REWRITES),
    }


def test_the_next_plan_is_in_force_from_its_moment_on_wherever_one_looks() -> None:
    at = NOW + timedelta(minutes=5)
    file: dict[str, object] = {
        "rewrites": {"column_sums": False},
        "next_plan": {
            "effective_at": at.astimezone().isoformat(),
            "shift_semantics": "zero",
            "rewrites": {"gates": True},
        },
    }
    before, after = flags(file, at - timedelta(seconds=1)), flags(file, at)
    assert (before.plan.shift_semantics, before.plan.rewrites_off) == ("modulo", {"gates", "column_sums"})
    assert (after.plan.shift_semantics, after.plan.rewrites_off) == ("zero", {"column_sums"})
    parsed = parse(json.dumps(file).encode())
    assert (parsed.changes_at(NOW), parsed.changes_at(at)) == (at, None)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "must be JSON"),
        ("[]", "file: "),
        ('{"maximum_batch": 0}', "maximum_batch: .*greater than or equal to 1"),
        ('{"maximum_batch": 2.5}', "maximum_batch: "),
        ('{"maximum_batch": "9"}', "maximum_batch: "),
        ('{"batch_window_seconds": NaN}', "flags_file: "),
        ('{"batch_window_seconds": 11}', "batch_window_seconds: .*less than or equal to 10"),
        ('{"batch_windows": 1}', "batch_windows: extra"),
        ('{"executor": "reference"}', "executor: .*'auto', 'cpu', 'gpu' or 'emulated'"),
        ('{"shift_semantics": "both"}', "shift_semantics: "),
        ('{"rewrites": {"column_sum": false}}', r"rewrites\.column_sum"),
        ('{"rewrites": {"gates": 1}}', r"rewrites\.gates: "),
        ('{"next_plan": {"strategy": "latency"}}', r"next_plan\.effective_at: "),
        ('{"next_plan": {"effective_at": "2027-01-01T00:00:00"}}', "timezone"),
        ('{"next_plan": {"effective_at": "2027-01-01T00:00:00Z", "executor": "cpu"}}', r"next_plan\.executor: "),
        ('{"maximum_batch": 2, "maximum_batch": 3}', "a name comes twice"),
        ("[" * 100_000, f"at most {MAX_BYTES}"),
        ("[" * 60_000, "must be JSON"),
        ('{"executor": "\ud800"}', "flags_file: "),
    ],
)
def test_a_file_that_breaks_a_rule_is_refused_with_the_rule(text: str, fault: str) -> None:
    with pytest.raises(InvalidConfiguration, match=fault):
        parse(text.encode("utf-8", "surrogatepass"))


def test_one_bad_flag_spoils_the_file() -> None:
    with pytest.raises(InvalidConfiguration) as caught:
        parse(b'{"maximum_batch": 5, "strategy": "fast", "batch_window_seconds": -1}')
    assert "strategy" in caught.value.message
    assert "batch_window_seconds" in caught.value.message


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidConfiguration, match="flags_file: cannot be read: No such file"):
        read_bytes(tmp_path / "flags.json")
