"""A real chain in a storm: in the end, what is computed is what a service computes that follows it in peace.

200 transactions in 20 blocks of ten, on anvil with fhevm's contracts. Blocks are taken back eight times, by one to
eight of them, in both ways that anvil knows; the line to the node drops sockets and garbles what is told; coproc is
stopped once and killed once, and the node is restarted.
"""

from __future__ import annotations

import hashlib
import os
import random
import signal
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import psycopg
import pytest
import trio

from coproc.cli.devnet import CHAIN_ID, calldata, running_chain, write_settings
from coproc.cli.service import private_service
from coproc.client import State
from coproc.program.types import Handle
from nurseries.bridge import open_client
from tests.clients.bad_line import BadLine
from tests.clients.node import open_node_client

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from coproc.cli.devnet import Devnet
    from coproc.cli.service import Service
    from tests.clients.conftest import NodeKeys
    from tests.clients.node import Version

HERE = Path(__file__).parent
HOLDERS = (7, 8, 9)
BLOCKS, IN_BLOCK = 20, 10


@dataclass(frozen=True)
class Call:
    """A transaction of the token."""

    sender: int
    function: str
    values: tuple[object, ...]


@dataclass
class Ledger:
    """The token in the clear, and the transactions that are to happen, in order."""

    accounts: Sequence[str]
    calls: list[Call] = field(default_factory=list)
    balances: dict[str, int] = field(default_factory=dict)

    def write(self, count: int) -> None:
        """Draw transactions."""
        rng = random.Random(11)
        self.balances = dict.fromkeys((self.accounts[holder] for holder in HOLDERS), 0)
        for number in range(count):
            one, other = (self.accounts[holder] for holder in rng.sample(HOLDERS, 2))
            if number < len(HOLDERS) or rng.random() < 0.6:
                amount = rng.randrange(1000)
                self.calls.append(Call(HOLDERS[0], "mint", (one, amount)))
                self.balances[one] += amount
            else:
                amount = rng.randrange(2000)
                self.calls.append(Call(self.accounts.index(one), "transferClear", (other, amount)))
                moved = amount if amount <= self.balances[one] else 0
                self.balances[one] -= moved
                self.balances[other] += moved


@dataclass(frozen=True)
class Branch:
    """Blocks that will be taken back."""

    depth: int
    before: int
    """Transactions that were on the chain before."""
    snapshot: object


class Weather:
    """Mines the ledger's transactions, and takes some back."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self.done = 0
        """Transactions that are on the chain."""

    def mine(self, chain: Devnet, *, decoy: bool = False) -> None:
        """Mine the next ten transactions, and perhaps one that will not come again."""
        for call in self._ledger.calls[self.done : self.done + IN_BLOCK]:
            self._send(chain, call)
        if decoy:
            self._send(chain, Call(6, "mint", (chain.accounts[6], 1)))
        chain.rpc("evm_mine")
        self.done += IN_BLOCK

    def branch(self, chain: Devnet, depth: int) -> Branch:
        """Mine ``depth`` blocks that will be taken back."""
        branch = Branch(depth, self.done, chain.rpc("evm_snapshot"))
        for _ in range(depth):
            self.mine(chain, decoy=True)
        return branch

    def take_back(self, chain: Devnet, branch: Branch, *, silent: bool) -> None:
        """Leave the transactions of a branch to be mined again."""
        if silent:
            chain.rpc("evm_revert", branch.snapshot)  # the head goes back without a word
        else:
            chain.rpc("anvil_reorg", branch.depth, [])  # empty blocks take the place, and logs are told to be removed
        self.done = branch.before

    def _send(self, chain: Devnet, call: Call) -> None:
        data = calldata(chain.contracts["ConfidentialToken"]["abi"], call.function, call.values)
        fields = {"from": chain.accounts[call.sender], "to": chain.token, "data": "0x" + data.hex()}
        chain.rpc("eth_sendTransaction", fields | {"gas": hex(2_000_000)})


@contextmanager
def service_on(url: str, database_url: str, keys: NodeKeys, file: Path) -> Generator[Service]:
    write_settings(file, [url], hashlib.sha256(keys.compressed_server_key).digest())
    options = ["--config-file", str(file), "--allow-insecure-parameters", "--database-url", database_url]
    with private_service(options) as service:
        yield service


def completed(url: str) -> set[bytes]:
    """Handles whose results are told."""
    with psycopg.connect(url) as connection:
        rows = connection.execute("select r.output from results r join ciphertexts c on c.handle = r.output").fetchall()
    return {bytes(output) for (output,) in rows}


async def caught_up(url: str, chain: Devnet, *, computed: bool = True) -> None:
    """Wait until the chain is followed to its head, and everything that is allowed is computed."""
    open_states = (1, 2) if computed else ()
    with trio.fail_after(240):
        while True:
            head = chain.rpc("eth_getBlockByNumber", "latest", False)["hash"]
            with psycopg.connect(url) as connection:
                there = connection.execute(
                    "select exists (select from chain_blocks where chain_id = %s and hash = %s) and not exists"
                    " (select from work_groups where state = any(%s))",
                    [CHAIN_ID, bytes.fromhex(head[2:]), list(open_states)],
                ).fetchone()
            if there == (True,):
                return
            await trio.sleep(0.1)


async def in_the_storm(chain: Devnet, weather: Weather, depths: Sequence[int], database_url: str | None = None) -> None:
    """Mine a block and a branch, which somebody follows if there is a database, and take the branch back."""
    for depth in depths:
        await trio.to_thread.run_sync(weather.mine, chain)
        branch = await trio.to_thread.run_sync(weather.branch, chain, depth)
        if database_url is not None:
            await caught_up(database_url, chain, computed=depth % 3 == 0)
        await trio.to_thread.run_sync(partial(weather.take_back, chain, branch, silent=depth % 2 == 0))


def reorganisations(service: Service) -> int:
    """How often a service has seen the chain change its mind."""
    for line in httpx.get(f"{service.addresses.health}/metrics", timeout=20).text.splitlines():
        if line.startswith("coproc_chain_reorganisations_total{"):
            return int(float(line.split()[-1]))
    return 0


@pytest.mark.skipif(not os.environ.get("COPROC_E2E"), reason="takes a minute: make e2e")
async def test_whatever_happens_the_results_are_those_of_a_quiet_run(
    toy_node_keys: dict[Version, NodeKeys], empty_database_url: str, database_url: str, tmp_path: Path
) -> None:
    keys, state = toy_node_keys["1.5"], str(tmp_path / "state.json")
    line, stormy, quiet = BadLine(seed=2), empty_database_url, database_url
    key_file = tmp_path / "coproc.toml"
    async with line.open(), open_node_client("1.5") as node:
        with running_chain(HERE, "--dump-state", state) as chain:
            first = chain
            chain.rpc("evm_setAutomine", False)
            ledger = Ledger(chain.accounts)
            ledger.write(BLOCKS * IN_BLOCK)
            weather = Weather(ledger)
            line.target = chain.websocket
            with service_on(line.url, stormy, keys, key_file) as service:
                async with open_client("127.0.0.1", service.grpc_port) as client:
                    await client.register_key(keys.compressed_server_key)
                await in_the_storm(chain, weather, (1, 8, 4), stormy)
                assert reorganisations(service) >= 2
            # Stopped in order; the chain goes on meanwhile, and back behind what was followed.
            await in_the_storm(chain, weather, (5,))
            with service_on(line.url, stormy, keys, key_file) as service:
                await in_the_storm(chain, weather, (7, 2), stormy)
                service.process.kill()
                service.process.wait()
            chain.process.send_signal(signal.SIGINT)
            chain.process.wait(20)
        with running_chain(HERE, "--load-state", state, deployed=False) as chain:
            chain.token, chain.contracts = first.token, first.contracts
            chain.rpc("evm_setAutomine", False)
            with service_on(line.url, stormy, keys, key_file) as service:  # before it can reach the node
                await trio.sleep(0.5)
                line.target = chain.websocket
                await in_the_storm(chain, weather, (3, 6), stormy)
                while weather.done < len(ledger.calls):
                    await trio.to_thread.run_sync(weather.mine, chain)
                await caught_up(stormy, chain)
            with service_on(chain.websocket, quiet, keys, key_file) as service:
                async with open_client("127.0.0.1", service.grpc_port) as client:
                    await client.register_key(keys.compressed_server_key)
                    await caught_up(quiet, chain)
                    found: dict[str, int] = {}
                    for who in ledger.balances:
                        (item,) = await client.fetch([Handle(chain.handle("balances", who))])
                        assert item.state is State.COMPLETED
                        assert item.ciphertext is not None
                        found[who] = await node.decrypt(keys.client_key, "FheUint64", item.ciphertext)
            assert found == ledger.balances
    expected = completed(quiet)
    assert len(expected) > len(ledger.calls)
    assert completed(stormy) == expected
    assert line.dropped
    assert line.repeated
    assert line.held
