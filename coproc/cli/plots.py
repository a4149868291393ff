"""Pictures of records: bars with their spread, one panel for each unit.

Decides how figures look. The only importer of matplotlib, which is no dependency of coproc (extra ``plots``).
"""

# matplotlib types only part of its interface.
# pyright: reportUnknownMemberType=false

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import click

from coproc.cli.measuring import LIMITS, number

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.figure import Figure as Canvas

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
    if LIMITS in record.details:
        return _save(_over_batches(record, Canvas(figsize=(8, 5), layout="constrained")), record, path)
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
    return _save(canvas, record, path)


def _over_batches(record: Record, canvas: Canvas) -> Canvas:
    """Draw rates over batch sizes below what the device could do at most."""
    axis = canvas.subplots()
    limits = cast("dict[str, float | None] | None", record.details[LIMITS]) or {}
    for what, color in (("keyswitch and bootstrap", "#4c72b0"), ("bootstrap", "#dd8452")):
        prefix = "both, batch " if what.startswith("key") else "bootstrap, batch "
        chosen = [item for item in record.figures if item.name.startswith(prefix)]
        sizes = [int(item.name.removeprefix(prefix)) for item in chosen]
        axis.plot(sizes, [item.median for item in chosen], marker="o", markersize=4, label=what, color=color)
    for (name, value), style in zip(limits.items(), ("--", "-.", ":"), strict=False):
        if value is not None:
            axis.axhline(
                value, linestyle=style, linewidth=1, color="#555555", label=f"limit by {name}: {number(value)}"
            )
    axis.set_xscale("log", base=2)
    axis.set_yscale("log")
    axis.set_xlabel("ciphertexts in a batch")
    axis.set_ylabel("per second")
    axis.grid(visible=True, which="major", alpha=0.3)
    axis.legend(fontsize=8)
    return canvas


def _save(canvas: Canvas, record: Record, path: Path) -> Path:
    where = record.settings.get("device", record.machine["cpu"])
    canvas.suptitle(f"coproc bench {record.bench}, {where}, {record.date[:10]}", fontsize=10)
    dateless = {"Date": None} if path.suffix == ".svg" else None  # so that the same record gives the same file
    canvas.savefig(path, metadata=dateless)
    return path
