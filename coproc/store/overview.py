"""What operators may look at: the queue, what failed lately, and one transaction as a graph.

Decides the records, and how they are read from Postgres: by a few bounded statements that disturb nobody.
Nothing here is needed to compute. Times are seconds since 1970; None where a store does not keep them.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Protocol, TypeAlias

from coproc.metrics import timed_operation
from coproc.program.computation import Operation
from coproc.program.types import Handle
from coproc.store.base import Failure, State
from coproc.store.chains import ChainStore
from coproc.store.forms import FormsStore
from coproc.store.graph import NOBODY
from coproc.store.retention import SweptStore

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from coproc.resilience import Guard
    from coproc.store.depot import Depot
    from coproc.store.pool import Pool

LOOK_BACK: Final = 5000
"""Results among which failures are looked for: with none, the whole history would be read each time."""
RECENT_GROUPS: Final = 500
COST_SAMPLE: Final = 50
"""Groups of a tenant in one state whose costs are added up; those of more are taken to cost the same on average."""
MAX_NODES: Final = 400
"""The most computations of a transaction that are shown."""


@dataclass(frozen=True, slots=True)
class QueueEntry:
    """Open groups of one tenant in one state."""

    tenant: str | None
    state: State
    groups: int
    bootstraps: int | None
    """Estimated, of many groups from some of them; None for groups that wait for inputs, and where the store does not
    estimate."""
    oldest_seconds: float | None
    """How long ago the oldest of them was asked for."""


@dataclass(frozen=True, slots=True)
class WorkerEntry:
    """A process that holds work just now."""

    worker: str
    groups: int
    bootstraps: int | None
    """Estimated; None where the store does not estimate."""
    lease_seconds: float | None
    """How long its lease lasts still; negative: it has given no sign of life, and others may take over."""


@dataclass(frozen=True, slots=True)
class FailedResult:
    """An output that a transaction was told of as failed."""

    transaction_id: bytes
    handle: Handle
    operation: str
    failure: Failure
    asked_at: float | None


@dataclass(frozen=True, slots=True)
class RecentTransaction:
    """A transaction that asked for new work lately."""

    transaction_id: bytes
    tenant: str | None
    computations: int
    failed: int
    groups: Mapping[State, int]
    """Its new groups by state."""
    asked_at: float | None


@dataclass(frozen=True, slots=True)
class GraphNode:
    """One computation of a transaction."""

    handle: Handle
    operation: str
    inputs: tuple[Handle, ...]
    state: State
    is_allowed: bool
    group_id: int
    attempts: int
    worker: str | None
    """Who computes it just now."""
    failure: Failure | None = None
    asked_at: float | None = None
    stored_at: float | None = None
    """When its result was stored; None also for what is not kept because nobody may read it."""


@dataclass(frozen=True, slots=True)
class TransactionGraph:
    """A transaction's computations in the order of submission, and the values from outside that they read."""

    transaction_id: bytes
    total: int
    """Its computations, of which the first ``MAX_NODES`` are shown."""
    nodes: tuple[GraphNode, ...]
    inputs: Mapping[Handle, bool] = field(default_factory=dict["Handle", bool])
    """Values from outside, and whether each is stored."""


GroupRow: TypeAlias = tuple[bytes, str | None, State, int, int, float | None]
"""A group's transaction, tenant and state, its computations and how many of them failed, and when it was asked for."""


def gather(groups: Iterable[GroupRow]) -> list[RecentTransaction]:
    """Sum groups, newest first, up by transaction."""
    found: dict[bytes, list[GroupRow]] = {}
    for row in groups:
        found.setdefault(row[0], []).append(row)
    return [
        RecentTransaction(
            transaction_id,
            rows[0][1],
            sum(row[3] for row in rows),
            sum(row[4] for row in rows),
            Counter(row[2] for row in rows),
            rows[0][5],
        )
        for transaction_id, rows in found.items()
    ]


class OverviewStore(Protocol):
    """A store that can be looked at. Raises RecoverableError when the database is out of reach."""

    async def queue(self) -> Sequence[QueueEntry]:
        """Open groups by tenant and state."""
        ...

    async def workers(self) -> Sequence[WorkerEntry]:
        """Processes that hold work, by name."""
        ...

    async def recent_failures(self, limit: int) -> Sequence[FailedResult]:
        """Failed results, newest first."""
        ...

    async def recent_transactions(self, limit: int) -> Sequence[RecentTransaction]:
        """Transactions that asked for new work, newest first."""
        ...

    async def transaction_graph(self, transaction_id: bytes) -> TransactionGraph | None:
        """One transaction; None if there is none."""
        ...


@dataclass(frozen=True, slots=True)
class Connections:
    """Connections of a pool."""

    in_use: int
    idle: int
    limit: int


class ViewedStore(ChainStore, OverviewStore, SweptStore, FormsStore, Protocol):
    """Everything that a service needs of a store."""

    @property
    def guards(self) -> Sequence[Guard]:
        """Circuit breakers before what the store depends on, each under its own name."""
        ...

    @property
    def connections(self) -> Connections | None:
        """How far the pool is used; None where there is none."""
        ...

    async def check(self) -> None:
        """Ask for a sign of life; it tells the guards, too. Raises RecoverableError if there is none."""
        ...


def operation_name(number: int) -> str:
    """Name an operation; a damaged row may have any number."""
    return Operation(number).name if number in Operation.__members__.values() else f"operation {number}"


def node_state(group: State, failure: Failure | None, *, is_stored: bool) -> State:
    """State of a computation, by its group's."""
    return State.FAILED if failure else State.COMPLETED if is_stored else group


def outside(nodes: Sequence[GraphNode]) -> list[Handle]:
    """Values that computations read and none of them makes, each once."""
    made = {node.handle for node in nodes}
    return list(dict.fromkeys(handle for node in nodes for handle in node.inputs if handle not in made))


# No joins with the view: it is made of all open groups anew for each row of the other side.
_QUEUE: Final = """
    select g.tenant, g.state, g.groups, case when g.state in (1, 2) then round(g.groups * (
        select avg((select q.bootstraps from queue_cost q where q.group_id = sample.group_id)) from (
            select w.group_id from work_groups w
            where coalesce(w.tenant, '') = coalesce(g.tenant, '') and w.state = g.state and w.state in (0, 1, 2)
            limit %s
        ) sample
    ))::bigint end, g.oldest
    from (
        select tenant, state, count(*) as groups,
               extract(epoch from clock_timestamp() - min(created_at))::double precision as oldest
        from work_groups where state in (0, 1, 2) group by tenant, state
    ) g order by g.tenant nulls first, g.state
"""
_WORKERS: Final = """
    select w.worker, count(*), sum((select q.bootstraps from queue_cost q where q.group_id = w.group_id))::bigint,
           extract(epoch from max(w.lease_until) - clock_timestamp())::double precision
    from work_groups w
    where w.state = 2 and w.worker is not null group by w.worker order by w.worker
"""
_FAILURES: Final = """
    select r.transaction_id, r.output, c.operation, c.failure_rule, c.failure_message, c.failure_cause,
           extract(epoch from w.created_at)::double precision
    from (select * from results order by sequence desc limit %s) r
    join computations c on c.output = r.output join work_groups w on w.group_id = c.group_id
    where c.failure_rule is not null and r.output <> %s order by r.sequence desc limit %s
"""
_TRANSACTIONS: Final = """
    select w.transaction_id, w.tenant, w.state, c.computations, c.failed,
           extract(epoch from w.created_at)::double precision
    from (select * from work_groups order by group_id desc limit %s) w, lateral (
        select count(*) as computations, count(*) filter (where failure_rule is not null) as failed
        from computations where group_id = w.group_id
    ) c
    order by w.group_id desc
"""
_NODES: Final = """
    select c.output, c.operation, array(select i.input from computation_inputs i where i.output = c.output),
           w.state, x.handle is not null, c.is_allowed, w.group_id, w.attempts, w.worker,
           c.failure_rule, c.failure_message, c.failure_cause,
           extract(epoch from w.created_at)::double precision, extract(epoch from x.created_at)::double precision
    from (select output, position from transaction_outputs where transaction_id = %s order by position limit %s) t
    join computations c on c.output = t.output join work_groups w on w.group_id = c.group_id
    left join ciphertexts x on x.handle = c.output
    order by t.position
"""


class PostgresOverview:
    """``OverviewStore`` over a pool of connections."""

    pool: Pool
    depot: Depot

    @property
    def guards(self) -> Sequence[Guard]:
        """The breakers before the database and the object store."""
        return (self.pool.guard, self.depot.guard) if self.depot.is_used else (self.pool.guard,)

    @property
    def connections(self) -> Connections:
        """How far the pool is used."""
        return Connections(self.pool.in_use, self.pool.idle, self.pool.size)

    @timed_operation
    async def check(self) -> None:
        """Ask the database for a sign of life."""
        await self.pool.check()
        await self.depot.check()

    @timed_operation
    async def queue(self) -> Sequence[QueueEntry]:
        """Open groups by tenant and state."""
        async with self.pool.connection() as connection:
            cursor = await connection.execute(_QUEUE, [COST_SAMPLE])
            return [
                QueueEntry(tenant, State(state), groups, bootstraps, oldest)
                for tenant, state, groups, bootstraps, oldest in await cursor.fetchall()
            ]

    @timed_operation
    async def workers(self) -> Sequence[WorkerEntry]:
        """Processes that hold work; see ``OverviewStore.workers``."""
        async with self.pool.connection() as connection:
            cursor = await connection.execute(_WORKERS)
            return [WorkerEntry(*row) for row in await cursor.fetchall()]

    @timed_operation
    async def recent_failures(self, limit: int) -> Sequence[FailedResult]:
        """Failed results; see ``OverviewStore.recent_failures``."""
        async with self.pool.connection() as connection:
            cursor = await connection.execute(_FAILURES, [LOOK_BACK, NOBODY, limit], binary=True)
            return [
                FailedResult(transaction_id, Handle(output), operation_name(operation), _failure(*reason), asked_at)
                for transaction_id, output, operation, *reason, asked_at in await cursor.fetchall()
            ]

    @timed_operation
    async def recent_transactions(self, limit: int) -> Sequence[RecentTransaction]:
        """Transactions; see ``OverviewStore.recent_transactions``."""
        async with self.pool.connection() as connection:
            cursor = await connection.execute(_TRANSACTIONS, [RECENT_GROUPS], binary=True)
            rows = await cursor.fetchall()
        return gather((row[0], row[1], State(row[2]), *row[3:]) for row in rows)[:limit]

    @timed_operation
    async def transaction_graph(self, transaction_id: bytes) -> TransactionGraph | None:
        """One transaction; see ``OverviewStore.transaction_graph``."""
        async with self.pool.connection() as connection:
            cursor = await connection.execute(
                "select count(*) from transaction_outputs where transaction_id = %s", [transaction_id]
            )
            ((total,),) = await cursor.fetchall()
            if not total:
                return None
            cursor = await connection.execute(_NODES, [transaction_id, MAX_NODES], binary=True)
            nodes = tuple([_node(*row) for row in await cursor.fetchall()])
            reads = outside(nodes)
            cursor = await connection.execute(
                "select handle from ciphertexts where handle = any(%s)", [reads], binary=True
            )
            stored = {Handle(raw) for (raw,) in await cursor.fetchall()}
        return TransactionGraph(transaction_id, total, nodes, {handle: handle in stored for handle in reads})


def _node(  # noqa: PLR0917 - the columns of a row
    output: bytes,
    operation: int,
    inputs: Sequence[bytes],
    state: int,
    is_stored: bool,  # noqa: FBT001 - likewise
    is_allowed: bool,  # noqa: FBT001 - likewise
    group_id: int,
    attempts: int,
    worker: str | None,
    rule: str | None,
    message: str | None,
    cause: bytes | None,
    asked_at: float,
    stored_at: float | None,
) -> GraphNode:
    failure = None if rule is None else _failure(rule, message, cause)
    return GraphNode(
        Handle(output),
        operation_name(operation),
        tuple(Handle(raw) for raw in inputs),
        node_state(State(state), failure, is_stored=is_stored),
        is_allowed,
        group_id,
        attempts,
        worker,
        failure,
        asked_at,
        stored_at,
    )


def _failure(rule: str, message: str | None, cause: bytes | None) -> Failure:
    return Failure(rule, message or "", None if cause is None else Handle(cause))
