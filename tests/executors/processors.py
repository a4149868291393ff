"""``make processors``: the kernel on processors that are not there, each emulated by QEMU, against the golden digests.

Gets what it needs into ``.cache/processors``: QEMU and Python for AArch64 out of Debian's packages, and the wheels of
``uv.lock`` for AArch64. Nothing is installed. Takes minutes: an emulated bootstrap is a hundred times slower.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

ROOT: Final = Path(__file__).resolve().parents[2]
CACHE: Final = ROOT / ".cache" / "processors"
PYTHON: Final = "python3.11"
PLATFORM: Final = "aarch64-manylinux_2_28"
CHECK: Final = """
import sys
from coproc.executors.factory import create_executor
from coproc.executors.golden import GOLDEN, TWIDDLES, golden_digests, twiddle_digest

executor = create_executor("cpu", 1)
assert twiddle_digest() == TWIDDLES, "twiddles"
for name in sys.argv[1:]:
    assert golden_digests(executor, name) == GOLDEN[name], name
    print(f"  {executor.isa}: digests of the {name} case are right", flush=True)
"""
APT: Final = """
Dir::State "{folder}/state";
Dir::State::status "{folder}/status";
Dir::Cache "{folder}/cache";
APT::Architecture "arm64";
APT::Architectures {{ "arm64"; }};
APT::Sandbox::User "root";
"""
"""A world of packages of its own, in which nothing is installed."""


@dataclass(frozen=True, slots=True)
class Processor:
    """One that QEMU knows."""

    name: str
    shows: str
    machine: str = "x86_64"
    cases: tuple[str, ...] = ("toy",)


PROCESSORS: Final = (
    Processor("Haswell", "x86 with AVX2 and without AVX-512", cases=("toy", "real")),
    Processor("EPYC", "the same of AMD"),
    Processor("Nehalem", "x86 without AVX and FMA"),
    Processor("neoverse-n1", "AArch64", "aarch64", cases=("toy", "real")),
    Processor("max", "AArch64 with everything that QEMU has", "aarch64"),
)


def main() -> int:
    """Run all; returns the number of those that are wrong."""
    qemu = get_qemu()
    pythons = {"x86_64": _native(), "aarch64": get_aarch64()}
    failed = 0
    for processor in PROCESSORS:
        print(f"{processor.name}: {processor.shows}", flush=True)  # noqa: T201 - a program
        python = pythons[processor.machine]
        emulator = [qemu / f"qemu-{processor.machine}-static", "-cpu", processor.name, *python.options]
        environment = {**os.environ, "PYTHONPATH": python.path, "PYTHONDONTWRITEBYTECODE": "1"}
        command = [*emulator, python.program, "-c", CHECK, *processor.cases]
        done = subprocess.run(command, env=environment, check=False, stderr=subprocess.PIPE, text=True)
        if done.returncode:
            print(done.stderr)  # noqa: T201
        failed += done.returncode != 0
    return failed


@dataclass(frozen=True, slots=True)
class Python:
    """An interpreter for the emulator."""

    program: Path
    path: str
    """Where it finds coproc and what that needs."""
    options: tuple[str, ...] = ()
    """Of the emulator."""


def _native() -> Python:
    packages = next(Path(sys.prefix).glob("lib/python3.*/site-packages"))
    return Python(Path(sys.executable).resolve(), f"{ROOT}:{packages}")


def get_qemu() -> Path:
    """Return the folder of QEMU's programs."""
    folder = CACHE / "qemu"
    if not folder.exists():
        _get_packages(folder, ["qemu-user-static"])
    return folder / "usr" / "bin"


def get_aarch64() -> Python:
    """Return Python for AArch64 with all that coproc needs."""
    root, site = CACHE / "root", CACHE / "site"
    if not root.exists():
        world = CACHE / "apt"
        for name in ("state/lists/partial", "cache/archives/partial"):
            (world / name).mkdir(parents=True, exist_ok=True)
        (world / "status").touch()
        settings = world / "apt.conf"
        settings.write_text(APT.format(folder=world))
        environment = {"APT_CONFIG": str(settings)}
        _run(["apt-get", "update", "-qq"], environment=environment)
        wanted = [PYTHON, "libstdc++6", "zlib1g"]
        _run(["apt-get", "install", "-qq", "--yes", "--download-only", "--no-install-recommends", *wanted], environment)
        _unpack((world / "cache" / "archives").glob("*.deb"), root)
    if not site.exists():
        uv = ROOT / ".bootstrap" / "bin" / "uv"
        locked = _run([uv, "export", "--frozen", "--quiet", "--no-hashes", "--no-emit-project", "--no-dev"])
        listed = CACHE / "requirements.txt"
        listed.write_text(locked)
        where = ["--target", site, "--python-platform", PLATFORM, "--python-version", "3.11"]
        _run([uv, "pip", "install", "--quiet", "--only-binary", ":all:", *where, "-r", listed])
        for about in Path(sys.prefix).glob("lib/python3.*/site-packages/coproc-*.dist-info"):
            shutil.copytree(about, site / about.name)
    libraries = ("-L", str(root), "-E", "LD_LIBRARY_PATH=/usr/lib/aarch64-linux-gnu")
    return Python(root / "usr" / "bin" / PYTHON, f"{ROOT}:{site}", libraries)


def _get_packages(folder: Path, names: Sequence[str]) -> None:
    packages = CACHE / "packages"
    packages.mkdir(parents=True, exist_ok=True)
    _run(["apt-get", "download", "-qq", "-o", "APT::Sandbox::User=root", *names], folder=packages)
    _unpack(packages.glob("*.deb"), folder)


def _unpack(packages: Iterable[Path], folder: Path) -> None:
    part = folder.with_suffix(".part")
    for package in packages:
        _run(["dpkg-deb", "-x", package, part])
    part.rename(folder)


def _run(
    command: Sequence[str | Path], environment: Mapping[str, str] | None = None, folder: Path | None = None
) -> str:
    everything = {**os.environ, **(environment or {})}
    return subprocess.run(command, env=everything, cwd=folder, check=True, stdout=subprocess.PIPE, text=True).stdout


if __name__ == "__main__":
    sys.exit(main())
