"""The page is for whom it is meant, says what is so, asks for nothing from elsewhere, and tells no secrets."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from functools import partial
from importlib.resources import files
from typing import TYPE_CHECKING, cast

import pytest
import trio

from coproc.health.app import make_app
from coproc.health.history import History, read, sum_up
from coproc.health.lookout import Lookout
from coproc.health.page import OperatorPage, is_local_name, is_loopback
from coproc.health.report import ActorReport, HealthReport
from coproc.health.view import Identity
from coproc.store.memory_overview import ViewedMemoryStore
from nurseries.health import run_health
from tests.store.builders import TRANSACTION, add, batch, done, with_inputs

if TYPE_CHECKING:
    from quart import Response

    from coproc.health.page import Access
    from coproc.store.overview import ViewedStore

REPORT = HealthReport(started=True, ready=True, draining=False, actors={"store": ActorReport("running", healthy=True)})
IDENTITY = Identity("1.2.3", 7, ("worker",))
HERE = ("127.0.0.1", 4000)
PATHS = ("/", "/page/style.css", "/page/state.json", "/page/transactions/00.json")


class Client:
    """Asks an application as somebody from somewhere."""

    def __init__(self, store: ViewedStore | None, access: Access = "local", history: History | None = None) -> None:
        self.lookout = Lookout(lambda: store)
        page = OperatorPage(IDENTITY, lambda: REPORT, history or History(), self.lookout, access=access)
        self._client = make_app(lambda: REPORT, page=page).test_client()

    async def get(
        self, path: str, *, peer: str = "127.0.0.1", host: str = "localhost:50053", **headers: str
    ) -> Response:
        named = {"host": host, **{name.replace("_", "-"): value for name, value in headers.items()}}
        return await self._client.get(path, headers=named, scope_base={"client": (peer, 4000)})

    async def json(self, path: str) -> dict[str, object]:
        answer = await self.get(path)
        return cast("dict[str, object]", await answer.get_json())


async def test_whoever_is_not_on_this_machine_is_refused() -> None:
    client = Client(ViewedMemoryStore())
    for path in PATHS:
        assert (await client.get(path)).status_code != 403
        assert (await client.get(path, peer="::1", host="[::1]:50053")).status_code != 403
        assert (await client.get(path, peer="10.0.0.7")).status_code == 403
        assert (await client.get(path, peer="10.0.0.7", host="127.0.0.1")).status_code == 403
    refused = await client.get("/", peer="10.0.0.7")
    assert "COPROC_OPERATOR_PAGE" in (await refused.get_data(as_text=True))


async def test_a_name_of_somebody_elses_and_a_proxy_are_refused() -> None:
    client = Client(ViewedMemoryStore())
    assert (await client.get("/page/state.json", host="evil.example:50053")).status_code == 403
    assert (await client.get("/page/state.json", host="localhost.evil.example")).status_code == 403
    for header in ("X_Forwarded_For", "Forwarded", "Via"):
        assert (await client.get("/page/state.json", **{header: "10.0.0.7"})).status_code == 403


async def test_everybody_may_come_where_the_operator_says_so() -> None:
    client = Client(ViewedMemoryStore(), "all")
    answer = await client.get("/", peer="10.0.0.7", host="coproc.example", X_Forwarded_For="10.0.0.8")
    assert answer.status_code == 200


async def test_probes_are_for_everybody() -> None:
    client = Client(ViewedMemoryStore())
    for path in ("/livez", "/readyz", "/metrics"):
        assert (await client.get(path, peer="10.0.0.7", host="coproc.example")).status_code == 200


async def test_without_a_page_there_is_none() -> None:
    client = make_app(lambda: REPORT).test_client()
    for path in PATHS:
        assert (await client.get(path)).status_code == 404


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        ("::ffff:10.0.0.1", False),
        ("fe80::1%eth0", False),
        ("10.0.0.1", False),
        ("", False),
        ("<local>", False),
    ],
)
def test_loopback_addresses_are_known(address: str, *, expected: bool) -> None:
    assert is_loopback(address) is expected


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("localhost", True),
        ("LOCALHOST:50053", True),
        ("127.0.0.1:8080", True),
        ("[::1]:50053", True),
        ("[::1]", True),
        ("10.0.0.1:50053", False),
        ("example.org", False),
        ("127.0.0.1.example.org:80", False),
        ("", False),
    ],
)
def test_local_names_are_known(host: str, *, expected: bool) -> None:
    assert is_local_name(host) is expected


async def test_every_answer_forbids_what_the_page_does_not_need() -> None:
    client = Client(ViewedMemoryStore())
    for path in (*PATHS, "/page/nothing.js"):
        headers = (await client.get(path)).headers
        policy = headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "http" not in policy
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["X-Frame-Options"] == "DENY"
        assert "Access-Control-Allow-Origin" not in headers
    assert (await client.get("/page/state.json")).headers["Cache-Control"] == "no-store"


async def test_everything_that_the_page_names_is_there_and_nothing_is_from_elsewhere() -> None:
    client = Client(ViewedMemoryStore())
    site = {entry.name: entry.read_text("utf-8") for entry in files("coproc.health").joinpath("site").iterdir()}
    named = {f"page/{name}" for name in ("icon.svg", "style.css", "main.js")}
    named |= {f"page/{name}" for text in site.values() for name in re.findall(r'from "\./([\w.]+)"', text)}
    assert named == {f"page/{name}" for name in site if name != "index.html"}, "what is not named is not shipped"
    for path in named:
        answer = await client.get(f"/{path}")
        assert answer.status_code == 200, path
    for name, text in site.items():
        addresses = set(re.findall(r"(?:https?:)?//[\w.-]+\.\w+[^\s\"']*", text)) - {"http://www.w3.org/2000/svg"}
        assert not addresses, name
        assert not re.search(r"innerHTML|insertAdjacentHTML|document\.write|\beval\b|outerHTML\s*=[^=]", text), name
        assert not re.search(r"\sstyle=|\son\w+=\"", text), f"{name}: the policy forbids them"


async def test_files_are_asked_for_again_but_sent_once() -> None:
    client = Client(ViewedMemoryStore())
    first = await client.get("/page/main.js")
    assert first.content_type == "text/javascript; charset=utf-8"
    again = await client.get("/page/main.js", If_None_Match=first.headers["ETag"])
    assert (again.status_code, await again.get_data()) == (304, b"")
    for path in ("/page/..%2fapp.py", "/page/app.py", "/page/../app.py", "/page/"):
        assert (await client.get(path)).status_code == 404


async def test_the_state_is_what_is_there() -> None:
    store = ViewedMemoryStore()
    first, second = await with_inputs(store, 2)
    broken = add(first, second)
    await store.submit(batch(broken, transaction=b"u" * 32))
    (group,) = await store.claim("worker", 1, 60)
    await store.finish("worker", done(group, [broken.output]))
    await store.submit(batch(add(second, first)))
    await store.claim("mine", 1, 60)
    history = History()
    client = Client(store, history=history)
    glance = await client.lookout.glance()
    for clock in (0.0, 2.0):
        history.add(read(100.0 + clock, clock, 0.0, REPORT, sum_up(glance.queue, 3)))
    state = await client.json("/page/state.json")
    process = cast("dict[str, object]", state["process"])
    assert (process["version"], process["ready"], process["roles"]) == ("1.2.3", True, ["worker"])
    database = cast("dict[str, list[dict[str, object]]]", state["database"])
    assert [(entry["state"], entry["groups"]) for entry in database["queue"]] == [("computing", 1)]
    assert [(entry["worker"], entry["groups"]) for entry in database["workers"]] == [("mine", 1)]
    recent = cast("dict[str, list[dict[str, object]]]", state["recent"])
    assert [item["id"] for item in recent["transactions"]] == [TRANSACTION.hex(), (b"u" * 32).hex()]
    assert recent["failures"][0]["failure"] == {"rule": "BROKEN", "message": "by the test", "cause": None}
    assert cast("dict[str, object]", state["history"])["at"] == [102.0]
    later = await client.json("/page/state.json?after=102")
    assert cast("dict[str, object]", later["history"])["at"] == []
    assert cast("dict[str, object]", (await client.json("/page/state.json?span=long"))["history"])["span"] == "long"


async def test_a_transaction_is_looked_up_and_bad_ids_are_explained() -> None:
    store = ViewedMemoryStore()
    first, second = await with_inputs(store, 2)
    await store.submit(batch(add(first, second)))
    client = Client(store)
    graph = await client.json(f"/page/transactions/0x{TRANSACTION.hex()}.json")
    (shown,) = cast("list[dict[str, object]]", graph["nodes"])
    assert (shown["operation"], shown["level"], shown["state"]) == ("ADD", 1, "ready")
    for name, status in (("zz", 400), ("0", 400), ("0x", 400), ("00" * 65, 400), ("00" * 32, 404)):
        answer = await client.get(f"/page/transactions/{name}.json")
        assert answer.status_code == status
        assert (await answer.get_json())["error"]


async def test_ciphertexts_keys_and_operands_stay_inside() -> None:
    store = ViewedMemoryStore()
    first, second = await with_inputs(store, 2)
    await store.submit(batch(add(first, second)))
    client = Client(store)
    stored = await store.get_ciphertexts([first])
    secret = stored[first].data
    for path in ("/page/state.json", f"/page/transactions/{TRANSACTION.hex()}.json"):
        text = json.dumps(await client.json(path))
        assert secret.hex() not in text
        assert "data" not in re.findall(r'"(\w+)":', text)
        assert stored[first].key_id.hex() not in text


async def test_without_a_database_the_rest_is_still_shown() -> None:
    client = Client(None)
    state = await client.json("/page/state.json")
    assert state["recent"] is None
    assert state["recent_error"] == "the store is not open"
    assert cast("dict[str, object]", state["process"])["ready"] is True
    answer = await client.get("/page/transactions/00.json")
    assert answer.status_code == 503


async def test_over_a_real_socket_the_peer_is_known() -> None:
    lookout = Lookout(ViewedMemoryStore)
    page = OperatorPage(replace(IDENTITY), lambda: REPORT, History(), lookout)
    stopping = trio.Event()
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            app = make_app(lambda: REPORT, page=page)
            port: int = await nursery.start(partial(run_health, app, "127.0.0.1", 0, stopping=stopping))
            for host, status in ((f"127.0.0.1:{port}", b"200"), ("evil.example", b"403")):
                async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
                    request = f"GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
                    await stream.send_all(request.encode())
                    answer = b"".join([chunk async for chunk in stream])
                assert answer.split()[1] == status
            stopping.set()
