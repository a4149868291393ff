"""The operator's page: who may open it, what it consists of, and what it is told.

Decides paths, access and headers. It only reads: there is no way to change anything by it. Everything it consists of is
in ``site/`` and served from memory; it asks for nothing from elsewhere, and its browser is forbidden to.
"""

from __future__ import annotations

from hashlib import sha256
from importlib.resources import files
from ipaddress import IPv6Address, ip_address
from time import time
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

import trio
from quart import Blueprint, Response, jsonify, request

from coproc.errors import RecoverableError
from coproc.health.view import show_glance, show_graph, show_points, show_process, show_recent

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from coproc.health.history import History, Span
    from coproc.health.lookout import Lookout
    from coproc.health.report import HealthReport
    from coproc.health.view import Identity, Json

Access: TypeAlias = Literal["local", "all", "off"]
MOST_ID_BYTES: Final = 64
"""Transactions have ids of 32 bytes; those of callers may be shorter."""
SECURITY: Final = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none';"
        " form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_TYPES: Final = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}
_FORWARDED: Final = ("Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Real-IP", "Via")
_REFUSAL: Final = (
    "The operator's page is for this machine alone (COPROC_OPERATOR_PAGE=local): open it as localhost, for example"
    " through `kubectl port-forward` or `ssh -L`. COPROC_OPERATOR_PAGE=all shows it to whoever reaches this port.\n"
)


class OperatorPage:
    """The routes of the page."""

    def __init__(
        self,
        identity: Identity,
        report: Callable[[], HealthReport],
        history: History,
        lookout: Lookout,
        *,
        access: Access = "local",
    ) -> None:
        self._identity = identity
        self._report = report
        self._history = history
        self._lookout = lookout
        self._access = access
        self._site = _load_site()

    def blueprint(self) -> Blueprint:
        """Make the routes, with their checks and headers."""
        routes = Blueprint("page", __name__)
        routes.before_request(self._check)
        routes.after_request(_secure)
        routes.add_url_rule("/", "index", self._index)
        routes.add_url_rule("/page/<name>", "site", self._file)
        routes.add_url_rule("/page/state.json", "state", self._state)
        routes.add_url_rule("/page/transactions/<name>.json", "transaction", self._transaction)
        return routes

    async def _check(self) -> Response | None:
        if self._access == "all":
            return None
        forwarded = any(name in request.headers for name in _FORWARDED)
        if is_loopback(request.remote_addr or "") and is_local_name(request.host) and not forwarded:
            return None
        return Response(_REFUSAL, 403, content_type="text/plain; charset=utf-8")

    async def _index(self) -> Response:
        return self._serve("index.html")

    async def _file(self, name: str) -> Response:
        return self._serve(name)

    def _serve(self, name: str) -> Response:
        found = self._site.get(name)
        if found is None:
            return _problem(404, "there is no such file")
        data, content_type, tag = found
        if request.if_none_match.contains(tag):
            answer = Response(b"", 304)
        else:
            answer = Response(data, 200, content_type=content_type)
        answer.set_etag(tag)
        answer.headers["Cache-Control"] = "no-cache"
        return answer

    async def _state(self) -> Response:
        """Everything but transactions: one answer, so that what is shown together belongs together."""
        span: Span = "long" if request.args.get("span") == "long" else "short"
        points = self._history.points(span, request.args.get("after", 0.0, float))
        state: dict[str, Json] = {
            "now": time(),
            "process": show_process(self._identity, self._report()),
            "history": {"span": span, **show_points(points)},
            "recent": None,
        }
        try:
            state["recent"] = show_recent(await self._lookout.recent())
        except RecoverableError as error:
            state["recent_error"] = error.message
        state["database"] = show_glance(self._lookout.latest, self._lookout.error, trio.current_time())
        return _json(state)

    async def _transaction(self, name: str) -> Response:
        digits = name.removeprefix("0x")
        try:
            transaction_id = bytes.fromhex(digits)
        except ValueError:
            return _problem(400, "transaction: must be hexadecimal")
        if not 0 < len(transaction_id) <= MOST_ID_BYTES:
            return _problem(400, f"transaction: must have 1 to {MOST_ID_BYTES} bytes")
        try:
            graph = await self._lookout.transaction(transaction_id)
        except RecoverableError as error:
            return _problem(503, error.message)
        if graph is None:
            return _problem(404, "there is no such transaction")
        return _json({"now": time(), **show_graph(graph)})


def is_loopback(address: str) -> bool:
    """Tell whether a peer is on this machine."""
    try:
        found = ip_address(address.partition("%")[0])
    except ValueError:
        return False
    mapped = found.ipv4_mapped if isinstance(found, IPv6Address) else None
    return (mapped or found).is_loopback


def is_local_name(host: str) -> bool:
    """Tell whether a ``Host`` header names this machine by address or as localhost.

    A name of somebody's own that leads to 127.0.0.1 would let their web page read ours (DNS rebinding).
    """
    name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() and not host.endswith("]") else host
    return name.lower() == "localhost" or is_loopback(name.strip("[]"))


def _load_site() -> Mapping[str, tuple[bytes, str, str]]:
    """Read what the page consists of: bytes, type and tag by name."""
    site: dict[str, tuple[bytes, str, str]] = {}
    for entry in files("coproc.health").joinpath("site").iterdir():
        ending = entry.name.rpartition(".")[2]
        if ending in _TYPES:
            data = entry.read_bytes()
            site[entry.name] = (data, _TYPES[ending], sha256(data).hexdigest()[:16])
    return site


async def _secure(answer: Response) -> Response:
    answer.headers.update(SECURITY)
    return answer


def _json(value: Mapping[str, Json]) -> Response:
    answer = jsonify(value)
    answer.headers["Cache-Control"] = "no-store"
    return answer


def _problem(status: int, message: str) -> Response:
    answer = _json({"error": message})
    answer.status_code = status
    return answer
