"""What can be known of the images and of compose.yaml without a container engine."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, cast

import pytest
import yaml
from click.testing import CliRunner

from coproc.cli import cli
from coproc.config import Config

if TYPE_CHECKING:
    from tests.chart.custom_resources import Tree, Value

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "Dockerfile").read_text("utf-8")


def stages() -> dict[str, list[str]]:
    """Instructions by stage."""
    found: dict[str, list[str]] = {}
    for line in TEXT.replace("\\\n", " ").splitlines():
        if match := re.fullmatch(r"FROM (\S+) AS (\S+)", line):
            found[match[2]] = [line]
        elif line and not line.startswith("#"):
            next(reversed(found.values())).append(line)
    return found


def lint(dockerfile: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [Path(sys.executable).with_name("hadolint"), "--config", ROOT / ".hadolint.yaml", "-"],
        input=dockerfile,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_linter_has_nothing_to_say() -> None:
    ended = lint(TEXT)
    assert (ended.returncode, ended.stdout) == (0, "")
    assert lint(TEXT.replace('"uv==', '"uv" "x==')).returncode != 0, "it would say something of an open version"


@pytest.mark.parametrize("target", ["cpu", "gpu"])
def test_images_are_locked_and_not_root(target: str) -> None:
    found = stages()
    assert [line for line in found[target] if line.startswith("USER")] == ["USER 10001:10001"]
    assert found[target][0] == f"FROM base AS {target}"
    syncs = [line for stage in found.values() for line in stage if "uv sync" in line]
    assert syncs
    assert all("--frozen" in line and "--no-dev" in line for line in syncs)
    assert not [line for line in found["base"] if line.startswith(("COPY", "ADD"))]
    builds = {name: " ".join(line for line in found[name] if "uv sync" in line) for name in ("build", "build-gpu")}
    assert {name: "--extra gpu" in build for name, build in builds.items()} == {"build": False, "build-gpu": True}
    assert all("--extra s3" in build for build in builds.values()), "the chart's objectStore needs it"


def test_the_context_has_all_that_is_copied() -> None:
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text("utf-8").splitlines() if line.startswith("!")}
    copied = {name for line in stages()["build"] if line.startswith("COPY") for name in line.split()[1:-1]}
    assert copied == kept
    assert all((ROOT / name).exists() for name in copied)


def test_compose_runs_programs_that_exist() -> None:
    compose = cast("dict[str, Tree]", yaml.safe_load((ROOT / "compose.yaml").read_text("utf-8")))
    services = cast("dict[str, Tree]", compose["services"])
    assert set(services) == {"postgres", "migrate", "api", "results", "worker", "collector", "prometheus"}
    roles: set[str] = set()
    for name in ("migrate", "api", "results", "worker"):
        service = services[name]
        command = [str(part) for part in cast("list[Value]", service["command"])]
        shown = CliRunner().invoke(cli, [command[0], "--help"])
        assert shown.exit_code == 0
        assert all(option in shown.output for option in command if option.startswith("--"))
        variables = cast("dict[str, str]", service["environment"])
        settings = {
            key.removeprefix("COPROC_").lower(): value for key, value in variables.items() if key.startswith("COPROC_")
        }
        if name != "migrate":
            config = Config(**settings, roles=command[2])
            assert not config.migrate_on_start
            roles |= config.roles
            grace = float(str(service["stop_grace_period"]).removesuffix("s"))
            assert grace >= config.drain_seconds + 60
        waits = cast("Tree", service["depends_on"])
        assert list(waits) == (["postgres"] if name == "migrate" else ["migrate"])
        assert service["read_only"] is True
    assert roles == {"api", "worker", "results"}
    for service in services.values():
        assert all(str(port).startswith("127.0.0.1:") for port in cast("list[Value]", service.get("ports", [])))
        for volume in cast("list[Value]", service.get("volumes", [])):
            source = str(volume).partition(":")[0]
            assert not source.startswith(".") or (ROOT / source).exists(), source
        assert ":" in str(service["image"]), "a version is named"


def test_prometheus_asks_every_role() -> None:
    scrape = cast("Tree", yaml.safe_load((ROOT / "deploy/compose/prometheus.yaml").read_text("utf-8")))
    text = str(scrape["scrape_configs"])
    assert all(f"{role}:50053" in text for role in ("api", "results", "worker"))
