"""Following a chain as a pure function: whatever a node does, our chain becomes the node's."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coproc.chain.blocks import Header, NodeFault
from coproc.chain.follow import ByHash, ByNumber, Follower, ReorgTooDeep
from coproc.store.chains import BlockId

if TYPE_CHECKING:
    from collections.abc import Sequence

    from coproc.chain.follow import Request, Step


class Node:
    """A node that can be told to fork, to forget and to lie."""

    def __init__(self) -> None:
        self.chain: list[Header] = []
        self.blocks: dict[bytes, Header] = {}
        self._made = 0
        self.mine()

    def mine(self, count: int = 1) -> None:
        for _ in range(count):
            self._made += 1
            parent = self.chain[-1].hash if self.chain else bytes(32)
            header = Header(len(self.chain), self._made.to_bytes(32, "big"), parent)
            self.chain.append(header)
            self.blocks[header.hash] = header

    def drop(self, depth: int) -> None:
        del self.chain[max(1, len(self.chain) - depth) :]

    def answer(self, request: Request) -> Header | None:
        if isinstance(request, ByHash):
            return self.blocks.get(request.hash)
        return self.chain[request.number] if request.number < len(self.chain) else None


def steps(follower: Follower, node: Node, head: Header) -> Sequence[Step]:
    walk = follower.advance(head)
    try:
        requests = next(walk)
        while True:
            requests = walk.send([node.answer(request) for request in requests])
    except StopIteration as end:
        return list(end.value)


class Ledger:
    """What a store would hold."""

    def __init__(self, follower: Follower) -> None:
        self.follower = follower
        self.hashes: list[bytes] = []
        self.taken_back = 0

    def catch_up(self, node: Node, head: Header) -> None:
        while done := steps(self.follower, node, head):
            for step in done:
                for orphan in step.orphaned:
                    assert self.hashes.pop() == orphan
                    self.taken_back += 1
                for header in step.blocks:
                    assert not self.hashes or node.blocks[self.hashes[-1]].hash == header.parent
                    self.hashes.append(header.hash)
                self.follower.applied(step)


def test_a_long_way_is_gone_in_pages() -> None:
    node = Node()
    node.mine(200)
    ledger = Ledger(Follower((), first=7, depth=10, page=16))
    first = steps(ledger.follower, node, node.chain[-1])
    assert [step.blocks[0].number for step in first] == list(range(7, 23))
    ledger.catch_up(node, node.chain[-1])
    assert ledger.hashes == [header.hash for header in node.chain[7:]]


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 12), st.integers(0, 5)), max_size=30), st.integers(0, 9999))
def test_whatever_happens_our_chain_is_the_nodes(moves: list[tuple[int, int, int]], seed: int) -> None:
    rng = random.Random(seed)
    node = Node()
    ledger = Ledger(Follower((), first=1, depth=400, page=4))
    for depth, mined, old in moves:
        node.drop(depth)
        node.mine(mined)
        ledger.catch_up(node, node.chain[-1])
        for _ in range(old):  # late, repeated and reordered words of heads that are ours
            ledger.catch_up(node, rng.choice(node.chain))
        if rng.random() < 0.2:  # a restart
            tail = [BlockId(node.blocks[name].number, name) for name in ledger.hashes]
            ledger.follower = Follower(tail, first=1, depth=400, page=4)
    node.mine()
    ledger.catch_up(node, node.chain[-1])
    assert ledger.hashes == [header.hash for header in node.chain[1:]]


def test_a_head_that_goes_back_waits_for_its_next_block() -> None:
    node = Node()
    node.mine(10)
    ledger = Ledger(Follower((), first=1, depth=8))
    ledger.catch_up(node, node.chain[-1])
    node.drop(4)
    ledger.catch_up(node, node.chain[-1])
    assert (len(ledger.hashes), ledger.taken_back) == (10, 0), "a node that lags proves nothing"
    node.mine()
    ledger.catch_up(node, node.chain[-1])
    assert (len(ledger.hashes), ledger.taken_back) == (7, 4)


@pytest.mark.parametrize("depth", range(1, 9))
def test_a_reorganisation_is_one_step(depth: int) -> None:
    node = Node()
    node.mine(20)
    follower = Follower((), first=1, depth=8)
    Ledger(follower).catch_up(node, node.chain[-1])
    old = [header.hash for header in node.chain[-depth:]]
    node.drop(depth)
    node.mine(depth + 2)
    found = steps(follower, node, node.chain[-1])
    assert found[0].orphaned == tuple(reversed(old))
    assert [len(step.blocks) for step in found] == [depth, 1, 1]


def test_what_goes_too_deep_is_said() -> None:
    node = Node()
    node.mine(20)
    follower = Follower((), first=1, depth=8)
    Ledger(follower).catch_up(node, node.chain[-1])
    node.drop(9)
    node.mine(12)
    with pytest.raises(ReorgTooDeep, match="at most 8"):
        steps(follower, node, node.chain[-1])


def test_even_the_first_block_may_change() -> None:
    node = Node()
    node.mine(4)
    ledger = Ledger(Follower((), first=2, depth=8))
    ledger.catch_up(node, node.chain[-1])
    node.drop(4)
    node.mine(4)
    ledger.catch_up(node, node.chain[-1])
    assert ledger.hashes == [header.hash for header in node.chain[2:]]


def test_a_node_that_forgets_or_has_nothing_yet_is_asked_again() -> None:
    node = Node()
    assert steps(Follower((), first=5, depth=8), node, node.chain[-1]) == []
    node.mine(9)
    follower = Follower((), first=1, depth=8)
    Ledger(follower).catch_up(node, node.chain[-1])
    node.drop(3)
    node.mine(3)
    head = node.chain[-1]
    del node.blocks[head.parent]
    assert steps(follower, node, head) == []


def test_a_node_that_lies_is_caught() -> None:
    node = Node()
    node.mine(9)
    for lie in (Header(5, b"x" * 32, node.chain[0].hash), Header(2, b"y" * 32, node.chain[0].hash)):
        walk = Follower((), first=1, depth=8).advance(node.chain[-1])
        requests = next(walk)
        assert requests[0] == ByNumber(1)
        with pytest.raises(NodeFault):
            walk.send([lie, *(node.answer(request) for request in requests[1:])])
    follower = Follower((), first=1, depth=8)
    Ledger(follower).catch_up(node, node.chain[-1])
    with pytest.raises(NodeFault, match="for a parent"):
        steps(follower, node, Header(9, b"z" * 32, node.chain[4].hash))
    walk = follower.advance(Header(9, b"z" * 32, b"w" * 32))
    assert next(walk) == (ByHash(b"w" * 32),)
    with pytest.raises(NodeFault, match="not the parent"):
        walk.send([node.chain[3]])
