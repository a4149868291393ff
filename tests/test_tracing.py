"""One trace of a real run, over three processes and as a collector gets it; and nothing at all when traces are off."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import pytest
import trio
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SpanExportResult

from coproc.cli.service import Service, start_service
from coproc.client import Transaction
from coproc.otlp import GuardedExporter
from coproc.program.types import FheType, new_handle
from coproc.resilience import Breaker, BreakerState, Guard
from coproc.results.client import subscribe
from coproc.store.base import GroupOutcome, Submission
from coproc.store.connection import TrioConnection
from coproc.store.migrator import OLDEST_SCHEMA, migrate, shipped_migrations
from coproc.store.open import open_store
from coproc.tracing import exporting, read_traceparent, span, traceparent
from nurseries.bridge import open_client
from tests.nurseries.running import readiness, running, scrape, until
from tests.store.builders import KEY, TRANSACTION, add, ciphertext, with_inputs

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

    from opentelemetry.proto.trace.v1.trace_pb2 import Span

    from coproc.program.types import Handle
    from coproc.store.base import Store
    from coproc.tfhe.client import ClientKey

PARENT = "00-" + "ab" * 16 + "-" + "cd" * 8 + "-01"


@contextmanager
def collector() -> Generator[tuple[str, list[Span]]]:
    """Listen for OTLP over HTTP, as collectors do; gives its address and what has come."""
    received: list[Span] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert self.path == "/v1/traces"
            body = self.rfile.read(int(self.headers["content-length"]))
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                for scope in resource.scope_spans:
                    received.extend(scope.spans)
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the library's name
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}", received
        finally:
            server.shutdown()
            thread.join()


def transfer(key_id: bytes, sender: Handle, receiver: Handle, amount: Handle) -> tuple[Transaction, set[Handle]]:
    """Ask for a token transfer; returns the transaction and the two new balances."""
    draft = Transaction(key_id)
    nothing = draft.trivial_encrypt(0, FheType.UINT8)
    moved = draft.if_then_else(draft.ge(sender, amount), amount, nothing)
    return draft, {draft.sub(sender, moved, allow=True), draft.add(receiver, moved, allow=True)}


async def pushed(results: Service, count: int) -> set[Handle]:
    """Subscribe until so many results have come."""
    found: set[Handle] = set()
    async with subscribe(results.addresses.results, after_sequence=0) as events:
        async for event in events:
            assert event.state.name == "COMPLETED"
            found.add(event.handle)
            if len(found) == count:
                break
    return found


async def test_one_trace_of_a_transfer_leads_from_the_client_to_the_push_over_processes(
    toy_client_key: ClientKey,
    toy_server_key: bytes,
    empty_database_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def start(stack: ExitStack, role: str) -> Service:
        own = tmp_path / role
        own.mkdir()
        options = ["--roles", role, "--database-url", empty_database_url, "--allow-insecure-parameters"]
        service = start_service([*options, "--threads", "1"], own)
        stack.callback(service.process.wait)
        stack.callback(service.process.kill)
        return service

    async def end(service: Service) -> None:
        service.process.send_signal(signal.SIGTERM)
        assert await trio.to_thread.run_sync(service.process.wait, 60) == 0

    with collector() as (endpoint, spans), ExitStack() as stack, trio.fail_after(120):
        monkeypatch.setenv("COPROC_OTLP_ENDPOINT", endpoint)
        tracer = TracerProvider(shutdown_on_exit=False).get_tracer("a client")
        api = await trio.to_thread.run_sync(start, stack, "api")
        async with open_client("127.0.0.1", api.grpc_port) as client:
            key_id = await client.register_key(toy_server_key)
            inputs = [new_handle(FheType.UINT8) for _ in range(3)]
            await client.upload(key_id, {handle: toy_client_key.encrypt(40, 8) for handle in inputs})
            transaction, balances = transfer(key_id, *inputs)
            with tracer.start_as_current_span("a transfer") as root:
                asked = root.get_span_context()
                await client.submit(transaction)
        await end(api)  # who took the work in is gone: the trace goes on from what is stored

        worker = await trio.to_thread.run_sync(start, stack, "worker")
        results = await trio.to_thread.run_sync(start, stack, "results")
        assert await pushed(results, 2) == balances
        await end(worker)
        await end(results)

    trace_id = asked.trace_id.to_bytes(16, "big")
    mine = {found.name: found for found in spans if found.trace_id == trace_id}
    names = sorted(found.name for found in spans if found.trace_id == trace_id)
    assert names == sorted([*mine, "push result"]), "one span each, and two results"
    call = "coproc.v1.CoprocessorService/SubmitComputations"
    assert set(mine) == {call, "store submit", "job", "execute", "store results", "push result"}
    parents = {name: found.parent_span_id for name, found in mine.items()}
    assert parents == {
        call: asked.span_id.to_bytes(8, "big"),
        "store submit": mine[call].span_id,
        "job": mine["store submit"].span_id,
        "execute": mine["job"].span_id,
        "store results": mine["store submit"].span_id,
        "push result": mine["store submit"].span_id,
    }
    assert [link.span_id for link in mine["store results"].links] == [mine["job"].span_id]
    said = {item.key: item.value for item in mine["execute"].attributes}
    assert said["coproc.executor"].string_value == "cpu"
    assert said["coproc.key_id"].string_value == key_id.hex()
    assert said["coproc.bootstraps"].int_value >= said["coproc.batch_width"].int_value > 0
    assert said["coproc.levels"].int_value > 0
    of_job = {item.key: item.value for item in mine["job"].attributes}
    assert of_job["coproc.operations"].int_value == 5
    assert (of_job["coproc.groups"].int_value, of_job["coproc.key_id"].string_value) == (1, key_id.hex())
    assert all(found.end_time_unix_nano >= found.start_time_unix_nano > 0 for found in mine.values())
    lines = [json.loads(line) for line in (tmp_path / "worker" / "service.log").read_text().splitlines()]
    (computed,) = [line for line in lines if line["event"] == "job computed"]
    assert (computed["trace_id"], computed["span_id"]) == (trace_id.hex(), mine["job"].span_id.hex())


async def test_the_context_is_kept_with_the_work(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coproc.tracing.SHUTDOWN_SECONDS", 0.2)
    left, right = await with_inputs(store, 2)
    computation = add(left, right)
    async with exporting("http://127.0.0.1:9"):
        await store.submit(Submission(KEY, TRANSACTION, (computation,), traceparent=PARENT))
        (work,) = await store.claim("one", 10, 60.0)
        assert work.traceparent == PARENT
        assert await store.finish("one", GroupOutcome(work.group_id, (ciphertext(computation.output),)))
        (event,) = await store.results_after(0, 10)
        assert event.traceparent == PARENT


async def test_a_database_of_the_release_before_keeps_no_context(
    empty_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("coproc.tracing.SHUTDOWN_SECONDS", 0.2)
    async with await TrioConnection.connect(empty_database_url, autocommit=True) as connection:
        await migrate(connection, shipped_migrations()[:OLDEST_SCHEMA])
    async with exporting("http://127.0.0.1:9"), open_store(empty_database_url, migrating=False) as store:
        left, right = await with_inputs(store, 2)
        await store.submit(Submission(KEY, TRANSACTION, (add(left, right),), traceparent=PARENT))
        (work,) = await store.claim("one", 10, 60.0)
        assert work.traceparent is None


async def test_a_collector_that_is_away_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coproc.tracing.SHUTDOWN_SECONDS", 0.2)
    with trio.fail_after(30):
        async with exporting("http://127.0.0.1:9"):
            with pytest.raises(ValueError, match="secret"), span("work", may_begin=True):  # noqa: PT012 - what is shown
                assert traceparent() is not None
                raise ValueError("secret")
    assert traceparent() is None


def test_a_collector_that_is_away_is_left_in_peace_and_counted() -> None:
    now = 0.0
    guard = Guard("collector", Breaker(threshold=2, cooldown=30.0), clock=lambda: now)
    provider = TracerProvider(shutdown_on_exit=False)
    made = provider.get_tracer("test").start_span("work")
    made.end()
    assert isinstance(made, ReadableSpan)
    with collector() as (endpoint, received):
        sender = OTLPSpanExporter(endpoint=f"{endpoint}/v1/traces", timeout=2)
        away = OTLPSpanExporter(endpoint="http://127.0.0.1:9/v1/traces", timeout=0.01)
        exporter = GuardedExporter(away, guard)
        for _ in range(4):  # the last two are not sent at all
            assert exporter.export([made, made]) is SpanExportResult.FAILURE
        assert (exporter.exported, exporter.dropped, guard.openings) == (0, 8, 1)
        assert (guard.state, guard.error) == (BreakerState.OPEN, "the collector takes no spans")
        exporter._exporter = sender
        assert exporter.export([made]) is SpanExportResult.FAILURE, "not yet"
        now = 30.0
        assert exporter.export([made]) is SpanExportResult.SUCCESS
        assert (exporter.exported, guard.state, len(received)) == (1, BreakerState.CLOSED, 1)


async def test_an_exporter_shows_in_health_and_nobody_waits_for_it(
    monkeypatch: pytest.MonkeyPatch, database_url: str
) -> None:
    monkeypatch.setattr("coproc.tracing.SHUTDOWN_SECONDS", 0.2)
    monkeypatch.setattr("coproc.otlp.BREAKER", Breaker(threshold=1, cooldown=600.0))
    with trio.fail_after(60):
        async with running(database_url, otlp_endpoint="http://127.0.0.1:9") as addresses:
            async with open_client(*addresses.grpc_target) as client:
                await client.server_info()  # a trace begins

            async def is_degraded() -> bool:
                return (await readiness(addresses))[1]["degraded"] == ["collector"]

            await until(is_degraded)
            assert (await readiness(addresses))[0] == 200
            shown = await scrape(addresses)
    assert shown("breaker_state", dependency="collector", state="open") == 1
    assert shown("spans_dropped_total") >= 1
    assert shown("spans_exported_total") == 0


@pytest.mark.parametrize("value", [b"00", "", "00-" + "0" * 32 + "-" + "1" * 16 + "-01", PARENT + "\n", "x" * 999])
def test_a_context_that_is_none_is_left_out(value: str | bytes) -> None:
    assert read_traceparent({"traceparent": value}) is None
    assert read_traceparent({"traceparent": PARENT}) == PARENT


def test_nothing_is_imported_when_traces_are_off() -> None:
    program = """
import sys, trio
import nurseries.root, coproc.client
from coproc.tracing import exporting, span, traceparent
async def main():
    async with exporting(None):
        with span("work", may_begin=True):
            assert traceparent() is None
trio.run(main)
assert not [name for name in sys.modules if name.startswith("opentelemetry")]
"""
    subprocess.run([sys.executable, "-c", program], check=True)
