"""``coproc demo --chain``: the same transfer, asked for by a contract on a chain.

Decides the story: anvil is started, fhevm's published contracts and a confidential token are deployed, and a private
service follows the chain. Only the chain tells it what to compute. The results are checked against plain integers.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click
import trio
from rich.console import Console
from rich.table import Table

from coproc.cli.devnet import running_chain, write_settings
from coproc.cli.service import private_service
from coproc.client import State
from coproc.errors import FatalError
from coproc.program.types import Handle
from coproc.tfhe.client import ClientKey
from coproc.tfhe.parameters import TOY_2_2, V1_5_2_2

if TYPE_CHECKING:
    from coproc.cli.devnet import Devnet
    from coproc.cli.service import Service
    from nurseries.bridge import TrioClient

FOLDER: Final = Path(__file__).parents[2] / "tests/clients"
"""Where npm puts anvil and the contracts, in a checkout."""
PATIENCE_SECONDS: Final = 300.0
ALICE, BOB = 7, 8


def run_demo(executor: str, *, as_json: bool, toy: bool) -> None:
    """Tell the story; ends with status 1 if any result is wrong."""
    console = Console(stderr=True, quiet=as_json)
    seconds: dict[str, float] = {}
    started = time.perf_counter()
    with console.status("making keys"):
        client_key = ClientKey.generate(TOY_2_2 if toy else V1_5_2_2)
        server_key = client_key.compressed_server_key()
    seconds["make keys"] = time.perf_counter() - started
    started = time.perf_counter()
    with console.status("starting a chain and deploying contracts"):
        context = running_chain(FOLDER)
        chain = context.__enter__()
    seconds["start a chain, compile and deploy"] = time.perf_counter() - started
    try:
        with tempfile.TemporaryDirectory() as folder:
            settings = Path(folder) / "coproc.toml"
            write_settings(settings, [chain.websocket], hashlib.sha256(server_key).digest())
            options = ["--config-file", str(settings), "--executor", executor, "--log-format", "json"]
            started = time.perf_counter()
            with private_service([*options, *(["--allow-insecure-parameters"] * toy)]) as service:
                seconds["start service and database"] = time.perf_counter() - started
                rows, numbers = trio.run(_run, chain, service, client_key, server_key, seconds, console)
    finally:
        context.__exit__(None, None, None)
    is_right = all(expected == found for _, expected, found in rows)
    if as_json:
        named = [{"name": name, "expected": expected, "decrypted": found} for name, expected, found in rows]
        rounded = {name: round(value, 3) for name, value in seconds.items()}
        click.echo(json.dumps({"rows": named, "seconds": rounded, **numbers, "is_right": is_right}, indent=2))
    else:
        _print(rows, seconds, numbers)
    if not is_right:
        raise click.exceptions.Exit(1)


async def _run(
    chain: Devnet,
    service: Service,
    client_key: ClientKey,
    server_key: bytes,
    seconds: dict[str, float],
    console: Console,
) -> tuple[list[tuple[str, int, int]], dict[str, int]]:
    from nurseries.bridge import open_client  # noqa: PLC0415 - the only way to grpclib from Trio

    alice, bob = chain.accounts[ALICE], chain.accounts[BOB]
    with trio.fail_after(PATIENCE_SECONDS):
        async with open_client("127.0.0.1", service.grpc_port) as client:
            await client.register_key(server_key)
            started = time.perf_counter()
            for account, function, values in (
                (ALICE, "mint", (alice, 1000)),
                (ALICE, "transferClear", (bob, 300)),
                (BOB, "transferClear", (alice, 301)),  # more than there is: nothing moves
                (ALICE, "compare", (alice, bob)),
            ):
                receipt = await trio.to_thread.run_sync(chain.transact, account, function, *values)
                console.print(
                    f"block {int(receipt['blockNumber'], 16)}: {function}{values}, {len(receipt['logs'])} events"
                )
            seconds["4 transactions"] = time.perf_counter() - started
            started = time.perf_counter()
            rows = [
                (name, expected, await _read(client, client_key, handle))
                for name, expected, handle in (
                    ("balance of Alice", 700, chain.handle("balances", alice)),
                    ("balance of Bob", 300, chain.handle("balances", bob)),
                    ("Alice has as much as Bob", 1, chain.handle("comparison")),
                )
            ]
            seconds["compute, fetch and decrypt"] = time.perf_counter() - started
    return rows, await trio.to_thread.run_sync(_numbers, service, chain)


async def _read(client: TrioClient, client_key: ClientKey, raw: bytes) -> int:
    while True:
        (item,) = await client.fetch([Handle(raw)])
        if item.ciphertext is not None:
            return int(client_key.decrypt(item.ciphertext))
        if item.state is State.FAILED:
            raise FatalError(f"the computation of {raw.hex()} has failed")
        await trio.sleep(0.05)


def _numbers(service: Service, chain: Devnet) -> dict[str, int]:
    """Read the service's own figures."""
    with urllib.request.urlopen(f"{service.addresses.health}/metrics") as answer:  # noqa: S310 - our own service
        lines = [line.split() for line in answer.read().decode().splitlines() if not line.startswith("#")]
    found: dict[str, float] = {}
    for series, value in (parts for parts in lines if len(parts) == 2):
        name = series.partition("{")[0]
        found[name] = found.get(name, 0.0) + float(value)
    return {
        "blocks": int(chain.rpc("eth_blockNumber"), 16),
        "computations": int(found.get("coproc_chain_computations_total", 0)),
        "bootstraps": int(found.get("coproc_executor_bootstraps_total", 0)),
    }


def _print(rows: list[tuple[str, int, int]], seconds: dict[str, float], numbers: dict[str, int]) -> None:
    console = Console()
    table = Table(title="A confidential token on a chain")
    for column in ("result", "in the clear", "decrypted", ""):
        table.add_column(column, justify="right" if column in {"in the clear", "decrypted"} else "left")
    for name, expected, found in rows:
        table.add_row(name, f"{expected:,}", f"{found:,}", "right" if expected == found else "WRONG")
    console.print(table)
    for name, value in seconds.items():
        console.print(f"{name}: {value:.2f} s")
    console.print(", ".join(f"{value} {name}" for name, value in numbers.items()))
