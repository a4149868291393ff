"""What leaves the service by the page: levels that make sense, names for everything, and nothing that is secret."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from coproc.health.history import Point
from coproc.health.view import find_levels, show_glance, show_graph, show_points, type_name
from coproc.program.types import FheType, Handle
from coproc.store.base import Failure, State
from coproc.store.overview import GraphNode, TransactionGraph


def handle(number: int, fhe_type: int = FheType.UINT64) -> Handle:
    return Handle(bytes([number]) * 30 + bytes([fhe_type, 0]))


def node(number: int, *inputs: int) -> GraphNode:
    sources = tuple(handle(source) for source in inputs)
    return GraphNode(handle(number), "ADD", sources, State.COMPLETED, True, 1, 1, None)


def levels(*nodes: GraphNode) -> list[int]:
    found = find_levels(nodes)
    return [found[item.handle] for item in nodes]


def test_a_level_is_the_longest_way_from_outside() -> None:
    assert levels(node(1, 100, 101), node(2, 1, 100), node(3, 2, 1), node(4, 100)) == [1, 2, 3, 1]
    assert levels(node(3, 2), node(2, 1), node(1, 100)) == [3, 2, 1], "in whatever order they are told"
    assert levels() == []


@pytest.mark.parametrize("nodes", [(node(1, 1),), (node(1, 2), node(2, 1)), (node(1, 2), node(2, 1), node(3, 1))])
def test_damaged_rows_that_go_in_circles_are_still_shown(nodes: tuple[GraphNode, ...]) -> None:
    assert levels(*nodes) == [1] * len(nodes)


def test_a_long_chain_is_no_matter() -> None:
    chain = [node(0, 255), *(replace(node(0), handle=_long(n), inputs=(_long(n - 1),)) for n in range(1, 400))]
    assert max(levels(*chain)) == 399


def _long(number: int) -> Handle:
    return Handle(number.to_bytes(30, "big") + bytes([FheType.UINT8, 0]))


def test_every_type_has_a_name() -> None:
    names = [type_name(handle(1, fhe_type)) for fhe_type in (0, 5, 7, 10, 26, 99)]
    assert names == ["ebool", "euint64", "eaddress", "ebytes128", "eint64", "unknown"]


def test_a_graph_is_told_with_reasons_and_is_json() -> None:
    failed = replace(node(2, 1), state=State.FAILED, failure=Failure("INPUT_FAILED", "<b>", handle(1)))
    graph = TransactionGraph(b"t" * 32, 5, (node(1, 100), failed), {handle(100): False})
    shown = json.loads(json.dumps(show_graph(graph)))
    assert (shown["id"], shown["total"]) == ((b"t" * 32).hex(), 5)
    assert shown["inputs"] == [{"handle": handle(100).hex(), "type": "euint64", "stored": False}]
    assert [item["level"] for item in shown["nodes"]] == [1, 2]
    assert shown["nodes"][1]["failure"] == {"rule": "INPUT_FAILED", "message": "<b>", "cause": handle(1).hex()}


def test_columns_are_as_long_as_each_other() -> None:
    points = [
        Point(1.0, 2.0, 0, 0, 0.0, computed={"gpu": 5}, busy={"gpu": 1.0}),
        Point(3.0, 2.0, 0, 0, 0.0, computed={"gpu": 5, "cpu": 2}, busy={"gpu": 1.0, "cpu": 0.5}),
    ]
    shown = show_points(points)
    assert shown["busy"] == {"gpu": [1.0, 1.0], "cpu": [0.0, 0.5]}
    assert shown["computed"] == {"gpu": [5, 5], "cpu": [0, 2]}
    assert {len(column) for column in shown.values() if isinstance(column, list)} == {2}


def test_without_a_glance_nothing_is_known() -> None:
    shown = show_glance(None, "away", 5.0)
    assert shown == {"error": "away", "seconds": None, "age": None, "queue": None, "workers": None}
