"""Unmodified contracts of fhevm on a real chain: a confidential token transacts, coproc computes, a client decrypts."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio

from coproc.cli.devnet import ACL, CHAIN_ID, running_chain, write_settings
from coproc.cli.service import private_service
from coproc.client import InputBinding, State
from coproc.program.types import FheType, Handle, handle_type
from coproc.tfhe.wire import read_object, write_object
from coproc.tfhe.wire.ciphertexts import (
    BlockProvenList,
    CompactCiphertextList,
    IntegerProvenList,
    ProvenCompactCiphertextList,
)
from nurseries.bridge import open_client
from tests.clients.conftest import NodeKeys
from tests.clients.node import open_node_client
from tests.clients.proofs import empty_proof
from tests.clients.test_end_to_end import type_name

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from coproc.cli.devnet import Devnet
    from coproc.cli.service import Service
    from nurseries.bridge import TrioClient
    from tests.clients.node import NodeClient, Version

HERE = Path(__file__).parent
ALICE, BOB, CAROL = 7, 8, 9


@pytest.fixture(scope="module")
def deployed() -> Iterator[Devnet]:
    """A chain with contracts, used up by several tests."""
    with running_chain(HERE) as chain:
        yield chain


@contextmanager
def following(folder: Path, keys: NodeKeys, *urls: str) -> Generator[Service]:
    file = folder / "coproc.toml"
    write_settings(file, urls, hashlib.sha256(keys.compressed_server_key).digest())
    options = ["--config-file", str(file), "--allow-insecure-parameters", "--input-proofs", "trust"]
    with private_service(options) as service:
        yield service


@dataclass
class Wallet:
    """Reads what it is allowed to read."""

    client: TrioClient
    node: NodeClient
    keys: NodeKeys
    patience: float = 60

    async def read(self, raw: bytes) -> int:
        """Wait for a value and decrypt it."""
        handle = Handle(raw)
        with trio.fail_after(self.patience):
            while True:
                (item,) = await self.client.fetch([handle])
                if item.ciphertext is not None:
                    return await self.node.decrypt(
                        self.keys.client_key, type_name(handle_type(handle)), item.ciphertext
                    )
                assert item.state is not State.FAILED
                await trio.sleep(0.05)

    async def is_there(self, raw: bytes) -> bool:
        (item,) = await self.client.fetch([Handle(raw)])
        return item.ciphertext is not None


@pytest.mark.parametrize("transport", ["ws", "http"])
async def test_a_token_of_a_dapp(
    deployed: Devnet, toy_node_keys: dict[Version, NodeKeys], tmp_path: Path, transport: str
) -> None:
    chain, keys = deployed, toy_node_keys["1.5"]
    start = chain.rpc("evm_snapshot")
    alice, bob, carol = (chain.accounts[number] for number in (ALICE, BOB, CAROL))
    with following(tmp_path, keys, chain.websocket if transport == "ws" else chain.url) as service:
        async with (
            open_node_client("1.5") as node,
            open_client("127.0.0.1", service.grpc_port) as client,
        ):
            key_id = await client.register_key(keys.compressed_server_key)
            wallet = Wallet(client, node, keys)
            seen: dict[bytes, int] = {}
            balances = dict.fromkeys((alice, bob, carol), 0)

            def note() -> None:
                seen.update(
                    {
                        chain.handle("balances", who): value
                        for who, value in balances.items()
                        if any(chain.handle("balances", who))
                    }
                )

            for who, amount in ((alice, 1000), (bob, 7), (alice, 1 << 40)):
                chain.transact(ALICE, "mint", who, amount)
                balances[who] += amount
            for sender, source, target, amount in (
                (ALICE, alice, bob, 300),
                (BOB, bob, carol, 400),  # more than there is: nothing moves, and nobody sees that
                (BOB, bob, alice, 307),
                (ALICE, alice, carol, 1 << 39),
            ):
                chain.transact(sender, "transferClear", target, amount)
                moved = amount if balances[source] >= amount else 0
                balances[source] -= moved
                balances[target] += moved
                note()
            # An amount that is encrypted by its sender, with the proof that the contract asks for.
            plain = await node.compact_list(keys.compact_public_key, [("FheUint64", 5)], packed=True)
            found = read_object(plain, CompactCiphertextList)
            pieces = BlockProvenList(((found.inner.ct_list, empty_proof()),))
            data = write_object(ProvenCompactCiphertextList(IntegerProvenList(pieces, found.inner.info), found.tag))
            token, user, acl = (bytes.fromhex(address[2:]) for address in (chain.token, alice, ACL))
            uploaded = await client.upload_inputs(key_id, data, InputBinding(token, user, acl, CHAIN_ID))
            proof = chain.input_proof(uploaded.handles, alice, chain.token)
            chain.transact(ALICE, "transfer", bob, uploaded.handles[0], proof)
            balances[alice] -= 5
            balances[bob] += 5
            note()
            chain.transact(ALICE, "compare", alice, carol)
            seen[chain.handle("comparison")] = int(balances[alice] >= balances[carol])
            chain.transact(ALICE, "narrow", alice)
            seen[chain.handle("narrowed")] = balances[alice] & 0xFFFFFFFF
            chain.transact(ALICE, "hide", bob)
            chain.rpc("anvil_mine", hex(3))
            hidden = chain.handle("hidden")
            chain.transact(ALICE, "show", bob)
            seen[hidden] = balances[bob] * 3
            for handle, value in seen.items():
                assert await wallet.read(handle) == value, FheType(handle[30])
            chain.transact(ALICE, "roll")
            assert await wallet.read(chain.handle("die")) < 6
            assert await wallet.read(chain.handle("bounded")) < 16
    chain.rpc("evm_revert", start)


@pytest.mark.skipif(not os.environ.get("COPROC_E2E"), reason="takes minutes: make e2e")
async def test_a_token_with_real_parameters(deployed: Devnet, tmp_path: Path) -> None:
    chain = deployed
    start = chain.rpc("evm_snapshot")
    alice, bob = chain.accounts[ALICE], chain.accounts[BOB]
    async with open_node_client("1.5") as node:
        client_key = await node.client_key(toy=False)
        keys = NodeKeys(client_key, await node.compressed_server_key(client_key), b"")
        with following(tmp_path, keys, chain.websocket) as service:
            async with open_client("127.0.0.1", service.grpc_port) as client:
                await client.register_key(keys.compressed_server_key)
                chain.transact(ALICE, "mint", alice, 1000)
                chain.transact(ALICE, "transferClear", bob, 300)
                chain.transact(BOB, "transferClear", alice, 301)
                chain.transact(ALICE, "compare", alice, bob)
                wallet = Wallet(client, node, keys, 300)
                read = [await wallet.read(chain.handle("balances", who)) for who in (alice, bob)]
                assert [*read, await wallet.read(chain.handle("comparison"))] == [700, 300, 1]
    chain.rpc("evm_revert", start)


async def test_a_chain_that_changes_its_mind(
    deployed: Devnet, toy_node_keys: dict[Version, NodeKeys], tmp_path: Path
) -> None:
    chain, keys = deployed, toy_node_keys["1.5"]
    alice = chain.accounts[ALICE]
    with following(tmp_path, keys, chain.websocket) as service:
        async with open_node_client("1.5") as node, open_client("127.0.0.1", service.grpc_port) as client:
            await client.register_key(keys.compressed_server_key)
            wallet = Wallet(client, node, keys)
            chain.transact(ALICE, "mint", alice, 11)
            kept = chain.handle("balances", alice)
            assert await wallet.read(kept) == 11
            before = chain.rpc("evm_snapshot")
            for amount in (1, 2, 3):
                chain.transact(ALICE, "mint", alice, amount)
            gone = chain.handle("balances", alice)
            assert await wallet.read(gone) == 17
            chain.rpc("evm_revert", before)  # the node says nothing of it
            chain.transact(ALICE, "mint", alice, 100)
            assert await wallet.read(chain.handle("balances", alice)) == 111
            assert not await wallet.is_there(gone)
            assert await wallet.is_there(kept)
            for amount in (1000, 2000):
                chain.transact(ALICE, "mint", alice, amount)
            lost = chain.handle("balances", alice)
            assert await wallet.read(lost) == 3111
            chain.rpc("anvil_reorg", 2, [])
            chain.transact(ALICE, "mint", alice, 5)
            assert await wallet.read(chain.handle("balances", alice)) == 116
            assert not await wallet.is_there(lost)


async def test_restarts_of_the_node_and_of_coproc(
    toy_node_keys: dict[Version, NodeKeys], empty_database_url: str, tmp_path: Path
) -> None:
    keys, state, file = toy_node_keys["1.5"], str(tmp_path / "state.json"), tmp_path / "coproc.toml"
    key_id = hashlib.sha256(keys.compressed_server_key).digest()
    options = ["--config-file", str(file), "--allow-insecure-parameters", "--database-url", empty_database_url]
    token, handles = "", list[bytes]()
    for life in range(2):
        arguments = ("--load-state", state) if life else ()
        with running_chain(HERE, "--dump-state", state, *arguments, deployed=not life) as chain:
            chain.token = token = chain.token or token
            write_settings(file, [chain.websocket], key_id)
            if life:
                chain.transact(ALICE, "mint", chain.accounts[ALICE], 100)  # nobody listens
                handles.append(chain.handle("balances", chain.accounts[ALICE]))
            with private_service(options) as service:
                async with open_node_client("1.5") as node, open_client("127.0.0.1", service.grpc_port) as client:
                    await client.register_key(keys.compressed_server_key)
                    chain.transact(ALICE, "mint", chain.accounts[ALICE], 1)
                    handles.append(chain.handle("balances", chain.accounts[ALICE]))
                    wallet = Wallet(client, node, keys)
                    expected = [1, 101, 102][: len(handles)]
                    assert [await wallet.read(handle) for handle in handles] == expected
            chain.process.send_signal(signal.SIGINT)
            chain.process.wait(20)


def test_the_demo_on_a_chain() -> None:
    command = [sys.executable, "-m", "coproc", "demo", "--chain", "--toy", "--json"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert ended.returncode == 0, ended.stderr
    report = json.loads(ended.stdout)
    assert report["is_right"]
    assert [row["decrypted"] for row in report["rows"]] == [700, 300, 1]
    assert report["bootstraps"] > 200
    assert report["computations"] == 13
