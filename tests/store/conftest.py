"""The kinds of stores that keep the same promises: in memory, in Postgres, and with every value in an object store."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from coproc.store.objects import ObjectSettings

WITH_OBJECTS = ("test_forms.py", "_keys_", "_upload", "_each_class", "finished_together")
"""Parts of names of tests that are about bytes; the others run with objects only if COPROC_EVERY_STORE is set."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what an object store has no part in."""
    if os.environ.get("COPROC_EVERY_STORE"):
        return
    out = [item for item in items if "[objects" in item.name and not any(part in item.nodeid for part in WITH_OBJECTS)]
    items[:] = [item for item in items if item not in out]
    config.hook.pytest_deselected(items=out)


@pytest.fixture(params=["memory", "postgres", "objects"])
def store_place(request: pytest.FixtureRequest) -> tuple[str, ObjectSettings | None]:
    """Where an empty store of each kind is."""
    if request.param == "memory":
        return "memory://", None
    objects = request.getfixturevalue("object_settings") if request.param == "objects" else None
    return request.getfixturevalue("database_url"), objects
