"""What PromQL expressions ask for, and what there is to be asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, cast

import promql_parser as promql
from prometheus_client import Counter, Gauge, Histogram

from coproc import metrics

TARGET_LABELS: Final = frozenset({"namespace", "instance", "job", "pod", "component"})
"""What Prometheus adds."""


@dataclass(frozen=True)
class Series:
    """Series of one name."""

    labels: frozenset[str]
    is_counter: bool


def known() -> dict[str, Series]:
    """Every series under ``/metrics`` by its name."""
    found: dict[str, Series] = {}
    for name, family in metrics.FAMILIES.items():
        found[metrics.PREFIX + name] = Series(frozenset(family.labels), family.kind == "counter")
    for value in vars(metrics).values():
        if not isinstance(value, Counter | Gauge | Histogram):
            continue
        inner = cast("dict[str, object]", vars(value))
        labels, name = frozenset(cast("tuple[str, ...]", inner["_labelnames"])), str(inner["_name"])
        if isinstance(value, Histogram):
            found[f"{name}_bucket"] = Series(labels | {"le"}, is_counter=True)
            found |= {f"{name}_{part}": Series(labels, is_counter=True) for part in ("sum", "count")}
        elif isinstance(value, Counter):
            found[f"{name}_total"] = Series(labels, is_counter=True)
        else:
            found[name] = Series(labels, is_counter=False)
    for family in metrics.INSTRUMENTS.collect():
        if family.name.startswith("process_"):
            suffix = "_total" if family.type == "counter" else ""
            found[family.name + suffix] = Series(frozenset(), family.type == "counter")
    return found


def check(text: str, series: dict[str, Series]) -> list[str]:
    """Say what is wrong with an expression: syntax, names, labels, and counters that are read as gauges."""
    try:
        expression: promql.Expr = promql.parse(text)
    except ValueError as error:
        return [str(error)]
    faults: list[str] = []
    is_range = False  # a range selector comes before its own vector selector

    def visit(node: promql.Expr) -> None:
        nonlocal is_range
        if isinstance(node, promql.VectorSelector):
            faults.extend(_faults(node, series, is_range=is_range))
            is_range = False
        elif isinstance(node, promql.AggregateExpr) and node.modifier is not None:
            there = _labels(node.expr, series) | TARGET_LABELS
            faults.extend(f"nothing here has a label {name}" for name in node.modifier.labels if name not in there)
        is_range = is_range or isinstance(node, promql.MatrixSelector)

    promql.walk(expression, visit)
    return faults


def _faults(selector: promql.VectorSelector, series: dict[str, Series], *, is_range: bool) -> list[str]:
    name = selector.name or ""
    if name not in series:
        return [f"there is no {name}"]
    there = series[name].labels | TARGET_LABELS
    faults = [f"{name} has no label {one.name}" for one in selector.matchers.matchers if one.name not in there]
    if series[name].is_counter != is_range:
        faults.append(f"{name} is {'no' if is_range else 'a'} counter")
    return faults


def _labels(expression: promql.Expr, series: dict[str, Series]) -> frozenset[str]:
    """Labels of everything that an expression selects."""
    names: set[str] = set()

    def note(node: promql.Expr) -> None:
        if isinstance(node, promql.VectorSelector) and node.name in series:
            names.update(series[node.name].labels)

    promql.walk(expression, note)
    return frozenset(names)
