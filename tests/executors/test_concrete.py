"""The foreign runtime is found without being imported, and says clearly when it is not there."""

from __future__ import annotations

import sys
from importlib import metadata

import pytest

from coproc.executors import ExecutorUnavailable, create_executor
from coproc.executors.concrete import find_runtime


def test_runtime_is_found_with_its_version() -> None:
    runtime = find_runtime()
    assert runtime.path.is_file()
    assert runtime.version == metadata.version("concrete-python")
    assert runtime.version in str(runtime)
    create_executor("concrete", threads=1)
    assert "concrete" not in sys.modules


def test_absence_is_an_error_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> metadata.Distribution:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr("coproc.executors.concrete.distribution", absent)
    with pytest.raises(ExecutorUnavailable, match="not installed"):
        create_executor("concrete")
