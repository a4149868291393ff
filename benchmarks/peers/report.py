"""The README's table of a comparison with TFHE-rs, made of a record.

Decides which cases the README shows: bootstraps, transfers, and operations on 64 bits when there are many of them.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from benchmarks.peers.run import CPU_RATIO, PEER, RATIO
from coproc.cli.measuring import number, read_record

if TYPE_CHECKING:
    from coproc.cli.measuring import Record

BEGIN: Final = "<!-- bench-peers -->"
END: Final = "<!-- /bench-peers -->"


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


@click.command()
@click.argument("record", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--readme", type=click.Path(path_type=Path, exists=True), help="Replace the table between its marks.")
def main(record: Path, readme: Path | None) -> None:
    """Print the README's table of a comparison, or put it there."""
    made = table(read_record(record))
    if readme is None:
        click.echo(made)
        return
    before, found, rest = readme.read_text().partition(BEGIN)
    _, ended, after = rest.partition(END)
    if not found or not ended:
        raise click.ClickException(f"{readme} has no {BEGIN} ... {END}")
    readme.write_text(f"{before}{BEGIN}\n{made}\n{END}{after}")


if __name__ == "__main__":
    main()
