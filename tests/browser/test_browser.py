"""The operator's page in a real browser: a real service with work on it, a phone, the keyboard, and hostile texts."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import pytest
import trio

from coproc.client.records import State
from coproc.health.app import make_app
from coproc.health.history import History
from coproc.health.lookout import Lookout
from coproc.health.page import OperatorPage
from coproc.health.report import ActorReport, BreakerReport, HealthReport
from coproc.health.view import Identity
from coproc.store.base import Failure, GroupOutcome
from coproc.store.memory_overview import ViewedMemoryStore
from nurseries.bridge import open_client
from nurseries.health import run_health
from tests.browser.acts import (
    look_up,
    lose_the_service,
    measure_contrast,
    measure_phone,
    pause,
    read_chart,
    read_hostile,
    see_overview,
    walk,
)
from tests.browser.chromium import PHONE
from tests.browser.load import Submitted, submit, upload
from tests.store.builders import add, batch, with_inputs

if TYPE_CHECKING:
    from coproc.cli.service import Service
    from coproc.tfhe.client import ClientKey
    from nurseries.bridge import TrioClient
    from tests.browser.chromium import Browser

EVIL = '<img src=x onerror="window.hacked=1"><script>window.hacked=1</script><b class=evil>'


@dataclass(frozen=True, slots=True)
class Worked:
    """A service that has computed something."""

    address: str
    submitted: Submitted

    def of(self, program: str) -> str:
        """Where the page shows a program's transaction."""
        return f"{self.address}#transaction/{self.submitted.latest(program)}"


async def is_over(client: TrioClient, transaction_id: bytes) -> bool:
    """Whether everything of a transaction has ended."""
    return all(
        item.state in {State.COMPLETED, State.FAILED} for item in await client.transaction_status(transaction_id)
    )


@pytest.fixture(scope="module")
def worked(running_service: Service, toy_client_key: ClientKey, toy_server_key: bytes) -> Worked:
    """Every program once, until nothing changes any more."""
    submitted = Submitted()

    async def ask() -> None:
        with trio.fail_after(120):
            async with open_client(*running_service.addresses.grpc_target) as client:
                key_id = await client.register_key(toy_server_key)
                values = await upload(client, toy_client_key, key_id, 9)
                for program in ("waiting", "division", "transfer"):
                    transaction = await submit(client, key_id, program, values, submitted)
                    while program != "waiting" and not await is_over(client, transaction.transaction_id):  # noqa: ASYNC110 - polled
                        await trio.sleep(0.05)

    trio.run(ask)
    return Worked(f"{running_service.addresses.health}/", submitted)


def test_the_overview_shows_what_the_service_does(browser: Browser, worked: Worked) -> None:
    seen = browser.visit(see_overview, worked.address, until="DIVISION_BY_ZERO")
    assert seen["status"] == "Ready"
    assert int(seen["tiles"]["Open work"]) >= 1
    assert int(seen["tiles"]["Failures"].rstrip("+")) >= 2
    assert seen["tiles"]["Occupancy"].endswith("%")
    assert any(part.startswith("✓ database dependency answers in") for part in seen["parts"])
    assert "✓ scheduler actor running" in seen["parts"]
    division = worked.submitted.latest("division")
    assert division is not None
    assert any("DIVISION_BY_ZERO" in text and division[:6] in text for text in seen["failures"])
    rows = [row for row in seen["transactions"] if division[:6] in row]
    assert len(rows) == 1
    assert "failed" in rows[0]
    assert any(label.startswith("Open groups: computing") for label in seen["charts"])
    assert seen["hosts"] == [worked.address.split("/")[2]], "nothing comes from elsewhere"


def test_light_and_dark_are_different_and_both_can_be_read(browser: Browser, worked: Worked) -> None:
    for scheme in ("light", "dark"):
        contrasts = browser.visit(measure_contrast, worked.address, scheme=scheme)
        assert len(contrasts) == 19
        assert not {pair: ratio for pair, ratio in contrasts.items() if ratio < 4.5}, scheme
    dark = browser.visit(see_overview, worked.address, scheme="dark")
    assert dark["ground"] == "rgb(15, 19, 26)"


def test_a_transaction_is_looked_up(browser: Browser, worked: Worked) -> None:
    wanted = worked.submitted.latest("transfer")
    assert wanted is not None
    # The browser itself writes of the answer 404 into its console.
    refused, title, missing, place = browser.visit(look_up, worked.address, transaction=wanted, allowed="404")
    assert refused == "An id is an even number of hexadecimal digits."
    assert title == f"Transaction {wanted}"
    assert missing == "there is no such transaction"
    assert place == f"transaction/{'00' * 32}"


def test_the_keyboard_alone_walks_through_a_graph(browser: Browser, worked: Worked) -> None:
    seen = browser.visit(walk, worked.of("division"))
    assert sum("failed" in label for label in seen["nodes"]) == 3
    assert sum(label.startswith("value from outside") for label in seen["nodes"]) == 3
    assert [label.split(",")[0] for label in seen["focused"]] == ["mul", "add", "mul", "mul"]
    assert "INPUT_FAILED" in seen["detail"]
    assert "Follows from" in seen["detail"]
    assert seen["near"] == 4, "what it rests on and what rests on it: a value, the division, itself, the sum"
    assert seen["rows"] == 4


def test_a_chart_is_read_out_by_the_keyboard(browser: Browser, worked: Worked) -> None:
    last, before, after = browser.visit(read_chart, worked.address)
    for text in (last, before):
        assert "computing" in text
        assert "waiting" in text
    assert last.split(":", 3)[:3] != before.split(":", 3)[:3], "another time"
    assert after == ""


@pytest.mark.parametrize("program", [None, "transfer", "waiting"])
def test_a_phone_shows_all_of_it(browser: Browser, worked: Worked, program: str | None) -> None:
    address = worked.address if program is None else worked.of(program)
    seen = browser.visit(measure_phone, address, size=PHONE, touch=True)
    assert seen["overflow"] == 0
    assert seen["small"] == []
    assert seen["columns"] == 1 or program is not None


def test_it_rests_when_it_is_told_to(browser: Browser, worked: Worked) -> None:
    while_paused, afterwards = browser.visit(pause, worked.address)
    assert while_paused == 0
    assert afterwards >= 1


def test_a_process_that_is_gone_is_missed(browser: Browser, worked: Worked) -> None:
    lost, back = browser.visit(lose_the_service, worked.address, allowed="ERR_FAILED")
    assert "does not answer" in lost
    assert back == ""


async def test_texts_of_somebody_hostile_stay_texts(browser: Browser) -> None:
    store = ViewedMemoryStore()
    first, second = await with_inputs(store, 2)
    broken = add(first, second)
    await store.submit(replace(batch(broken), tenant=f"tenant {EVIL}"))
    (group,) = await store.claim(f"worker {EVIL}", 1, 60)
    failure = Failure(f"RULE {EVIL}", f"message {EVIL}")
    await store.finish(f"worker {EVIL}", GroupOutcome(group.group_id, (), {broken.output: failure}))
    await store.submit(replace(batch(add(second, first), transaction=b"u" * 32), tenant=f"tenant {EVIL}"))
    await store.claim(f"worker {EVIL}", 1, 60)
    await store.submit(replace(batch(broken), tenant=None))
    report = HealthReport(
        started=True,
        ready=False,
        draining=False,
        actors={f"actor {EVIL}": ActorReport("failed", healthy=False, error=f"error {EVIL}")},
        breakers=(BreakerReport(f"node {EVIL}", "open", 3, 4.0, error=f"fault {EVIL}"),),
        notices=(f"notice {EVIL}",),
    )
    lookout = Lookout(lambda: store)
    await lookout.glance()
    page = OperatorPage(Identity(f"1.0 {EVIL}", 1, ("worker",)), lambda: report, History(), lookout)
    stopping = trio.Event()
    with trio.fail_after(240):
        async with trio.open_nursery() as nursery:
            app = make_app(lambda: report, page=page)
            port: int = await nursery.start(partial(run_health, app, "127.0.0.1", 0, stopping=stopping))
            visit = partial(browser.visit, read_hostile, f"http://127.0.0.1:{port}/")
            seen = await trio.to_thread.run_sync(visit)
            stopping.set()
    assert not seen["hacked"]
    assert seen["made"] == 0
    for text in ("RULE", "message", "tenant", "actor", "error", "node", "fault"):
        assert f"{text} {EVIL}" in str(seen["seen"])
