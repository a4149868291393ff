"""What all benchmarks have in common: passes in turn, medians with their spread, the machine, records on disk.

Decides how a figure is taken and kept. It must not know what is measured.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import wraps
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import quantiles
from typing import TYPE_CHECKING, Final, Literal, cast

import click
from rich.console import Console
from rich.table import Table

from coproc.errors import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

Better = Literal["higher", "lower", "same"]
"""Which way a figure should go; ``same`` for what is no merit, such as a share."""

PACKAGES: Final = ("coproc", "numpy", "llvmlite", "trio", "psycopg")
LIMITS: Final = "limits_bootstraps_per_second"
"""In the details of a record: what a device could do at most, by the part that would be the limit."""
FEATURES: Final = ("avx512f", "avx512dq", "avx2", "fma")
"""Of the CPU, as far as kernels look at them."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured quantity: its median over the passes, and the quartiles around it."""

    name: str
    unit: str
    better: Better
    median: float
    low: float
    high: float
    passes: int

    def scaled(self, name: str, unit: str, factor: float) -> Figure:
        """Return the same measurement in another unit."""
        return Figure(name, unit, self.better, self.median * factor, self.low * factor, self.high * factor, self.passes)


def figure(name: str, unit: str, values: Sequence[float], better: Better = "lower") -> Figure:
    """Take the median and the quartiles of passes.

    Raises:
        InvalidInput: there is no pass.
    """
    if not values:
        raise InvalidInput("values", f"nothing was measured of {name}")
    low, middle, high = quantiles(values, n=4, method="inclusive") if len(values) > 1 else [values[0]] * 3
    return Figure(name, unit, better, middle, low, high, len(values))


def rate(name: str, seconds: Sequence[float], count: int = 1, unit: str = "per second") -> Figure:
    """Make a rate of the durations of passes that did ``count`` things each."""
    return figure(name, unit, [count / each for each in seconds], "higher")


@dataclass(frozen=True, slots=True)
class Record:
    """One run of a benchmark."""

    bench: str
    date: str
    """ISO 8601, UTC."""
    machine: Mapping[str, object]
    settings: Mapping[str, object]
    """What the figures depend on: parameters, widths, threads."""
    figures: Sequence[Figure]
    details: Mapping[str, object] = field(default_factory=dict["str", "object"])
    """What is worth keeping but not worth comparing."""

    def as_json(self) -> dict[str, object]:
        """Return what is written to disk."""
        return {**asdict(self), "figures": [asdict(item) for item in self.figures]}

    def write(self, folder: Path) -> Path:
        """Write to a file named by benchmark and time; returns its path."""
        folder.mkdir(parents=True, exist_ok=True)
        stamp = datetime.fromisoformat(self.date).strftime("%Y%m%d-%H%M%S")
        path = folder / f"{self.bench}-{stamp}.json"
        path.write_text(json.dumps(self.as_json(), indent=2) + "\n")
        return path


def new_record(
    bench: str,
    settings: Mapping[str, object],
    figures: Sequence[Figure],
    details: Mapping[str, object] | None = None,
) -> Record:
    """Make a record of now and of this machine."""
    return Record(bench, datetime.now(UTC).isoformat(timespec="seconds"), machine(), settings, figures, details or {})


def read_record(path: Path) -> Record:
    """Read a record.

    Raises:
        InvalidInput: the file is none.
    """
    try:
        data = cast("dict[str, object]", json.loads(path.read_text()))
        figures = [Figure(**item) for item in cast("list[dict[str, object]]", data.pop("figures"))]  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        return Record(**data, figures=figures)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise InvalidInput(str(path), f"is no record of a benchmark: {error}") from error


def machine() -> dict[str, object]:
    """Describe what the figures were taken on."""
    import llvmlite.binding as llvm  # noqa: PLC0415 - heavy

    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    has: dict[str, bool] = dict(llvm.get_host_cpu_features())
    return {
        "cpu": models[0] if models else platform.processor(),
        "microarchitecture": llvm.get_host_cpu_name(),
        "cores": len(os.sched_getaffinity(0)),
        "features": [name for name in FEATURES if has.get(name)],
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30), 1),
        "load": round(os.getloadavg()[0], 2),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "commit": commit(),
    }


def _version(package: str) -> str | None:
    """Return what is installed; None on a machine that has only what a benchmark needs."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def commit() -> str | None:
    """Name the commit that runs, with a plus sign if files differ from it; None outside a checkout."""
    folder = Path(__file__).parents[2]
    if not (folder / ".git").exists():
        return None
    command = ("git", "-C", str(folder), "describe", "--always", "--exclude=*", "--abbrev=12", "--dirty=+")
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()  # noqa: S603
    except (OSError, subprocess.CalledProcessError):
        return None


def in_turn(
    cases: Mapping[str, Callable[[], float]],
    repeats: int,
    patience: float = float("inf"),
    progress: Callable[[str], None] | None = None,
) -> dict[str, list[float]]:
    """Pass through all cases again and again, so that what disturbs the machine disturbs all alike.

    Args:
        cases: by name, one pass each; returns its seconds.
        repeats: passes of each, after one that does not count.
        patience: seconds that one case may take in all: longer ones get fewer passes, and if one pass takes them all,
            that pass counts.
        progress: told the name of each case before its pass.

    Returns:
        The seconds of the passes, by name.

    Raises:
        InvalidInput: ``repeats`` is not positive.
    """
    if repeats < 1:
        raise InvalidInput("repeats", "must be at least 1")
    seconds: dict[str, list[float]] = {}
    passes: dict[str, int] = {}
    for name, run in cases.items():
        if progress:
            progress(name)
        first = run()
        passes[name] = min(repeats, int(patience / first) - 1) if first > 0 and patience < float("inf") else repeats
        seconds[name] = [first] if passes[name] < 1 else []
    for number in range(repeats):
        for name, run in cases.items():
            if number < passes[name]:
                if progress:
                    progress(name)
                seconds[name].append(run())
    return seconds


def recorded(command: Callable[..., Record]) -> Callable[..., None]:
    """Make a command of a function that returns a record: it is printed, and written down where that is asked for."""

    @click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
    @click.option("--results", type=click.Path(path_type=Path, file_okay=False), help="Folder to write a record to.")
    @click.option("--plot", is_flag=True, help="Draw the figures beside the record (needs matplotlib).")
    @wraps(command)
    def run(**options: object) -> None:
        as_json, results, plot = options.pop("as_json"), options.pop("results"), options.pop("plot")
        if plot and results is None:
            raise click.UsageError("--plot needs --results")
        record = command(**options)
        if as_json:
            click.echo(json.dumps(record.as_json()))
        else:
            show(record)
        if isinstance(results, Path):
            path = record.write(results)
            click.echo(f"recorded in {path}", err=True)
            if plot:
                from coproc.cli.plots import draw  # noqa: PLC0415 - matplotlib is optional

                click.echo(f"drawn in {draw(record, path.with_suffix('.svg'))}", err=True)

    return run


def show(record: Record) -> None:
    """Print the figures of a record as a table."""
    settings = ", ".join(f"{name.replace('_', ' ')} {_plain(value)}" for name, value in record.settings.items())
    table = Table(title=f"{record.bench}: {settings}")
    table.add_column("", overflow="fold")
    for column in ("median", "quartiles", "unit", "passes"):
        table.add_column(column, justify="left" if column == "unit" else "right", no_wrap=True)
    for item in record.figures:
        spread = "" if item.passes < 2 else f"{number(item.low)} .. {number(item.high)}"
        table.add_row(item.name, number(item.median), spread, item.unit, str(item.passes))
    Console().print(table)


def number(value: float) -> str:
    """Write a number with three significant digits or as an integer."""
    return f"{value:,.0f}" if abs(value) >= 1000 or value == int(value) else f"{value:.3g}"


def _plain(value: object) -> str:
    if isinstance(value, list | tuple):
        return " ".join(str(item) for item in cast("Sequence[object]", value))
    return str(value)
