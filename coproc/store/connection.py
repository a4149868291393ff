"""A psycopg connection that waits with Trio.

psycopg separates its protocol (generators that say which readiness they need) from waiting. This module supplies the
waiting, connecting and cancelling; cursors, types and COPY are psycopg's own. Knows nothing of our tables.

Cancellation is safe: a cancelled statement is cancelled on the server and the connection stays usable, or, if that
does not work in time or more statements are under way, the connection is closed. COMMIT and ROLLBACK always run to
their end.
"""

from __future__ import annotations

import contextlib
import logging
import select
from typing import TYPE_CHECKING, Final, TypeVar

import psycopg
import trio
from psycopg import pq
from psycopg._enums import Ready, Wait
from psycopg.conninfo import conninfo_to_dict, make_conninfo, timeout_from_conninfo
from psycopg.rows import AsyncRowFactory, TupleRow, tuple_row

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator
    from types import TracebackType
    from typing import Self

    from psycopg.abc import AdaptContext, ConnDict, ConnParam
    from psycopg.pq.abc import PGconn

T = TypeVar("T")
log = logging.getLogger(__name__)

CANCEL_SECONDS: Final = 5.0
"""How long a cancelled statement may take to stop before its connection is given up."""
END_SECONDS: Final = 30.0
"""How long a COMMIT or ROLLBACK may take."""
YIELD_SECONDS: Final = 0.005
"""How long one statement may keep the Trio thread busy without letting other tasks run."""

DEFAULTS: Final[dict[str, str | int]] = {
    "application_name": "coproc",
    "connect_timeout": 10,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 20_000,
}
"""Connection parameters used unless the caller gives them: a dead peer is noticed within 25 seconds."""


class _Lock:
    """A lock that is free nearly always, so that taking it is no checkpoint then: every statement does, some twice."""

    def __init__(self) -> None:
        self._lock = trio.Lock()

    async def __aenter__(self) -> None:
        try:
            self._lock.acquire_nowait()
        except trio.WouldBlock:
            await self._lock.acquire()

    async def __aexit__(self, *_: object) -> None:
        self._lock.release()


class TrioConnection(psycopg.AsyncConnection[TupleRow]):
    """``psycopg.AsyncConnection`` on Trio. Use one connection from one task at a time."""

    def __init__(self, pgconn: PGconn, row_factory: AsyncRowFactory[TupleRow] = tuple_row) -> None:
        super().__init__(pgconn, row_factory)
        # psycopg only ever uses it as an async context manager
        self.lock = _Lock()  # type: ignore[assignment]  # pyright: ignore[reportAttributeAccessIssue]

    @classmethod
    async def connect(
        cls,
        conninfo: str = "",
        *,
        autocommit: bool = False,
        prepare_threshold: int | None = 5,
        context: AdaptContext | None = None,
        row_factory: AsyncRowFactory[TupleRow] | None = None,
        cursor_factory: type[psycopg.AsyncCursor[TupleRow]] | None = None,
        **kwargs: ConnParam,
    ) -> Self:
        """Connect, trying every address of every host in turn.

        Raises:
            psycopg.OperationalError: when none of them answers.
        """
        if context is not None:
            raise psycopg.NotSupportedError("no adaptation context on a Trio connection")
        parameters = {**DEFAULTS, **conninfo_to_dict(conninfo, **kwargs)}
        failure: psycopg.Error | None = None
        for attempt in await _attempts(parameters):
            try:
                with trio.fail_after(timeout_from_conninfo(parameters)):
                    connection = await _drive_connecting(cls._connect_gen(make_conninfo("", **attempt)))
            except trio.TooSlowError:
                failure = psycopg.errors.ConnectionTimeout("connection timeout expired")
            except psycopg.Error as error:
                failure = error
            else:
                connection._autocommit = autocommit  # noqa: SLF001 - an instance of this class
                connection.prepare_threshold = prepare_threshold
                connection.row_factory = row_factory or connection.row_factory
                connection.cursor_factory = cursor_factory or connection.cursor_factory
                return connection
        raise failure or psycopg.OperationalError("no address to connect to")

    async def wait(
        self,
        gen: Generator[Wait, Ready, T],
        interval: float = 0.0,
        timeout: float | None = None,  # noqa: ASYNC109 - psycopg's signature
    ) -> T:
        """Run one of psycopg's generators; on cancellation cancel the statement on the server as well."""
        del interval  # Trio needs no polling
        fd = self.pgconn.socket
        try:
            if timeout is None:
                return await _drive(gen, fd)
            with trio.move_on_after(timeout):
                return await _drive(gen, fd)
        except (trio.Cancelled, KeyboardInterrupt):
            if self._pipeline is not None or self.pgconn.transaction_status == pq.TransactionStatus.ACTIVE:
                await self._stop_statement(gen)
            raise
        raise psycopg.errors._WaitTimeout("wait timeout expired")  # noqa: SLF001 - what psycopg expects

    async def _stop_statement(self, gen: Generator[Wait, Ready, T]) -> None:
        """Cancel the running statement and read to its end, or close the connection."""
        with trio.move_on_after(CANCEL_SECONDS, shield=True) as grace:
            try:
                await self.cancel_safe(timeout=CANCEL_SECONDS)
                if self._pipeline is not None:
                    raise psycopg.OperationalError("others were sent after it")
                await _drive(gen, self.pgconn.socket, resume=True)
            except psycopg.errors.QueryCanceled:
                return
            except (psycopg.Error, trio.TooSlowError) as error:
                log.info("closing a connection whose statement could not be cancelled: %s", error)
                self._finish()
        if grace.cancelled_caught:
            log.info("closing a connection whose statement did not stop in %s s", CANCEL_SECONDS)
            self._finish()

    async def cancel_safe(self, *, timeout: float = 30.0) -> None:  # noqa: ASYNC109 - psycopg's signature
        """Ask the server to cancel what this connection runs.

        Raises:
            trio.TooSlowError: if the request does not get through in ``timeout`` seconds.
        """
        if not self._should_cancel():
            return
        with trio.fail_after(timeout):
            if pq.version() >= 170000:
                await _drive_connecting(self._cancel_gen())
            else:
                await trio.to_thread.run_sync(self.cancel, abandon_on_cancel=True)

    async def _try_cancel(self, *, timeout: float = 5.0) -> None:  # noqa: ASYNC109 - psycopg's signature
        with contextlib.suppress(psycopg.Error, trio.TooSlowError):
            await self.cancel_safe(timeout=timeout)

    @contextlib.asynccontextmanager
    async def transaction(
        self,
        savepoint_name: str | None = None,
        force_rollback: bool = False,  # noqa: FBT001, FBT002 - psycopg's signature
    ) -> AsyncGenerator[psycopg.AsyncTransaction]:
        """Run a block in a transaction (or savepoint) whose end no cancellation can interrupt."""
        transaction = psycopg.AsyncTransaction(self, savepoint_name, force_rollback)
        await transaction.__aenter__()
        try:
            yield transaction
        except BaseException as error:
            with trio.fail_after(END_SECONDS, shield=True):
                swallow = await transaction.__aexit__(type(error), error, error.__traceback__)
            if not swallow:
                raise
        else:
            with trio.fail_after(END_SECONDS, shield=True):
                await transaction.__aexit__(None, None, None)

    @contextlib.asynccontextmanager
    async def sending_ahead(self) -> AsyncGenerator[None]:
        """Run a block as one transaction whose statements do not wait for those before.

        Only a ``fetch`` waits, for all that was sent, and ``changed_rows``. An error of a statement comes out of the
        next wait, which may be that of the block's end. That end, which commits, or undoes if the block raises, cannot
        be interrupted by a cancellation.

        There is no BEGIN and no COMMIT: what is sent up to a Sync message is one transaction ("Pipeline Mode" and
        "Extended Query" in the manual of Postgres).
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        pipeline = psycopg.AsyncPipeline(self)
        await pipeline.__aenter__()
        self._pipeline = pipeline
        try:
            yield
        except BaseException:
            with trio.fail_after(END_SECONDS, shield=True):
                await self._undo(pipeline)
            raise
        else:
            with trio.fail_after(END_SECONDS, shield=True):
                await self._leave(pipeline)

    async def _undo(self, pipeline: psycopg.AsyncPipeline) -> None:
        if not self.closed:
            # Without BEGIN there would be a warning in the server's log. After an error the server skips both.
            for command in (b"begin", b"rollback"):
                async with self.lock:
                    await self.wait(self._exec_command(command))
        with contextlib.suppress(psycopg.Error):  # what the block raises matters
            await self._leave(pipeline)

    async def _leave(self, pipeline: psycopg.AsyncPipeline) -> None:
        try:
            if not self.closed:
                await self._receive_rest(pipeline)
        finally:
            self._pipeline = None
            if not self.closed and self.pgconn.pipeline_status != pq.PipelineStatus.OFF:
                self._finish()

    async def _receive_rest(self, pipeline: psycopg.AsyncPipeline) -> None:
        async with self.lock:
            try:
                await self.wait(pipeline._exit_gen())  # noqa: SLF001 - its context manager loses the error of a commit
            except psycopg.Error:
                if not self.closed:
                    if self.pgconn.pipeline_status == pq.PipelineStatus.ABORTED:
                        # It was the answer to the Sync, of which the proper one is still to come.
                        pipeline.result_queue.append(None)
                        await self.wait(pipeline._fetch_gen(flush=False))  # noqa: SLF001
                    with contextlib.suppress(psycopg.Error):
                        self.pgconn.exit_pipeline_mode()
                raise
            self.pgconn.exit_pipeline_mode()

    async def changed_rows(self, cursor: psycopg.AsyncCursor[TupleRow]) -> int:
        """Wait for a statement without results; returns how many rows it changed."""
        if self._pipeline is not None:
            async with self.lock:
                await self.wait(self._pipeline._fetch_gen(flush=True))  # noqa: SLF001 - as fetching does
        return cursor.rowcount

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        try:
            await super().__aexit__(exc_type, exc_val, exc_tb)
        finally:
            self._finish()  # also when the commit is cancelled or fails

    async def close(self) -> None:
        """Close at once; a statement running in another task fails with ``psycopg.OperationalError``."""
        self._finish()

    def _finish(self) -> None:
        if not self.closed:
            trio.lowlevel.notify_closing(self.pgconn.socket)
            self._closed = True
            self.pgconn.finish()

    @property
    def is_reusable(self) -> bool:
        """Whether the connection is open, outside any transaction, and the server has not hung up (about 1 us)."""
        if self.closed or self.pgconn.transaction_status != pq.TransactionStatus.IDLE:
            return False
        return not _poll(self.pgconn.socket, Wait.R)  # an idle connection has something to read only when it ends


async def _attempts(parameters: ConnDict) -> list[ConnDict]:
    """Resolve host names in a Trio thread (libpq would block the loop); one set of parameters for each address."""
    host = str(parameters.get("host") or "")
    if not host or parameters.get("hostaddr"):
        return [parameters]
    hosts = host.split(",")
    ports = str(parameters.get("port") or "").split(",")
    ports = ports * len(hosts) if len(ports) == 1 else ports
    if len(ports) != len(hosts):
        raise psycopg.ProgrammingError(f"cannot match {len(hosts)} hosts with {len(ports)} port numbers")
    attempts: list[ConnDict] = []
    failure: OSError | None = None
    for name, port in zip(hosts, ports, strict=True):
        base: ConnDict = {**parameters, "host": name, **({"port": port} if port else {})}
        if not name or name.startswith(("/", "@")):
            attempts.append(base)
            continue
        try:
            found = await trio.socket.getaddrinfo(name, port or 5432, type=trio.socket.SOCK_STREAM)
        except OSError as error:
            failure = error
            continue
        addresses = dict.fromkeys(str(address[0]) for *_, address in found)
        attempts.extend({**base, "hostaddr": address} for address in addresses)
    if failure is not None and not attempts:
        raise psycopg.OperationalError(f"failed to resolve host {host!r}: {failure}")
    return attempts


async def _drive(gen: Generator[Wait, Ready, T], fd: int, *, resume: bool = False) -> T:
    """Run a generator of psycopg's protocol on a file descriptor that stays the same."""
    yielded_at = trio.current_time()
    try:
        want = gen.send(Ready.NONE) if resume else next(gen)
        # A socket nearly always is writable, and psycopg asks twice for each statement that it sends ahead. Where libpq
        # cannot send after all, it asks again: then the kernel is asked, which is cheaper than the event loop.
        for _ in range(2):
            if want & Wait.W:
                want = gen.send(Ready.W)
        while True:
            ready = 0
            if want & Wait.W and trio.current_time() - yielded_at < YIELD_SECONDS:
                ready = _poll(fd, want)
            if not ready:
                ready = await _ready(fd, want)
                yielded_at = trio.current_time()
            want = gen.send(Ready(ready))
    except StopIteration as done:
        result: T = done.value
        return result
    except trio.ClosedResourceError as error:
        raise psycopg.OperationalError("the connection was closed") from error


async def _drive_connecting(gen: Generator[tuple[int, Wait], Ready, T]) -> T:
    """Run a generator that names the file descriptor anew at each step, as while connecting."""
    try:
        fd, want = next(gen)
        while True:
            fd, want = gen.send(Ready(await _ready(fd, want)))
    except StopIteration as done:
        result: T = done.value
        return result


async def _ready(fd: int, want: Wait) -> int:
    """Wait until ``fd`` is ready for any of ``want``; returns ``Ready`` flags."""
    if want == Wait.R:
        await trio.lowlevel.wait_readable(fd)
        return Ready.R
    if want == Wait.W:
        await trio.lowlevel.wait_writable(fd)
        return Ready.W
    with select.epoll() as either:  # itself readable as soon as one of the two is there
        either.register(fd, select.EPOLLIN | select.EPOLLOUT)
        await trio.lowlevel.wait_readable(either.fileno())
    return _poll(fd, want)


def _poll(fd: int, want: Wait) -> int:
    """Ask the kernel, without waiting, which of ``want`` is ready; an error or hang-up makes everything ready."""
    poller = select.poll()
    poller.register(fd, (select.POLLIN if want & Wait.R else 0) | (select.POLLOUT if want & Wait.W else 0))
    ready = 0
    for _, event in poller.poll(0):
        if event & (select.POLLIN | select.POLLERR | select.POLLHUP | select.POLLNVAL):
            ready |= want & Wait.R
        if event & (select.POLLOUT | select.POLLERR | select.POLLHUP | select.POLLNVAL):
            ready |= want & Wait.W
    return ready
