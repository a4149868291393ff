"""The whole service on the emulated device: an encrypted transfer, and the script that measures devices."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="the emulation of kernels needs g++")


def test_a_transfer_through_the_whole_service() -> None:
    command = [sys.executable, "-m", "coproc", "demo", "--toy", "--executor", "emulated", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=200)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "emulated" in done.stdout


def test_the_measuring_command_records_what_it_measured(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "coproc", "bench", "gpu", "--emulated", "--largest", "2", "--passes", "1"]
    command += ["--transfers", "1", "--jobs", "1", "--no-operations", "--results", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=200)
    assert done.returncode == 0, done.stdout + done.stderr
    (record,) = [json.loads(path.read_text()) for path in tmp_path.iterdir()]
    assert record["settings"]["device"] == "emulated"
    sizes = [f"{what}, batch {size}" for size in (1, 2) for what in ("keyswitch", "bootstrap", "both")]
    names = [figure["name"] for figure in record["figures"]]
    assert names == [*sizes, "transfer, alone", "transfer, many"]
    assert all(figure["median"] > 0 for figure in record["figures"])
