"""``coproc bench compare``: what got slower or faster between two records, beyond their spread.

Decides when a difference counts: the quartiles of both do not touch, and the medians differ by more than a tolerance.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

import click
from rich.console import Console
from rich.table import Table

from coproc.cli.measuring import Figure, Record, number, read_record

if TYPE_CHECKING:
    from collections.abc import Sequence

Verdict = Literal["slower", "faster", "changed", "same"]
SAME_MACHINE: Final = ("cpu", "cores", "features")
"""What must agree for absolute figures to be comparable."""
PATH: Final = click.Path(path_type=Path, exists=True, dir_okay=False)


@dataclass(frozen=True, slots=True)
class Difference:
    """One figure, before and after."""

    name: str
    unit: str
    before: float
    after: float
    verdict: Verdict

    @property
    def change(self) -> float:
        """Relative change of the median; infinite where it was zero."""
        if self.before == 0:
            return 0.0 if self.after == 0 else float("inf")
        return self.after / self.before - 1


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two records of one benchmark."""

    differences: Sequence[Difference]
    only_before: Sequence[str]
    only_after: Sequence[str]
    warnings: Sequence[str]

    @property
    def has_slower(self) -> bool:
        """Whether anything got slower."""
        return any(item.verdict == "slower" for item in self.differences)


def compare(before: Record, after: Record, tolerance: float = 0.02) -> Comparison:
    """Match figures by name and unit, and judge each."""
    old = {(item.name, item.unit): item for item in before.figures}
    new = {(item.name, item.unit): item for item in after.figures}
    differences = [
        Difference(name, unit, item.median, new[name, unit].median, _judge(item, new[name, unit], tolerance))
        for (name, unit), item in old.items()
        if (name, unit) in new
    ]
    warnings = [
        f"{what} differs: {before.machine.get(what)} and {after.machine.get(what)}"
        for what in SAME_MACHINE
        if before.machine.get(what) != after.machine.get(what)
    ]
    warnings += [
        f"{name} differs: {before.settings.get(name)} and {after.settings.get(name)}"
        for name in before.settings.keys() | after.settings.keys()
        if before.settings.get(name) != after.settings.get(name)
    ]
    return Comparison(
        differences,
        [name for name, unit in old if (name, unit) not in new],
        [name for name, unit in new if (name, unit) not in old],
        sorted(warnings),
    )


def _judge(before: Figure, after: Figure, tolerance: float) -> Verdict:
    apart = after.low > before.high or after.high < before.low
    if not apart or abs(after.median - before.median) <= tolerance * abs(before.median):
        return "same"
    if before.better == "same":
        return "changed"
    return "faster" if (after.median > before.median) == (before.better == "higher") else "slower"


@click.command("compare")
@click.argument("before", type=PATH)
@click.argument("after", type=PATH)
@click.option("--tolerance", default=0.02, show_default=True, help="Relative difference that never counts.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def bench_compare(before: Path, after: Path, tolerance: float, *, as_json: bool) -> None:
    """Say what got slower or faster between two records, beyond their spread.

    Ends with status 1 if anything got slower.
    """
    old, new = read_record(before), read_record(after)
    if old.bench != new.bench:
        raise click.UsageError(f"these are records of different benchmarks: {old.bench} and {new.bench}")
    found = compare(old, new, tolerance)
    if as_json:
        rows = [asdict(item) | {"change": item.change} for item in found.differences]
        click.echo(json.dumps(asdict(found) | {"differences": rows}))
    else:
        _show(old, new, found)
    if found.has_slower:
        raise click.exceptions.Exit(1)


def _show(before: Record, after: Record, found: Comparison) -> None:
    console = Console()
    table = Table(title=f"{before.bench}: {before.date} and {after.date}")
    for column in ("", "before", "after", "unit", "change", ""):
        table.add_column(column, justify="left" if column in {"", "unit"} else "right")
    for item in found.differences:
        colour = {"slower": "red", "faster": "green", "changed": "yellow", "same": "dim"}[item.verdict]
        verdict = "" if item.verdict == "same" else item.verdict
        table.add_row(
            *(item.name, number(item.before), number(item.after), item.unit),
            *(f"{item.change:+.1%}", f"[{colour}]{verdict}[/{colour}]"),
        )
    console.print(table)
    for warning in found.warnings:
        console.print(f"[yellow]not alike:[/yellow] {warning}")
    for label, names in (("only before", found.only_before), ("only after", found.only_after)):
        if names:
            console.print(f"{label}: {', '.join(names)}")
