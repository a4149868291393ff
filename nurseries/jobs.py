"""From claimed groups to what is stored of them: one job's way through memory, store, planner and executor.

Decides what is read from where and how a job is told of in logs, metrics and traces; must not know leases, nor when a
job runs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import structlog
import trio

from coproc.errors import RecoverableError
from coproc.metrics import JOB_BOOTSTRAPS
from coproc.resilience import CircuitOpen
from coproc.scheduling.batch import external_inputs, finish_batch, prepare_batch, read_values
from coproc.scheduling.cache import ValueCache
from coproc.scheduling.casting import castings_of, prepare_castings
from coproc.store.faults import DatabaseUnavailable
from coproc.store.objects import ObjectStoreUnavailable, read_what_is_left
from coproc.tfhe.compressed_list import is_compressed_list
from coproc.tracing import log_context, span, traceparent
from nurseries.executor import Job
from nurseries.mailbox import ask
from nurseries.packer import unpack
from nurseries.threads import run_near

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import TypeAlias

    from coproc.circuits.strategy import Strategy
    from coproc.errors import IrrecoverableError
    from coproc.keyring import KeyCache, KeyFacts
    from coproc.program.lowering import LoweringSettings
    from coproc.program.planning import Lanes
    from coproc.program.types import Handle
    from coproc.scheduling.cache import Value
    from coproc.store.base import GroupOutcome, Store, WorkGroup
    from nurseries.executor import JobCall
    from nurseries.mailbox import Mailbox

    Ways: TypeAlias = Callable[[], tuple[Strategy | Lanes, LoweringSettings]]

CACHE_BYTES: Final = 256 << 20
"""Ciphertext blocks kept in memory: 500 values of 64 bits under real parameters."""
READ_AT_ONCE: Final = 16
"""Ciphertexts read by one query; the largest take 16.8 MB each."""

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


class NotTheirFault(RecoverableError):
    """Something that a job needs is away; its groups are not charged for it."""


AWAY: Final = (NotTheirFault, DatabaseUnavailable, ObjectStoreUnavailable, CircuitOpen)
"""The same of an executor that cannot read a key."""


@dataclass(frozen=True, slots=True, eq=False)
class ComputedJob:
    """What a job came to."""

    groups: int
    outcomes: tuple[GroupOutcome, ...]
    bootstraps: int
    levels: int
    prepare_seconds: float
    compute_seconds: float
    traceparent: str | None
    """Its span."""

    def log(self) -> None:
        """Write down what it was."""
        log.info(
            "job computed",
            groups=self.groups,
            bootstraps=self.bootstraps,
            levels=self.levels,
            prepare_seconds=round(self.prepare_seconds, 4),
            compute_seconds=round(self.compute_seconds, 4),
            **log_context(self.traceparent),
        )


class Jobs:
    """Computes jobs, and keeps their values in memory for the next ones."""

    def __init__(
        self,
        store: Store,
        keys: KeyCache,
        executor: Mailbox[JobCall],
        *,
        worker: str,
        cache_bytes: int = CACHE_BYTES,
    ) -> None:
        self._store = store
        self._keys = keys
        self._executor = executor
        self.worker = worker
        self.cache = ValueCache(cache_bytes)

    async def compute(self, groups: Sequence[WorkGroup], ways: Ways, ciphertexts: int) -> ComputedJob:
        """Compute groups of one key, in a span that is part of one caller's trace and linked to those of the others.

        Args:
            groups: what is computed.
            ways: says, once the inputs are there, how circuits are chosen and how operations become circuits.
            ciphertexts: how many the job deals with, roughly.

        Raises:
            CoprocError: of those ``AWAY``, the groups are not the reason.
        """
        asked = list(dict.fromkeys(work.traceparent for work in groups if work.traceparent is not None))
        attributes: dict[str, str | int | float] = {
            "coproc.groups": len(groups),
            "coproc.operations": sum(len(work.computations) for work in groups),
            "coproc.key_id": groups[0].key_id.hex(),
            "coproc.worker": self.worker,
        }
        parent = asked[0] if asked else None
        with span("job", kind="CONSUMER", parent=parent, links=asked[1:], attributes=attributes):
            return await self._compute(groups, ways, ciphertexts)

    async def _compute(self, groups: Sequence[WorkGroup], ways: Ways, ciphertexts: int) -> ComputedJob:
        """Load, plan, compute and write one job."""
        key_id = groups[0].key_id
        began = trio.current_time()
        try:
            facts = await self._keys.facts(key_id)
            values, bad_inputs = await self._load(external_inputs(groups), facts, key_id)
        except RecoverableError as error:
            raise NotTheirFault(f"inputs are out of reach: {error.message}") from error
        cast, bad_lists = await self._cast(groups, facts, key_id)
        values |= cast
        bad_inputs |= bad_lists
        batch = await run_near(prepare_batch, groups, values, bad_inputs, facts, *ways(), ciphertexts=ciphertexts)
        planned = trio.current_time()
        circuit = batch.plan.circuit
        JOB_BOOTSTRAPS.observe(circuit.bootstraps)
        outputs = await ask(self._executor, Job(key_id, circuit, batch.inputs))
        computed = trio.current_time()
        finished = await run_near(finish_batch, batch, outputs, facts, key_id, ciphertexts=len(outputs))
        # Nothing is awaited from here on: a cancelled job has either no outputs, or all of them stored.
        self.cache.add(finished.values)
        return ComputedJob(
            groups=len(groups),
            outcomes=finished.outcomes,
            bootstraps=circuit.bootstraps,
            levels=circuit.depth,
            prepare_seconds=planned - began,
            compute_seconds=computed - planned,
            traceparent=traceparent(),
        )

    async def _cast(
        self, groups: Sequence[WorkGroup], facts: KeyFacts, key_id: bytes
    ) -> tuple[dict[Handle, Value], dict[Handle, IrrecoverableError]]:
        """Take the values that groups need out of uploaded lists, on the executor."""
        castings = castings_of(groups)
        if not castings:
            return {}, {}
        values = self.cache.find([item.output for item in castings], key_id, counted=False)
        left = tuple(item for item in castings if item.output not in values)
        handles = tuple(dict.fromkeys(handle for item in left for handle in item.inputs))
        try:
            stored, lost = await read_what_is_left(self._store, handles)
        except RecoverableError as error:
            raise NotTheirFault(f"uploaded lists are out of reach: {error.message}") from error
        absent = [handle for handle in handles if handle not in stored and handle not in lost]
        if absent:
            raise RecoverableError("an uploaded list is not stored", handle=absent[0].hex())
        unread = {item.output: lost[handle] for item in left for handle in item.inputs if handle in lost}
        left = tuple(item for item in left if item.output not in unread)
        jobs, errors = await trio.to_thread.run_sync(prepare_castings, left, stored, facts)
        for job in jobs:
            outputs = await ask(self._executor, Job(key_id, job.circuit, job.inputs, job.under_compact_key))
            values |= job.values(key_id, outputs)
        return values, {**errors, **unread}

    async def _load(
        self, handles: Sequence[Handle], facts: KeyFacts, key_id: bytes
    ) -> tuple[dict[Handle, Value], dict[Handle, IrrecoverableError]]:
        """Read values from memory, else from the store."""
        values = self.cache.find(handles, key_id)
        bad_inputs: dict[Handle, IrrecoverableError] = {}
        missing = [handle for handle in handles if handle not in values]
        for first in range(0, len(missing), READ_AT_ONCE):
            wanted = missing[first : first + READ_AT_ONCE]
            stored, lost = await read_what_is_left(self._store, wanted)
            bad_inputs |= lost
            absent = [handle for handle in wanted if handle not in stored and handle not in lost]
            if absent:
                raise RecoverableError("an input of claimed work is not stored", handle=absent[0].hex())
            packed = {handle: item for handle, item in stored.items() if is_compressed_list(item.data)}
            plain = tuple(item for handle, item in stored.items() if handle not in packed)
            read, errors = await trio.to_thread.run_sync(read_values, plain, facts, key_id)
            if packed:
                taken, bad = await unpack(self._executor, packed.values(), facts, key_id)
                read, errors = read | taken, errors | bad
            values |= read
            bad_inputs |= errors
            self.cache.add(read)
        return values, bad_inputs
