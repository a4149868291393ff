"""Pictures of records: bars with their spread, one panel for each unit.

Decides how figures look. The only importer of matplotlib, which is no dependency of coproc (extra ``plots``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from coproc.cli.measuring import number

if TYPE_CHECKING:
    from pathlib import Path

    from coproc.cli.measuring import Figure, Record

INCHES_A_BAR = 0.28


def draw(record: Record, path: Path) -> Path:
    """Draw the figures of a record; the suffix of ``path`` decides the format. Returns the path.

    Raises:
        click.ClickException: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure as Canvas  # noqa: PLC0415 - optional
    except ImportError as error:
        raise click.ClickException("--plot needs matplotlib: install the extra `plots`") from error
    panels: dict[str, list[Figure]] = {}
    for item in record.figures:
        panels.setdefault(item.unit, []).append(item)
    if not panels:
        raise click.ClickException(f"the record of {record.bench} has no figures")
    heights = [INCHES_A_BAR * len(items) + 0.6 for items in panels.values()]
    canvas = Canvas(figsize=(9, sum(heights) + 0.6), layout="constrained")
    axes = canvas.subplots(len(panels), squeeze=False, height_ratios=heights)[:, 0]
    for axis, (unit, items) in zip(axes, panels.items(), strict=True):
        names = [item.name for item in items]
        medians = [item.median for item in items]
        below = [item.median - item.low for item in items]
        above = [item.high - item.median for item in items]
        bars = axis.barh(names, medians, xerr=(below, above), color="#4c72b0", ecolor="#333333", capsize=2)
        axis.bar_label(bars, [f"  {number(value)}" for value in medians], fontsize=8)
        axis.invert_yaxis()
        axis.margins(x=0.12)
        axis.set_xlabel(unit)
        axis.tick_params(axis="y", labelsize=8)
        if max(medians) > 50 * min(value for value in medians if value > 0):
            axis.set_xscale("log")
    title = f"coproc bench {record.bench}, {record.machine['cpu']}, {record.date[:10]}"
    canvas.suptitle(title, fontsize=10)  # pyright: ignore[reportUnknownMemberType]
    dateless = {"Date": None} if path.suffix == ".svg" else None  # so that the same record gives the same file
    canvas.savefig(path, metadata=dateless)  # pyright: ignore[reportUnknownMemberType]
    return path
