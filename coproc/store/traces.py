"""The span that asked for a group, kept beside it: a trace goes on after a restart and in other processes.

Decides that nothing is read or written unless traces are on, and that a database of the release before, which lacks the
table, keeps none. Must not know what a span is: a context is a line of text.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from coproc.store.tables import has_table
from coproc.tracing import is_on

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from coproc.program.types import Handle
    from coproc.store.connection import TrioConnection


async def remember(connection: TrioConnection, outputs: Sequence[Handle], traceparent: str | None) -> None:
    """Write down which span asked for new groups, each named by one of its outputs."""
    if traceparent is None or not outputs or not await _is_possible(connection):
        return
    await connection.execute(
        "insert into group_traces (group_id, traceparent) select group_id, %s from computations where output = any(%s)",
        [traceparent, list(outputs)],
    )


async def recall(connection: TrioConnection, group_ids: Collection[int]) -> Mapping[int, str]:
    """Read which span asked, by group; groups that no span asked for are absent."""
    if not group_ids or not await _is_possible(connection):
        return {}
    cursor = await connection.execute(
        "select group_id, traceparent from group_traces where group_id = any(%s)", [sorted(group_ids)]
    )
    return dict(await cursor.fetchall())


async def _is_possible(connection: TrioConnection) -> bool:
    return is_on() and await has_table(connection, "group_traces")
