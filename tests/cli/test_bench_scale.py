"""``coproc bench scale`` on a small scale: real worker processes on a real Postgres, and figures that add up."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from coproc.cli.bench import bench
from coproc.cli.measuring import Figure
from coproc.cli.scale.fleet import line


def test_two_workers_on_one_database_and_a_projection() -> None:
    arguments = ["--lengths", "1000", "--workers", "2", "--seconds", "2", "--milliseconds", "1", "--batch", "4"]
    arguments += ["--result-bytes", "100", "--projected", "1,4", "--json"]
    record = json.loads(CliRunner().invoke(bench, ["scale", *arguments], catch_exceptions=False).stdout)
    found = {item["name"]: Figure(**item).median for item in record["figures"]}
    assert found["claim from 1,000: to find them"] < found["claim from 1,000: pages touched"]
    assert 0 < found["2 workers: executors busy"] <= 1.01
    assert found["1 worker: transfers"] == pytest.approx(found["1 worker: executors busy"] / 0.112)
    ratio = found["2 workers: executors busy"] / found["1 worker: executors busy"]
    assert found["2 workers over 2 times one"] == pytest.approx(ratio)
    assert found["1 workers, projected: of linear"] > 0.99
    assert record["details"]["costs"]["claim"][0] >= 0


def test_costs_are_a_rising_line() -> None:
    assert line({8: 3.0, 64: 10.0}) == pytest.approx((2.0, 0.125))
    assert line({8: 3.0, 64: 2.0}) == (3.0, 0.0)
    assert line({8: 1.0, 64: 64.0}) == pytest.approx((0.0, 1.125))
