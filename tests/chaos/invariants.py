"""What must hold at the end, read from the database itself and from what callers and subscribers wrote down.

Decides what a lost, doubled or wrong result is. It waits for nothing: the driver does.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Final

import psycopg

from coproc.store.depot import MARK

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from coproc.program.types import Handle
    from coproc.tfhe.client import ClientKey
    from tests.chaos.callers import Ledger
    from tests.chaos.subscribers import Record


def open_work(url: str, ledger: Ledger) -> int:
    """Count acknowledged outputs that are neither stored nor failed."""
    outputs = [handle for promise in ledger.acknowledged for handle in promise.expected]
    with psycopg.connect(url) as connection:
        row = connection.execute(
            "select count(*) from computations c where output = any(%s) and failure_rule is null"
            " and not exists (select from ciphertexts x where x.handle = c.output)",
            [outputs],
        ).fetchone()
    return int(row[0]) if row else 0


def last_sequence(url: str) -> int:
    """Return the number of the newest result."""
    with psycopg.connect(url) as connection:
        row = connection.execute("select coalesce(max(sequence), 0) from results").fetchone()
    return int(row[0]) if row else 0


def check_database(url: str, ledger: Ledger, key: ClientKey, objects: Path | None = None) -> list[str]:
    """Hold the database, and the folder with its objects, to what was acknowledged; returns what is wrong."""
    faults: list[str] = []
    with psycopg.connect(url) as connection:
        rows = connection.execute("select sequence, transaction_id, output from results order by sequence").fetchall()
        numbers = [sequence for sequence, _, _ in rows]
        if numbers != list(range(1, len(rows) + 1)):
            faults.append("sequence numbers have gaps or come twice")
        told = {(bytes(transaction), bytes(output)) for _, transaction, output in rows}
        if len(told) != len(rows):
            faults.append("a result was announced twice")
        states = connection.execute(
            "select state, count(*) from work_groups where state in (0, 1, 2) group by state order by state"
        ).fetchall()
        if states:
            faults.append(f"groups are left open, by state: {states}")
        for promise in ledger.acknowledged:
            for handle, expected in promise.expected.items():
                faults += _check_result(connection, objects, handle, expected, promise.digests.get(handle), key)
                if (promise.draft.transaction_id, bytes(handle)) not in told:
                    faults.append(f"{handle.hex()} was never announced")
        if objects is not None:
            faults += _check_objects(connection, objects)
    return faults


def _check_objects(connection: psycopg.Connection[tuple[object, ...]], objects: Path) -> list[str]:
    """Every object that a row refers to is there, and every one that is there is known."""
    kept = {
        str(name)
        for (name,) in connection.execute(
            "select object from ciphertexts union select object from key_chunks"
        ).fetchall()
        if name is not None
    }
    loose = {str(name) for (name,) in connection.execute("select name from loose_objects").fetchall()}
    paths = [path for path in objects.rglob("*") if path.is_file() and not path.name.startswith(".")]
    stored = {str(path.relative_to(objects)) for path in paths if path.name != MARK}
    faults = [f"object {name} is gone" for name in sorted(kept - stored)]
    faults += [f"object {name} is forgotten" for name in sorted(stored - kept - loose)]
    if not kept:
        faults.append("nothing is in the object store: the round shows nothing of it")
    return faults


def _check_result(
    connection: psycopg.Connection[tuple[object, ...]],
    objects: Path | None,
    handle: Handle,
    expected: int,
    digest: bytes | None,
    key: ClientKey,
) -> list[str]:
    row = connection.execute(
        "select c.failure_rule, c.failure_message, x.data, x.object, w.attempts from computations c"
        " join work_groups w using (group_id) left join ciphertexts x on x.handle = c.output where c.output = %s",
        [handle],
    ).fetchone()
    if row is None:
        return [f"{handle.hex()} was acknowledged and is gone"]
    rule, message, data, name, attempts = row
    if rule is not None:
        return [f"{handle.hex()} failed after {attempts} attempts: {rule}: {message}"]
    if not isinstance(data, bytes):
        return [f"{handle.hex()} was never computed"]
    if isinstance(name, str) and objects is not None:
        data = (objects / name).read_bytes()
    if int(key.decrypt(data)) != expected:
        return [f"{handle.hex()} is {key.decrypt(data)}, not {expected}"]
    if digest is not None and hashlib.sha256(data).digest() != digest:
        return [f"{handle.hex()} is not what was fetched before"]
    return []


TELLING: Final = frozenset({"call failed", "executor defect", "subscription failed", "actor crashed"})
"""Events in logs that no fault from outside may lead to: a defect of ours, whatever else holds."""


def check_logs(folder: Path) -> list[str]:
    """Look for defects in what the processes logged."""
    faults: list[str] = []
    for log in sorted(folder.glob("*.log")):
        for line in log.read_text("utf-8", "replace").splitlines():
            try:
                entry = json.loads(line)
            except ValueError:
                faults.append(f"{log.name}: not a line of the log: {line[:500]}")
                continue
            if entry.get("event") in TELLING or entry.get("level") == "critical":
                faults.append(f"{log.name}: {line[:3000]}")
    return faults


def check_reasons(url: str) -> list[str]:
    """Look for computations that failed by a defect of ours, or without saying why."""
    with psycopg.connect(url) as connection:
        rows = connection.execute(
            "select failure_rule, failure_message, count(*) from computations where failure_rule is not null"
            " and (failure_rule like '%DEFECT%' or failure_rule in ('INTERNAL', 'FAILED') or failure_message = '')"
            " group by 1, 2"
        ).fetchall()
    return [f"{count} computations failed with {rule}: {message}" for rule, message, count in rows]


def check_records(url: str, records: Sequence[Record]) -> list[str]:
    """Hold what subscribers saw to what was announced: everything, once, in order."""
    with psycopg.connect(url) as connection:
        rows = connection.execute("select sequence, transaction_id, output from results order by sequence").fetchall()
    announced = [(sequence, bytes(transaction), bytes(output)) for sequence, transaction, output in rows]
    faults: list[str] = []
    for record in records:
        seen = [(sequence, transaction, bytes(handle)) for sequence, transaction, handle, _ in record.seen]
        if seen == announced[: len(seen)] and (len(seen) == len(announced)):
            continue
        first = next((n for n, pair in enumerate(zip(seen, announced, strict=False)) if pair[0] != pair[1]), None)
        faults.append(f"{record.name} saw {len(seen)} of {len(announced)} results; the first difference is at {first}")
    return faults
