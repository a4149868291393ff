"""The examples of the README are run as they stand."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from coproc.cli.keys import make_keys

if TYPE_CHECKING:
    from coproc.cli.service import Service

README = Path(__file__).parents[1] / "README.md"
EXAMPLES = re.findall(r"```python\n(.*?)```", README.read_text("utf-8"), re.DOTALL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("readme")
    make_keys(folder / "keys", toy=True)
    return folder


def run(example: str, folder: Path, service: Service) -> list[str]:
    results_port = service.addresses.results.rstrip("/").rpartition(":")[2]
    program = example.replace("50051", str(service.grpc_port)).replace("50052", results_port)
    ended = subprocess.run(
        [sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, check=False, timeout=60
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.splitlines()


def test_the_python_example_computes(folder: Path, running_service: Service) -> None:
    assert run(EXAMPLES[0], folder, running_service) == ["42", "True"]


def test_the_websocket_example_sees_the_results(folder: Path, running_service: Service) -> None:
    lines = run(EXAMPLES[1], folder, running_service)
    assert [line.split()[0] for line in lines] == ["1", "2"]
    assert len(EXAMPLES) == 2
