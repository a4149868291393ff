"""The Trio connection and the pool, above all under cancellation."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import psycopg
import pytest
import trio
import trio.testing
from psycopg.conninfo import conninfo_to_dict

from coproc.errors import IrrecoverableError, RecoverableError
from coproc.resilience import CircuitOpen
from coproc.store import graph
from coproc.store.connection import TrioConnection
from coproc.store.faults import DatabaseRefused, DatabaseUnavailable, is_conflict
from coproc.store.pool import Pool
from coproc.store.postgres import PostgresStore
from tests.store.builders import add, batch, with_inputs

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@pytest.fixture
async def connection(database_url: str) -> AsyncIterator[TrioConnection]:
    async with await TrioConnection.connect(database_url, autocommit=True) as opened:
        yield opened


@pytest.fixture
async def pool(database_url: str) -> AsyncIterator[Pool]:
    opened = Pool(database_url, 4)
    yield opened
    await opened.aclose()


async def scalar(connection: TrioConnection, query: bytes) -> object:
    row = await (await connection.execute(query)).fetchone()
    assert row is not None
    return row[0]


async def test_large_values_go_both_ways(connection: TrioConnection) -> None:
    data = random.Random(1).randbytes(5_000_000)
    cursor = await connection.execute("select %s::bytea", [data], binary=True)
    assert await cursor.fetchone() == (data,)


async def test_a_cancelled_statement_ends_on_the_server_and_the_connection_stays(
    connection: TrioConnection,
    pool: Pool,
) -> None:
    with trio.fail_after(5):
        with trio.move_on_after(0.05) as scope:
            await connection.execute("select pg_sleep(60)")
        assert scope.cancelled_caught
        assert connection.is_reusable
        assert await scalar(connection, b"select 7") == 7
        async with pool.connection() as other:
            assert await scalar(other, b"select count(*) from pg_stat_activity where query like '%sleep(60)'") == 0


async def test_a_cancelled_transaction_is_rolled_back(connection: TrioConnection) -> None:
    await connection.execute("create table t (n integer)")
    with trio.move_on_after(0.05) as scope:
        async with connection.transaction():
            await connection.execute("insert into t values (1)")
            await connection.execute("select pg_sleep(60)")
    assert scope.cancelled_caught
    assert connection.is_reusable
    assert await scalar(connection, b"select count(*) from t") == 0


async def test_a_commit_under_way_is_not_interrupted(connection: TrioConnection) -> None:
    await connection.execute("create table t (n integer)")
    with trio.CancelScope() as scope:
        async with connection.transaction():
            await connection.execute("insert into t values (1)")
            scope.cancel()
    assert connection.is_reusable
    assert await scalar(connection, b"select count(*) from t") == 1


async def test_what_is_sent_ahead_is_one_transaction(pool: Pool) -> None:
    async with pool.connection() as connection:
        await connection.execute("create table t (n integer primary key)")
        async with pool.connection() as other:
            async with connection.sending_ahead():
                await connection.execute("insert into t values (1)")
                assert await scalar(connection, b"select count(*) from t") == 1
                cursor = await connection.execute("insert into t select * from generate_series(2, 4)")
                assert await connection.changed_rows(cursor) == 3
                assert await scalar(other, b"select count(*) from t") == 0
            assert await scalar(other, b"select count(*) from t") == 4


@pytest.mark.parametrize("fault", ["ours", "the server's", "the server's, noticed at the end"])
async def test_what_is_sent_ahead_is_undone(connection: TrioConnection, fault: str) -> None:
    notices: list[str | None] = []
    connection.add_notice_handler(lambda notice: notices.append(notice.message_primary))
    await connection.execute("create table t (n integer primary key)")

    async def work() -> None:
        async with connection.sending_ahead():
            await connection.execute("insert into t values (1)")
            assert await scalar(connection, b"select count(*) from t") == 1
            if fault == "ours":
                raise ZeroDivisionError
            cursor = await connection.execute("insert into t values (1) returning n")
            await connection.execute("insert into t values (2)")
            if fault == "the server's":
                await cursor.fetchone()

    with pytest.raises(ZeroDivisionError if fault == "ours" else psycopg.errors.UniqueViolation):
        await work()
    assert connection.is_reusable
    assert await scalar(connection, b"select count(*) from t") == 0
    assert notices == []


async def test_an_error_of_the_commit_is_told(pool: Pool) -> None:
    """It undoes the transaction, may be one that is worth another try, and costs no connection."""
    async with pool.connection() as connection:
        await connection.execute("create table t (n integer)")
        await connection.execute(
            "create function refuse() returns trigger language plpgsql as"
            " $$ begin raise exception 'too late' using errcode = '40001'; end $$"
        )
        await connection.execute(
            "create constraint trigger late after insert on t deferrable initially deferred"
            " for each row execute function refuse()"
        )

    async def write() -> None:
        async with pool.transaction() as connection:
            await connection.execute("insert into t values (1)")

    with pytest.raises(DatabaseUnavailable, match="too late") as caught:
        await write()
    assert is_conflict(caught.value.__cause__ or caught.value)
    assert pool.idle == 1
    async with pool.transaction() as connection:
        assert await scalar(connection, b"select count(*) from t") == 0


async def test_what_a_block_raises_wins_over_errors_of_statements(pool: Pool) -> None:
    async def work() -> None:
        async with pool.transaction() as connection:
            await connection.execute("select 1 / 0", prepare=False)
            await connection.execute("select 2", prepare=False)
            raise KeyError

    with pytest.raises(KeyError):
        await work()
    await pool.check()


async def test_a_statement_that_the_server_skipped_is_prepared_anew(pool: Pool) -> None:

    async def fail() -> None:
        async with pool.transaction() as connection:
            await connection.execute("select 1 / %s::integer", [0])
            await connection.execute("select %s::integer + 5", [1])

    for _ in range(2):
        with pytest.raises(DatabaseRefused):
            await fail()
        async with pool.transaction() as connection:
            assert await (await connection.execute("select %s::integer + 5", [1])).fetchall() == [(6,)]


@pytest.mark.parametrize("ahead", [False, True])
async def test_cancelled_before_it_begins_nothing_is_sent(pool: Pool, ahead: bool) -> None:  # noqa: FBT001
    async with pool.connection() as connection:
        await connection.execute("create table t (n integer)")
    with trio.CancelScope() as scope:
        scope.cancel()
        async with pool.transaction() if ahead else pool.connection() as connection:
            await connection.execute("insert into t values (1)")
    assert scope.cancelled_caught
    async with pool.connection() as connection:
        assert await scalar(connection, b"select count(*) from t") == 0


async def test_more_than_a_socket_holds_is_sent_ahead(connection: TrioConnection) -> None:
    """Neither side waits for the other to read."""
    async with connection.sending_ahead():
        cursors = [await connection.execute("select repeat('x', 1000000), %s", ["y" * 1_000_000]) for _ in range(8)]
        for cursor in cursors:
            (row,) = await cursor.fetchall()
            assert [len(column) for column in row] == [1_000_000, 1_000_000]


async def test_closing_wakes_a_waiting_task(connection: TrioConnection) -> None:
    async with trio.open_nursery() as nursery:

        async def sleeper() -> None:
            with pytest.raises(psycopg.OperationalError):
                await connection.execute("select pg_sleep(60)")

        nursery.start_soon(sleeper)
        await trio.testing.wait_all_tasks_blocked(0.02)
        await connection.close()


async def test_a_storm_of_cancellations_loses_and_invents_nothing(pool: Pool) -> None:
    """What a task saw committed is there, what it saw fail is not, and every connection is fit for use afterwards."""
    async with pool.connection() as connection:
        await connection.execute("create table t (n integer primary key)")
    chance = random.Random(7)
    committed: set[int] = set()

    async def write(number: int) -> None:
        async with pool.transaction() as connection:
            await connection.execute("insert into t values (%s)", [number])
            await connection.execute("select pg_sleep(0.0005)")
        committed.add(number)

    began = trio.current_time()
    for number in range(-5, 0):
        await write(number)
    patience = 4 * (trio.current_time() - began) / 5  # on any machine some come to their end, and some do not

    async def task(first: int) -> None:
        for number in range(first, first + 25):
            with trio.move_on_after(chance.random() * patience):
                await write(number)

    async with trio.open_nursery() as nursery:
        for number in range(8):
            nursery.start_soon(task, 1000 * number)
    async with pool.connection() as connection:
        rows = {n for (n,) in await (await connection.execute("select n from t")).fetchall()}
    assert committed <= rows
    # A commit may run to its end while its task is being cancelled: rarely more than a few.
    assert len(rows - committed) <= 10
    assert 5 < len(rows) < 205
    assert pool.in_use == 0
    for _ in range(pool.size):
        await pool.check()


async def test_errors_are_ours(pool: Pool) -> None:
    with pytest.raises(DatabaseRefused) as caught:
        async with pool.connection() as connection:
            await connection.execute("select 1 / 0")
    assert isinstance(caught.value, IrrecoverableError)
    assert caught.value.context == {"sqlstate": "22012"}
    with pytest.raises(DatabaseUnavailable) as lost:
        async with pool.connection() as connection:
            await connection.execute("select pg_terminate_backend(pg_backend_pid())")
    assert isinstance(lost.value, RecoverableError)
    with pytest.raises(DatabaseUnavailable):
        async with Pool("postgresql://nobody@localhost:1/nothing").connection():
            pass
    with pytest.raises(ZeroDivisionError):
        async with pool.connection():
            raise ZeroDivisionError


async def test_the_pool_is_bounded_and_prefers_the_connection_used_last(pool: Pool) -> None:
    most = 0
    backends: set[object] = set()

    async def task() -> None:
        nonlocal most
        async with pool.connection() as connection:
            most = max(most, pool.in_use)
            backends.add(await scalar(connection, b"select pg_backend_pid() from pg_sleep(0.01)"))

    async with trio.open_nursery() as nursery:
        for _ in range(12):
            nursery.start_soon(task)
    assert most == len(backends) == pool.idle == 4
    async with pool.connection() as connection:
        last = connection.pgconn.backend_pid
    async with pool.connection() as connection:
        assert connection.pgconn.backend_pid == last


async def test_connections_that_the_server_dropped_are_replaced(pool: Pool, connection: TrioConnection) -> None:
    async with pool.connection() as first:
        await scalar(first, b"select 1")
        pid = first.pgconn.backend_pid
    await connection.execute("select pg_terminate_backend(%s, 5000)", [pid])
    async with pool.connection() as second:
        assert second.pgconn.backend_pid != pid
        assert await scalar(second, b"select 1") == 1


async def test_a_connection_left_in_a_transaction_is_not_reused(pool: Pool) -> None:
    async with pool.connection() as connection:
        await connection.execute("begin")
    assert pool.idle == 0


async def test_closing_waits_for_those_in_use_and_refuses_newcomers(database_url: str) -> None:
    pool = Pool(database_url, 2)
    order: list[str] = []
    async with trio.open_nursery() as nursery:

        async def user(*, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
            async with pool.connection() as connection:
                task_status.started()
                await connection.execute("select pg_sleep(0.05)")
                order.append("used")

        await nursery.start(user)
        await pool.aclose()
        order.append("closed")
        with pytest.raises(DatabaseUnavailable):
            await pool.check()
    assert order == ["used", "closed"]
    assert pool.idle == 0


async def test_every_address_of_every_host_is_tried(database_url: str) -> None:
    parameters = conninfo_to_dict(database_url)
    sockets = parameters["host"]
    hosts = f"{sockets}.nowhere,localhost,{sockets}"
    async with await TrioConnection.connect(database_url, host=hosts, port="5432,1,5432") as connection:
        assert connection.info.host == sockets
    with pytest.raises(psycopg.ProgrammingError):
        await TrioConnection.connect(host="a,b", port="1,2,3")
    with pytest.raises(psycopg.OperationalError):
        await TrioConnection.connect(host="no-such-host.invalid")
    silent = trio.socket.socket()
    await silent.bind(("127.0.0.1", 0))
    silent.listen()
    with silent, pytest.raises(psycopg.errors.ConnectionTimeout):
        await TrioConnection.connect(host="127.0.0.1", port=silent.getsockname()[1], connect_timeout=2)


async def test_who_stands_still_in_a_transaction_gives_its_locks_back(database_url: str) -> None:
    """A stopped process must not hold up everybody else for as long as it is stopped. Who is slow or idle stays."""
    stuck, slow, pool = Pool(database_url), Pool(database_url), Pool(database_url, still_seconds=0.3)
    store = PostgresStore(pool)
    with trio.fail_after(60):
        inputs = await with_inputs(store, 1)
        async with stuck.connection() as idle, trio.open_nursery() as nursery:
            holds, stands_still = trio.Event(), trio.Event()

            async def hold() -> None:
                async with stuck.transaction() as connection:
                    await graph.lock_graph(connection)
                    await (await connection.execute("select 1")).fetchall()
                    holds.set()
                    await stands_still.wait()

            async def stand_still() -> None:
                with pytest.raises(DatabaseUnavailable):
                    await hold()

            async def be_slow() -> None:
                async with slow.transaction() as connection:
                    await (await connection.execute("select pg_sleep(1.5)")).fetchall()

            nursery.start_soon(stand_still)
            nursery.start_soon(be_slow)
            await holds.wait()
            assert await store.submit(batch(add(inputs[0], inputs[0]))) == 1
            stands_still.set()
            assert await scalar(idle, b"select 7") == 7
        await stuck.check()
    for each in (stuck, slow, pool):
        await each.aclose()


async def test_a_read_only_server_is_waited_for(pool: Pool) -> None:
    """As after a failover, until the new primary is promoted."""

    async def write() -> None:
        async with pool.transaction() as connection:
            await connection.execute("set transaction read only")
            await connection.execute("create table t (n integer)")

    with pytest.raises(DatabaseUnavailable):
        await write()


@pytest.mark.usefixtures("autojump_clock")
async def test_a_server_that_hangs_counts_as_gone() -> None:
    """It takes connections and says nothing: callers hear so at once instead of waiting one after another."""
    with trio.socket.socket() as silent:
        await silent.bind(("127.0.0.1", 0))
        silent.listen()
        pool = Pool(f"postgresql://nobody@127.0.0.1:{silent.getsockname()[1]}/none", 1)
        for _ in range(3):
            with pytest.raises(DatabaseUnavailable, match="no answer in time"):
                await pool.check()
        began = trio.current_time()
        with pytest.raises(CircuitOpen, match="no answer in time"):
            async with pool.connection():
                pass
        assert trio.current_time() == began
        await pool.aclose()
        await trio.sleep(2)
        with pytest.raises(DatabaseUnavailable, match="closing"):
            await pool.check()
