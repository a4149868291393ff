"""The benchmark of chains measures what it says."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from coproc.cli.bench import bench


@pytest.mark.parametrize("where", ["memory", "database"])
def test_every_event_is_counted(where: str, request: pytest.FixtureRequest) -> None:
    url = "memory://" if where == "memory" else request.getfixturevalue("database_url")
    ended = CliRunner().invoke(
        bench, ["chain", "--blocks", "3", "--transfers", "4", "--json", "--database-url", url], catch_exceptions=False
    )
    result = json.loads(ended.stdout)
    assert (result["blocks"], result["operator_events"], result["all_events"]) == (3, 60, 108)
    assert result["events_per_second"] > 0
