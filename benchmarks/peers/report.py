"""The README's tables of comparisons with TFHE-rs, made of records.

Decides which cases the README shows: of one record bootstraps, transfers, and operations on 64 bits when there are many
of them; of several the ratio of every operation and width.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from benchmarks.peers.run import CPU_RATIO, PEER, RATIO
from coproc.cli.measuring import number, read_record
from coproc.program.catalogue import TFHE_RS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from coproc.cli.measuring import Record


def is_shown(label: str) -> bool:
    """Whether the README shows a case."""
    return label.startswith(("KS+PBS", "transfer")) or label.endswith(" 64, throughput")


def table(record: Record) -> str:
    """Write the cases of the README as a table in Markdown, with what they were taken on."""
    figures = {item.name: item for item in record.figures}
    machine = record.machine
    where = f"{machine['cpu']} ({machine['microarchitecture']}), {record.settings['cores']} cores"
    when = f"{record.date[:10]}, commit {machine['commit']}, load before the run {machine['load']}"
    lines = [
        f"{where}, {when}; {PEER} compiled for this CPU:",
        "",
        f"| a second | coproc | {PEER} | ratio | quartiles | of CPU time |",
        "|---|---|---|---|---|---|",
    ]
    for name, ratio in figures.items():
        label = name.removesuffix(f", {RATIO}")
        if label == name or not is_shown(label):
            continue
        rates = [number(figures[f"{label}, {side}"].median) for side in ("coproc", PEER)]
        quartiles = f"{ratio.low:.2f} to {ratio.high:.2f}" if ratio.passes > 1 else "one round"
        cpu = figures[f"{label}, {CPU_RATIO}"].median
        lines.append(f"| {label} | {' | '.join(rates)} | {ratio.median:.2f} | {quartiles} | {cpu:.2f} |")
    return "\n".join(lines)


def width_table(records: Sequence[Record]) -> str:
    """Write how many times as much CPU time the peer takes, by operation and width; later records win.

    That of many operations on all cores comes first, then that of a single one. CPU time, since of long operations
    there may be one round only, in which something else may have had the machine.
    """
    ratios: dict[tuple[str, int, str], float] = {}
    for record in records:
        for item in record.figures:
            label, _, what = item.name.rpartition(", ")
            named, _, way = label.rpartition(", ")
            operation, _, bits = named.rpartition(" ")
            if what == CPU_RATIO and bits.isdecimal() and operation in TFHE_RS:
                ratios[operation, int(bits), way] = item.median
    widths = sorted({bits for _, bits, _ in ratios})
    lines = [f"| many, alone | {' | '.join(map(str, widths))} |", f"|---|{'---|' * len(widths)}"]
    for operation in TFHE_RS:
        cells = [
            ", ".join(
                f"{ratios[operation, bits, way]:.1f}" if (operation, bits, way) in ratios else "-"
                for way in ("throughput", "latency")
            )
            for bits in widths
        ]
        if any(cell != "-, -" for cell in cells):
            lines.append(f"| {operation} | {' | '.join(cells)} |")
    return "\n".join(lines)


@click.command()
@click.argument("records", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--widths", is_flag=True, help="Of all records together, the ratio of every operation and width.")
@click.option("--readme", type=click.Path(path_type=Path, exists=True), help="Replace the table between its marks.")
def main(records: tuple[Path, ...], readme: Path | None, *, widths: bool) -> None:
    """Print a table of the README, or put it there; without --widths it is that of the last record."""
    read = [read_record(record) for record in records]
    made = width_table(read) if widths else table(read[-1])
    if readme is None:
        click.echo(made)
        return
    mark = "bench-peers-widths" if widths else "bench-peers"
    begin, end = f"<!-- {mark} -->", f"<!-- /{mark} -->"
    before, found, rest = readme.read_text().partition(begin)
    _, ended, after = rest.partition(end)
    if not found or not ended:
        raise click.ClickException(f"{readme} has no {begin} ... {end}")
    readme.write_text(f"{before}{begin}\n{made}\n{end}{after}")


if __name__ == "__main__":
    main()
