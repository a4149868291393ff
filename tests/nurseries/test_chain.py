"""Following a chain with a node that misbehaves: in the end, what is computed is what the chain asks for."""

from __future__ import annotations

import random
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
import trio

from coproc.chain.events import Contracts
from coproc.chain.settings import ChainSettings
from coproc.config import Config, InvalidConfiguration
from coproc.errors import InvalidInput
from coproc.program.types import FheType, Handle, new_handle
from coproc.resilience import Breaker, Guard
from coproc.store.base import State
from coproc.store.memory_chain import ChainMemoryStore
from nurseries.chain import ChainActor
from tests.chain.fake_node import FakeChain, FakeNode
from tests.chain.test_events import CHAIN, binary, log
from tests.store.builders import KEY, done, with_key, work

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    from coproc.chain.blocks import Log
    from coproc.store.chains import ChainStore

CONTRACTS = Contracts(b"\xe3" * 20, b"\x50" * 20)


def settings(*urls: str, **changes: object) -> ChainSettings:
    values: dict[str, object] = {
        "chain_id": CHAIN,
        "urls": urls,
        "executor": "0x" + "e3" * 20,
        "acl": "0x" + "50" * 20,
        "key_id": KEY.hex(),
        "first_block": 0,
        "poll_seconds": 0.02,
        "request_seconds": 5,
    }
    return ChainSettings.model_validate(values | changes)


@asynccontextmanager
async def following(store: ChainStore, *urls: str, **changes: object) -> AsyncGenerator[ChainActor]:
    actor = ChainActor(store, settings(*urls, **changes))
    actor._chance = lambda: 0.05  # waits are not what is tested
    async with trio.open_nursery() as nursery:
        await nursery.start(actor.run)
        yield actor
        nursery.cancel_scope.cancel()


async def caught_up(store: ChainStore, chain: FakeChain) -> None:
    with trio.fail_after(30):
        while True:
            tail = await store.chain_tail(CHAIN, 1)
            if tail and "0x" + tail[0].hash.hex() == chain.head["hash"]:
                return
            await trio.sleep(0.01)


class Story:
    """Transactions of a token: balances that are read and replaced, some for everybody to see."""

    def __init__(self, count: int, seed: int = 1) -> None:
        rng = random.Random(seed)
        self.outputs: list[Handle] = []
        self.allowed: set[Handle] = set()
        self.transactions: list[list[Log]] = [self._transaction(rng, number) for number in range(count)]

    def _transaction(self, rng: random.Random, number: int) -> list[Log]:
        name = number.to_bytes(32, "big")
        first, second, third = (new_handle(FheType.UINT8, CHAIN) for _ in range(3))
        made = [log("TrivialEncrypt", ("uint256", "uint8", "bytes32"), (number % 256, 2, first), transaction=name)]
        other = rng.choice(self.outputs) if self.outputs else first
        made += [
            log_of(event, name)
            for event in (binary("FheAdd", first, other, second), binary("FheSub", second, first, third))
        ]
        readable = [second, third] if rng.random() < 0.5 else [third]
        made.append(log("AllowedForDecryption", ("bytes32[]",), (readable,), transaction=name))
        if rng.random() < 0.3:  # the same operation once more names the same handle
            made.append(made[1])
        self.outputs.append(third)
        self.allowed.update(readable)
        return made


def log_of(event: Log, transaction: bytes) -> Log:
    return replace(event, transaction_hash=transaction)


def flat(transactions: Sequence[list[Log]]) -> list[Log]:
    return [event for transaction in transactions for event in transaction]


async def completed(store: ChainStore, handles: Sequence[Handle]) -> set[Handle]:
    found = await store.get_status(handles)
    return {name for name, status in found.items() if status.is_allowed and status.state is State.COMPLETED}


async def test_whatever_a_node_does_the_results_are_those_of_a_quiet_run(store: ChainStore) -> None:
    story, decoys = Story(200), Story(60, seed=2)
    everything = [*story.allowed, *decoys.allowed]
    quiet = FakeChain(CHAIN)
    for at in range(0, 200, 10):
        quiet.mine(flat(story.transactions[at : at + 10]))
    calm = ChainMemoryStore()
    await with_key(calm)
    node = FakeNode(quiet)
    async with node.serving(), following(calm, node.url):
        await caught_up(calm, quiet)
    await work(calm)
    expected = await completed(calm, everything)
    assert expected == story.allowed

    await with_key(store)
    wild = Wild(story, decoys)
    stop = trio.Event()

    async def compute() -> None:
        while not stop.is_set():
            for group in await store.claim("worker", 10, 60):
                with suppress(InvalidInput):  # what it was to make may have been taken back
                    await store.finish("worker", done(group))
            await trio.sleep(0.01)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(compute)
        for depths in ((3, 8), (5, 4), (6, 7), (3, 8)):  # coproc and the node are restarted in between
            async with wild.node.serving(), following(store, wild.node.url):
                await wild.run(store, depths)
                await caught_up(store, wild.chain)
        stop.set()
    assert wild.done == 200
    await work(store)
    assert await completed(store, everything) == expected
    assert await store.get_status(list(decoys.allowed)) == {}, "what orphaned blocks alone asked for is gone"
    told = {event.handle for event in await store.results_after(0, 100_000)}
    assert told == expected


class Wild:
    """The same transactions on a chain that changes its mind, told by a node that garbles and hangs up."""

    def __init__(self, story: Story, decoys: Story) -> None:
        self.chain = FakeChain(CHAIN)
        self.node = FakeNode(self.chain, seed=4)
        self._rng = random.Random(3)
        self._story = story
        self._decoys = iter(decoys.transactions)
        self._blocks: list[list[list[Log]]] = []

    @property
    def done(self) -> int:
        """Transactions that are on the chain."""
        return sum(len(block) for block in self._blocks)

    async def run(self, store: ChainStore, depths: Sequence[int]) -> None:
        """Mine fifty transactions, with reorganisations."""
        for depth in depths:
            for _ in range(3):
                # The new blocks of a branch hold transactions that the next one drops.
                await self._mine(self._story.transactions[self.done : self.done + 10], decoy=True)
                if self._rng.random() < 0.5:
                    await caught_up(store, self.chain)
            await caught_up(store, self.chain)
            await self._reorganise(min(depth, len(self._blocks)))
        while self.done % 50:
            await self._mine(self._story.transactions[self.done : self.done + 10])
        for depth in (1, 2):
            await caught_up(store, self.chain)
            await self._reorganise(depth)

    async def _mine(self, transactions: list[list[Log]], *, decoy: bool = False) -> None:
        self._blocks.append(transactions)
        self.chain.mine(flat([*transactions, next(self._decoys)] if decoy else transactions))
        await self.node.notify()
        await trio.sleep(0.01 * self._rng.random())

    async def _reorganise(self, depth: int) -> None:
        again = [transaction for block in self._blocks[-depth:] for transaction in block]
        del self._blocks[-depth:]
        self.chain.drop(depth)
        await self.node.notify()  # a head number that goes back
        await trio.sleep(0.02)
        cuts = [0, *sorted(self._rng.choices(range(len(again) + 1), k=depth)), len(again)]
        for low, high in pairwise(cuts):
            await self._mine(again[low:high])


async def test_a_dead_node_is_left_and_a_mute_one_too() -> None:
    store = ChainMemoryStore()
    await with_key(store)
    chain = FakeChain(CHAIN)
    good, mute, wrong = FakeNode(chain), FakeNode(chain), FakeNode(FakeChain(5))
    mute.is_mute = True
    async with good.serving(), mute.serving(), wrong.serving():
        urls = ("ws://127.0.0.1:1", mute.url, wrong.url, good.url)
        async with following(store, *urls, request_seconds=0.3) as actor:
            await caught_up(store, chain)
            assert actor.statistics.node_failures >= 3
            assert actor.health.healthy
            chain.mine()
            await caught_up(store, chain)


@pytest.mark.parametrize("scheme", ["ws", "http"])
@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"garbage\r\n\r\n",
        b"HTTP/1.1 403 Forbidden\r\ncontent-length: 2\r\n\r\nno",
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n[]",
        b"HTTP/1.1 200 OK\r\ncontent-length: 60000\r\n\r\n" + b"[" * 60_000,
    ],
    ids=["nothing", "garbage", "403", "no object", "deep"],
)
async def test_what_is_no_node_is_left(said: bytes, scheme: str) -> None:
    store, chain = ChainMemoryStore(), FakeChain(CHAIN)
    await with_key(store)
    node = FakeNode(chain)

    async def answer(stream: trio.SocketStream) -> None:
        with suppress(trio.BrokenResourceError):
            await stream.receive_some(1000)
            await stream.send_all(said)
        await stream.aclose()

    async with node.serving(), trio.open_nursery() as nursery:
        (listener,) = await nursery.start(partial(trio.serve_tcp, answer, 0, host="127.0.0.1"))
        port = listener.socket.getsockname()[1]
        async with following(store, f"{scheme}://127.0.0.1:{port}/secret", node.url) as actor:
            await caught_up(store, chain)
            assert actor.statistics.node_failures == 1
            chain.mine()
            await caught_up(store, chain)
        nursery.cancel_scope.cancel()


async def test_a_line_that_breaks_all_the_time_is_got_over_in_small_steps() -> None:
    store, chain = ChainMemoryStore(), FakeChain(CHAIN)
    await with_key(store)
    for _ in range(100):
        chain.mine()
    node = FakeNode(chain)
    node.patience = 40  # the first page alone takes 128 answers
    async with node.serving(), following(store, node.url) as actor:
        actor.guards = [Guard("node", Breaker(threshold=1000))]
        await caught_up(store, chain)
        assert node.connections > 3


async def test_a_node_that_stands_still_is_left() -> None:
    store = ChainMemoryStore()
    await with_key(store)
    chain, frozen = FakeChain(CHAIN), FakeChain(CHAIN)
    chain.mine()
    good, stale = FakeNode(chain), FakeNode(frozen)
    async with good.serving(), stale.serving(), following(store, stale.url, good.url, stale_seconds=0.1):
        await caught_up(store, chain)


async def test_hostile_events_harm_nothing_else(store: ChainStore) -> None:
    await with_key(store)
    deep = [new_handle(FheType.UINT8, CHAIN) for _ in range(1001)]
    good, zero, mixed, late = (new_handle(FheType.UINT8, CHAIN) for _ in range(4))
    wide, missing = new_handle(FheType.UINT16, CHAIN), new_handle(FheType.UINT8, CHAIN)
    strange = Handle(good[:31] + b"\7")
    start = log("TrivialEncrypt", ("uint256", "uint8", "bytes32"), (7, 2, deep[0]))
    logs = [
        start,
        *(binary("FheAdd", one, one, two) for one, two in pairwise(deep)),
        binary("FheAdd", deep[0], strange, new_handle(FheType.UINT8, CHAIN)),
        binary("FheAdd", deep[0], deep[0], strange),
        binary("FheAdd", deep[0], wide, mixed),
        binary("FheDiv", deep[0], (256).to_bytes(32, "big"), zero, clear=True),
        binary("FheAdd", missing, deep[0], late),
        log("FheNot", (), (), data=b"x"),
        binary("FheAdd", deep[0], deep[0], good),
        log("AllowedForDecryption", ("bytes32[]",), ([*deep, zero, mixed, late, good],)),
    ]
    chain = FakeChain(CHAIN)
    chain.mine(logs)
    node = FakeNode(chain)
    async with node.serving(), following(store, node.url) as actor:
        await caught_up(store, chain)
        assert actor.statistics.faults == 489 + 5
    await work(store)
    found = await store.get_status([*deep, zero, mixed, late, good])
    assert [found[name].state for name in deep] == [State.COMPLETED] * 512 + [State.FAILED] * 489
    assert {found[name].failure.rule for name in deep[512:]} == {"GRAPH_TOO_DEEP"}  # type: ignore[union-attr]
    assert [found[name].failure and found[name].failure.rule for name in (zero, mixed)] == [  # type: ignore[union-attr]
        "DIVISION_BY_ZERO",
        "INVALID_INPUT",
    ]
    assert (found[late].state, found[late].missing) == (State.WAITING, (missing,))
    assert found[good].state is State.COMPLETED
    rules = {fault.rule for fault in await store.chain_faults(CHAIN, 1000)}
    assert rules == {"GRAPH_TOO_DEEP", "DIVISION_BY_ZERO", "INVALID_INPUT", "MALFORMED_EVENT"}


async def test_chains_do_not_wait_for_each_other() -> None:
    store = ChainMemoryStore()
    await with_key(store)
    chain, other = FakeChain(CHAIN), FakeChain(7)
    node, dead = FakeNode(chain), FakeNode(other)
    dead.is_mute = True
    async with (
        node.serving(),
        dead.serving(),
        following(store, node.url),
        following(store, dead.url, chain_id=7) as stuck,
    ):
        chain.mine()
        await caught_up(store, chain)
        assert stuck.statistics.block == -1
        assert await store.chain_tail(7, 1) == []


async def test_events_that_are_withheld_are_asked_for_again() -> None:
    store = ChainMemoryStore()
    await with_key(store)
    story, chain = Story(3), FakeChain(CHAIN)
    node = FakeNode(chain)
    chain.mine(flat(story.transactions), bloom=b"\xff" * 256)
    node.withheld = 2
    async with node.serving(), following(store, node.url) as actor:
        await caught_up(store, chain)
        assert actor.statistics.node_failures >= 1
    await work(store)
    assert await completed(store, list(story.allowed)) == story.allowed


async def test_only_confirmed_blocks_count_and_a_start_may_be_chosen() -> None:
    store = ChainMemoryStore()
    await with_key(store)
    chain = FakeChain(CHAIN)
    for _ in range(9):
        chain.mine()
    node = FakeNode(chain)
    async with node.serving(), following(store, node.url, confirmations=3, first_block=4):
        with trio.fail_after(10):
            while not (tail := await store.chain_tail(CHAIN, 10)) or tail[-1].number < 6:  # noqa: ASYNC110 - likewise
                await trio.sleep(0.01)
        await trio.sleep(0.05)
        assert [block.number for block in await store.chain_tail(CHAIN, 10)] == [4, 5, 6]


async def test_two_processes_on_one_chain_do_no_harm(store: ChainStore) -> None:
    await with_key(store)
    story, chain = Story(40), FakeChain(CHAIN)
    node = FakeNode(chain)
    async with node.serving(), following(store, node.url), following(store, node.url):
        for at in range(0, 40, 2):
            chain.mine(flat(story.transactions[at : at + 2]))
            await node.notify()
        await caught_up(store, chain)
    await work(store)
    assert await completed(store, list(story.allowed)) == story.allowed
    assert len(await store.chain_tail(CHAIN, 100)) == 21


async def test_a_reorganisation_that_is_too_deep_waits_for_a_person() -> None:
    store = ChainMemoryStore()
    await with_key(store)
    chain = FakeChain(CHAIN)
    for _ in range(9):
        chain.mine()
    node = FakeNode(chain)
    async with node.serving(), following(store, node.url, reorg_depth=4) as actor:
        await caught_up(store, chain)
        before = await store.chain_tail(CHAIN, 100)
        chain.drop(6)
        for _ in range(7):
            chain.mine()
        with trio.fail_after(10):
            while actor.error is None:  # noqa: ASYNC110 - a figure, not an event
                await trio.sleep(0.01)
        assert "at most 4" in actor.error
        assert not actor.health.healthy
        assert await store.chain_tail(CHAIN, 100) == before


async def test_a_key_that_is_not_there_yet_is_waited_for() -> None:
    store, chain = ChainMemoryStore(), FakeChain(CHAIN)
    node = FakeNode(chain)
    async with node.serving(), following(store, node.url) as actor:
        with trio.fail_after(10):
            while actor.error is None:  # noqa: ASYNC110 - a figure, not an event
                await trio.sleep(0.01)
        assert "not registered" in actor.error
        await with_key(store)
        await caught_up(store, chain)


def test_settings_are_checked_and_keep_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    chain = settings("wss://user:secret@node.example/v3/secret", "http://10.0.0.1:8545")
    monkeypatch.setenv("COPROC_CHAINS", f"[{chain.model_dump_json()}]")
    config = Config()
    assert config.chains[0].contracts == CONTRACTS
    described = {name: value for name, value, _ in Config(chains=(chain,)).describe({})}
    assert "secret" not in str(described["chains"])
    assert "node.example" in str(described["chains"])
    for change in (
        {"urls": ("ftp://node",)},
        {"urls": ()},
        {"executor": "0x12"},
        {"key_id": "ab"},
        {"chain_id": 0},
        {"unknown": 1},
    ):
        with pytest.raises(InvalidConfiguration, match="chains"):
            Config(chains=[{**chain.model_dump(), **change}])
    with pytest.raises(InvalidConfiguration, match="every chain once"):
        Config(chains=[chain, chain])
