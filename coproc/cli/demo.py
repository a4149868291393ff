"""``coproc demo``: the main job, end to end, on real parameters.

Decides the story: a confidential token transfer. A private service is started as operators start it, and everything
goes through its public interfaces: gRPC in, websocket out, gRPC to fetch. The result is checked against plain integers.
"""

from __future__ import annotations

import json
import secrets
import time
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

import click
import trio
from rich.console import Console
from rich.table import Table

from coproc.circuits.strategy import Strategy
from coproc.cli.service import private_service
from coproc.client import Transaction
from coproc.errors import FatalError
from coproc.program.planning import GroupGraph, plan
from coproc.program.types import FheType, Handle, new_handle
from coproc.results.client import subscribe
from coproc.store.base import State
from coproc.tfhe.client import ClientKey
from coproc.tfhe.parameters import TOY_2_2, V1_5_2_2

if TYPE_CHECKING:
    from collections.abc import Generator

    from coproc.cli.service import Service

BITS = 64
PATIENCE_SECONDS = 100.0


@dataclass(frozen=True, slots=True)
class Row:
    """One decrypted result beside what it should be."""

    name: str
    expected: int
    decrypted: int

    @property
    def is_right(self) -> bool:
        """Whether they agree."""
        return self.expected == self.decrypted


@dataclass(slots=True)
class Report:
    """What happened."""

    parameters: str
    executor: str = ""
    bootstraps: int = 0
    depth: int = 0
    seconds: dict[str, float] = field(default_factory=dict["str", "float"])
    rows: list[Row] = field(default_factory=list["Row"])
    ciphertext_bytes: int = 0
    server_key_bytes: int = 0

    @property
    def is_right(self) -> bool:
        """Whether every result is what plain integers give."""
        return bool(self.rows) and all(row.is_right for row in self.rows)

    @contextmanager
    def timed(self, step: str, console: Console) -> Generator[None]:
        """Measure one step."""
        started = time.perf_counter()
        with console.status(step):
            yield
        self.seconds[step] = round(time.perf_counter() - started, 3)


@dataclass(frozen=True, slots=True)
class Transfer:
    """The clear side of the story."""

    source: int
    target: int
    amount: int

    def expected(self) -> dict[str, int]:
        """Compute the results in plain integers."""
        moved = self.amount if self.source >= self.amount else 0
        wrap = (1 << BITS) - 1
        return {
            "moved": moved,
            "source balance": (self.source - moved) & wrap,
            "target balance": (self.target + moved) & wrap,
        }


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of a table.")
@click.option("--executor", default="auto", show_default=True, help="auto, cpu, gpu, emulated, reference or concrete.")
@click.option("--toy", is_flag=True, help="Insecure parameters: a matter of seconds, and no security at all.")
@click.option("--chain", is_flag=True, help="The transfer of a contract on a real chain (anvil, from npm).")
def demo(executor: str, *, as_json: bool, toy: bool, chain: bool) -> None:
    """Run the main job: an encrypted token transfer, from keys to decrypted balances.

    Ends with status 1 if any result is wrong.
    """
    if chain:
        from coproc.cli.demo_chain import run_demo  # noqa: PLC0415 - another story

        run_demo(executor, as_json=as_json, toy=toy)
        return
    console = Console(stderr=True, quiet=as_json)
    balance = secrets.randbelow(1 << 40) + 1
    story = Transfer(balance, secrets.randbelow(1 << 40), secrets.randbelow(balance) + 1)
    report = Report("toy (insecure)" if toy else "V1_5 message 2 carry 2, 2^-128")
    arguments = ["--executor", executor, "--log-format", "json"] + ["--allow-insecure-parameters"] * toy
    started = time.perf_counter()
    with report.timed("make client key", console):
        client_key = ClientKey.generate(TOY_2_2 if toy else V1_5_2_2)
    with report.timed("make server key", console):
        server_key = client_key.compressed_server_key()
    report.server_key_bytes = len(server_key)
    with report.timed("start service and database", console):
        context = private_service(arguments)
        service = context.__enter__()
    try:
        trio.run(_run, service, client_key, server_key, story, report, console)
    finally:
        with report.timed("drain service", console):
            context.__exit__(None, None, None)
    report.seconds["total"] = round(time.perf_counter() - started, 3)
    if as_json:
        click.echo(json.dumps(_as_json(report), indent=2))
    else:
        _print(report)
    if not report.is_right:
        raise click.exceptions.Exit(1)


async def _run(
    service: Service, client_key: ClientKey, server_key: bytes, story: Transfer, report: Report, console: Console
) -> None:
    from nurseries.bridge import open_client  # noqa: PLC0415 - the only way to grpclib from Trio

    with trio.fail_after(PATIENCE_SECONDS):
        async with open_client("127.0.0.1", service.grpc_port) as client:
            info = await client.server_info()
            report.executor = ", ".join(info.executors)
            with report.timed("register server key", console):
                key_id = await client.register_key(server_key)
            with report.timed("encrypt and upload 3 values", console):
                inputs = {new_handle(FheType.UINT64): value for value in (story.source, story.target, story.amount)}
                uploads = {handle: client_key.encrypt(value, BITS) for handle, value in inputs.items()}
                await client.upload(key_id, uploads)
            transaction, outputs = make_transfer(key_id, *inputs)
            report.bootstraps, report.depth = _cost(transaction)
            with report.timed(f"compute {report.bootstraps} bootstraps", console):
                async with subscribe(service.addresses.results, transaction_ids=[transaction.transaction_id]) as events:
                    await client.submit(transaction)
                    waiting = set(outputs.values())
                    async for event in events:
                        if event.state is not State.COMPLETED:
                            raise FatalError(f"a computation failed: {event}")
                        waiting.discard(event.handle)
                        if not waiting:
                            break
            with report.timed("fetch and decrypt 3 values", console):
                fetched = await client.fetch(list(outputs.values()))
                for (name, _), item in zip(outputs.items(), fetched, strict=True):
                    if item.ciphertext is None:
                        raise FatalError(f"{name} was announced but cannot be fetched: {item.state}")
                    report.ciphertext_bytes = len(item.ciphertext)
                    report.rows.append(Row(name, story.expected()[name], int(client_key.decrypt(item.ciphertext))))


def make_transfer(
    key_id: bytes, source: Handle, target: Handle, amount: Handle
) -> tuple[Transaction, dict[str, Handle]]:
    """Write the transfer as computations on handles; whether there was enough stays secret."""
    transaction = Transaction(key_id)
    return transaction, add_transfer(transaction, source, target, amount)


def add_transfer(transaction: Transaction, source: Handle, target: Handle, amount: Handle) -> dict[str, Handle]:
    """Add a transfer to a transaction; returns its results."""
    enough = transaction.ge(source, amount)
    zero = transaction.trivial_encrypt(0, FheType.UINT64)
    moved = transaction.if_then_else(enough, amount, zero, allow=True)
    new_target = transaction.add(target, moved, allow=True)
    new_source = transaction.sub(source, moved, allow=True)
    return {"moved": moved, "source balance": new_source, "target balance": new_target}


def _cost(transaction: Transaction) -> tuple[int, int]:
    """Count what the service will compute: plans are the same everywhere."""
    group = GroupGraph(0, transaction.computations, frozenset(transaction.allowed), {})
    circuit = plan([group], Strategy.THROUGHPUT).circuit
    return circuit.bootstraps, circuit.depth


def _as_json(report: Report) -> dict[str, object]:
    rows = [asdict(row) | {"is_right": row.is_right} for row in report.rows]
    return {**asdict(report), "rows": rows, "is_right": report.is_right}


def _print(report: Report) -> None:
    console = Console()
    results = Table(title="Confidential transfer (euint64), computed without reading any of it")
    for column in ("result", "in the clear", "decrypted", ""):
        results.add_column(column, justify="right" if column in {"in the clear", "decrypted"} else "left")
    for row in report.rows:
        results.add_row(row.name, f"{row.expected:,}", f"{row.decrypted:,}", "right" if row.is_right else "WRONG")
    console.print(results)
    steps = Table(title=f"Parameters: {report.parameters}; executor: {report.executor}")
    steps.add_column("step")
    steps.add_column("seconds", justify="right")
    for name, seconds in report.seconds.items():
        steps.add_row(name, f"{seconds:.2f}")
    console.print(steps)
    console.print(
        f"{report.bootstraps} programmable bootstraps in {report.depth} rounds; "
        f"server key {report.server_key_bytes:,} bytes, one result {report.ciphertext_bytes:,} bytes"
    )
