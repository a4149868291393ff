"""The compute API as plain async functions: one method an RPC.

Decides what every call does with the store and the keys. Runs under Trio and knows nothing of gRPC: requests are
already decoded, and errors are ``coproc.errors``, which the transport turns into statuses.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

import trio

from coproc.api import convert, inputs, validation
from coproc.api.caller import caller
from coproc.api.ciphertexts import check_ciphertexts, is_waiting_to_thaw, trivial_bytes, trivial_ciphertexts
from coproc.api.generated.coproc.v1 import (
    CancelTransactionResponse,
    GetServerInfoResponse,
    GetStatusResponse,
    SubmitComputationsResponse,
    TrivialEncryptResponse,
    UploadCiphertextsResponse,
    UploadInputsResponse,
)
from coproc.api.generated.coproc.v1 import Limits as WireLimits
from coproc.api.headroom import Headroom
from coproc.api.limits import Limits
from coproc.api.metadata import API_VERSIONS, check_version
from coproc.api.registration import KeyRegistrar
from coproc.errors import InvalidInput, NotFound, Overloaded
from coproc.program.costs import cost_of, is_quick
from coproc.store.base import ComputationStatus, State, StoredCiphertext, Topic
from coproc.store.objects import read_what_is_left
from coproc.store.rules import failure_of
from coproc.tracing import span, traceparent

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Mapping, Sequence

    from coproc.api.generated.coproc.v1 import (
        CancelTransactionRequest,
        FetchCiphertextsRequest,
        FetchCiphertextsResponse,
        GetServerInfoRequest,
        GetStatusRequest,
        RegisterKeyRequest,
        RegisterKeyResponse,
        StreamResultsRequest,
        StreamResultsResponse,
        SubmitComputationsRequest,
        TrivialEncryptRequest,
        UploadCiphertextsRequest,
        UploadInputsRequest,
    )
    from coproc.keyring import KeyCache
    from coproc.program.types import Handle
    from coproc.store.base import Submission
    from coproc.store.forms import ServedStore
    from coproc.store.tenants import Tenant

INSECURE: Final = "insecure"
"""Name of every parameter set without a published security level (``KeyRecord.parameters``)."""
KEYS_KNOWN: Final = 4096
"""Keys that are not looked up for every call."""
FETCH_AT_ONCE: Final = 8
"""Ciphertexts read together: the largest take 16.8 MB each."""
RESULTS_AT_ONCE: Final = 256


@dataclass(frozen=True, slots=True)
class ServiceSettings:
    """What the service is told of the process it lives in."""

    software_version: str
    tfhe_versions: tuple[str, ...]
    plan_version: int
    executors: tuple[str, ...]
    results_port: int = 0
    """0: no websocket."""
    allow_insecure_parameters: bool = False
    poll_seconds: float = 2.0
    """How often a subscription looks for results without having been woken."""
    thaw_seconds: float = 60.0
    """How long a caller may have to wait for a compressed ciphertext to be brought back."""
    input_proofs: inputs.ProofPolicy = inputs.ProofPolicy.VERIFY
    limits: Limits = field(default_factory=Limits)
    chains: frozenset[int] = frozenset()
    """Chains that are followed: the handles that their contracts compute are theirs to define."""


class CoprocessorService:
    """The handlers of ``coproc.v1.CoprocessorService``."""

    def __init__(self, store: ServedStore, keys: KeyCache, settings: ServiceSettings) -> None:
        self.settings = settings
        self._store = store
        self._keys = keys
        self._limits = settings.limits
        self._registrar = KeyRegistrar(
            store, keys, settings.limits, allow_insecure_parameters=settings.allow_insecure_parameters
        )
        self._headroom = Headroom(store, settings.limits.max_open_groups)
        self._usable_keys = set[bytes]()
        """Keys that were found, with parameters that are allowed."""
        self._result_streams = self._uploads = 0

    async def get_server_info(self, request: GetServerInfoRequest) -> GetServerInfoResponse:
        """Say what this server is. Raises UnsupportedVersion for a client that we do not understand."""
        if request.api_version:
            check_version(request.api_version, "api_version")
        await trio.lowlevel.checkpoint()
        settings, limits = self.settings, self._limits
        return GetServerInfoResponse(
            api_versions=list(API_VERSIONS),
            software_version=settings.software_version,
            tfhe_versions=list(settings.tfhe_versions),
            plan_version=settings.plan_version,
            executors=list(settings.executors),
            limits=WireLimits(
                max_message_bytes=limits.max_message_bytes,
                max_key_bytes=limits.max_key_bytes,
                max_handles_per_request=limits.max_handles_per_request,
                max_computations_per_request=limits.max_computations_per_request,
            ),
            results_port=settings.results_port,
            input_proofs=settings.input_proofs.value,
        )

    async def register_key(self, messages: AsyncIterator[RegisterKeyRequest]) -> RegisterKeyResponse:
        """Take in a server key; see ``KeyRegistrar.register``."""
        return await self._registrar.register(messages)

    async def upload_ciphertexts(self, request: UploadCiphertextsRequest) -> UploadCiphertextsResponse:
        """Check and store encrypted inputs, all or none of them."""
        key_id = validation.check_digest(request.key_id, "key_id")
        uploads = validation.check_uploads(request, self._limits)
        validation.check_foreign([upload.handle for upload in uploads], self.settings.chains, "items")
        with self._one_upload():
            await self._require_key(key_id)
            facts = await self._keys.facts(key_id)
            await trio.to_thread.run_sync(check_ciphertexts, uploads, facts)
            items = [StoredCiphertext(upload.handle, key_id, upload.ciphertext) for upload in uploads]
            return UploadCiphertextsResponse(stored=await self._store.put_ciphertexts(items))

    @contextmanager
    def _one_upload(self) -> Generator[None]:
        """Count an upload that is under way. Raises Overloaded if there are too many."""
        if self._uploads >= self._limits.max_uploads:
            raise Overloaded("too many uploads are under way; try again", limit="max_uploads")
        self._uploads += 1
        try:
            yield
        finally:
            self._uploads -= 1

    async def upload_inputs(self, request: UploadInputsRequest) -> UploadInputsResponse:
        """Take in a list of encrypted inputs; when this returns its values are as good as computed."""
        upload = inputs.check_request(request, self._limits, self.settings.input_proofs)
        with self._one_upload():
            await self._require_key(upload.key_id)
            facts = await self._keys.facts(upload.key_id)
            accepted = await trio.to_thread.run_sync(inputs.accept, upload, facts)
            await self._headroom.take(len(accepted.submission.computations))
            # In this order: a list without computations does nothing, and comes again with the same call.
            await self._store.put_ciphertexts([accepted.stored])
            tenant = caller.get()
            name = None if tenant is None else tenant.name
            new = await self._write(replace(accepted.submission, tenant=name))
        return UploadInputsResponse(
            handles=[*accepted.handles], transaction_id=accepted.submission.transaction_id, accepted=new
        )

    async def trivial_encrypt(self, request: TrivialEncryptRequest) -> TrivialEncryptResponse:
        """Make and store noiseless ciphertexts of public values, all or none of them."""
        key_id = validation.check_digest(request.key_id, "key_id")
        values = validation.check_trivial_values(request, self._limits)
        validation.check_foreign([value.handle for value in values], self.settings.chains, "items")
        await self._require_key(key_id)
        facts = await self._keys.facts(key_id)
        size = trivial_bytes(values, facts)
        if size > self._limits.max_trivial_bytes:
            raise InvalidInput(
                "items", f"make {size} bytes, at most {self._limits.max_trivial_bytes} are allowed at once"
            )
        made = await trio.to_thread.run_sync(trivial_ciphertexts, values, facts)
        items = [
            StoredCiphertext(value.handle, key_id, data, clear=value.value)
            for value, data in zip(values, made, strict=True)
        ]
        return TrivialEncryptResponse(stored=await self._store.put_ciphertexts(items))

    async def submit_computations(self, request: SubmitComputationsRequest) -> SubmitComputationsResponse:
        """Check a graph and write it down; when this returns it is not lost any more."""
        submission = validation.check_submission(request, self._limits)
        outputs = [computation.output for computation in submission.computations]
        validation.check_foreign(outputs, self.settings.chains, "computations")
        tenant = caller.get()
        await self._check_cost(submission, tenant)
        await self._require_key(submission.key_id)
        if tenant is not None:
            submission = replace(submission, tenant=tenant.name)
        return SubmitComputationsResponse(accepted=await self._write(submission))

    async def _write(self, submission: Submission) -> int:
        """Write work down with the span that asks for it."""
        with span("store submit", attributes={"coproc.computations": len(submission.computations)}):
            return await self._store.submit(replace(submission, traceparent=traceparent()))

    async def _check_cost(self, submission: Submission, tenant: Tenant | None) -> None:
        """Refuse what is too deep or too dear before it is written down."""
        # The first estimate of the widest divisions takes seconds.
        at_once = is_quick(submission.computations)
        cost = (
            cost_of(submission.computations)
            if at_once
            else await trio.to_thread.run_sync(cost_of, submission.computations)
        )
        limits = self._limits
        if cost.depth > limits.max_graph_depth:
            raise InvalidInput(
                "computations",
                f"follow one another {cost.depth} deep, at most {limits.max_graph_depth} are allowed",
                limit="max_graph_depth",
            )
        if cost.bootstraps > limits.max_bootstraps_per_request:
            raise InvalidInput(
                "computations",
                f"take up to {cost.bootstraps} bootstraps, at most {limits.max_bootstraps_per_request} are allowed"
                " in one request",
                limit="max_bootstraps_per_request",
            )
        if tenant is not None:
            await self._check_quota(tenant, cost.bootstraps)
        await self._headroom.take(len(submission.computations))

    async def _check_quota(self, tenant: Tenant, bootstraps: int) -> None:
        most, each = tenant.max_open_groups, tenant.max_bootstraps_per_request
        if each is not None and bootstraps > each:
            raise InvalidInput(
                "computations",
                f"take up to {bootstraps} bootstraps, your quota is {each} in one request",
                quota="max_bootstraps_per_request",
            )
        if most is not None and await self._store.count_open(most + 1, tenant.name) >= most:
            raise Overloaded(
                f"your quota of {most} open groups is used up; try again later",
                quota="max_open_groups",
                retry_after=5.0,
            )

    async def cancel_transaction(self, request: CancelTransactionRequest) -> CancelTransactionResponse:
        """Cancel what is not done of a transaction. Raises NotFound."""
        transaction_id = validation.check_transaction_id(request.transaction_id)
        tenant = caller.get()
        name = None if tenant is None else tenant.name
        return CancelTransactionResponse(cancelled=await self._store.cancel(transaction_id, name))

    async def get_status(self, request: GetStatusRequest) -> GetStatusResponse:
        """Say how handles, or all computations of a transaction, are doing."""
        asked = validation.check_status_request(request, self._limits)
        if isinstance(asked, tuple):
            found = await self._store.get_status(asked)
            return GetStatusResponse(items=[convert.handle_status(handle, found.get(handle)) for handle in asked])
        statuses = await self._store.get_transaction(asked)
        if not statuses:
            raise NotFound(f"transaction {asked.hex()} is not known", transaction_id=asked.hex())
        return GetStatusResponse(items=[convert.handle_status(status.handle, status) for status in statuses])

    async def fetch_ciphertexts(
        self,
        request: FetchCiphertextsRequest,
        send: Callable[[FetchCiphertextsResponse], Awaitable[None]],
    ) -> None:
        """Send one response a handle, in the order asked."""
        handles = validation.check_handles(request.handles, self._limits)
        for start in range(0, len(handles), FETCH_AT_ONCE):
            batch = handles[start : start + FETCH_AT_ONCE]
            stored: Mapping[Handle, StoredCiphertext]
            stored, lost = await read_what_is_left(self._store, batch)
            if not request.accept_compressed:
                stored = await self._plain(batch, stored)
            missing = [handle for handle in batch if handle not in stored or not stored[handle].is_allowed]
            statuses = {**await self._store.get_status(missing)}
            for handle, error in lost.items():
                statuses[handle] = ComputationStatus(handle, State.FAILED, is_allowed=True, failure=failure_of(error))
            for handle in batch:
                await send(convert.fetched(handle, stored.get(handle), statuses.get(handle)))

    async def _plain(
        self, handles: Sequence[Handle], stored: Mapping[Handle, StoredCiphertext]
    ) -> Mapping[Handle, StoredCiphertext]:
        """Have what is stored compressed brought back by a worker. Raises Overloaded if none does in time."""
        packed = [handle for handle in handles if handle in stored and is_waiting_to_thaw(stored[handle])]
        if not packed:
            return stored
        with trio.move_on_after(self.settings.thaw_seconds):
            while packed:
                async with self._store.wakeups() as wakeups:
                    connected = True
                    while packed and connected:
                        await self._store.ask_plain(packed)
                        connected = await self._await_results(wakeups)
                        stored = {**stored, **await self._store.get_ciphertexts(packed)}
                        packed = [handle for handle in packed if is_waiting_to_thaw(stored[handle])]
            return stored
        raise Overloaded(
            "a compressed ciphertext was not brought back in time; try again, or accept it compressed",
            handle=packed[0].hex(),
        )

    async def stream_results(
        self,
        request: StreamResultsRequest,
        send: Callable[[StreamResultsResponse], Awaitable[None]],
    ) -> None:
        """Send results as they come; ends only by cancellation.

        Raises:
            InvalidInput: also for a sequence number from the future, which is one of another database.
            Overloaded: there are too many subscriptions.
        """
        transactions = validation.check_stream_request(request, self._limits)
        newest = await self._store.last_sequence()
        if request.after_sequence > newest:
            raise InvalidInput("after_sequence", f"is {request.after_sequence}, but the newest result here is {newest}")
        if self._result_streams >= self._limits.max_result_streams:
            raise Overloaded("there are too many subscriptions; try again, or poll", limit="max_result_streams")
        self._result_streams += 1
        try:
            await self._follow(request.after_sequence, transactions or None, send)
        finally:
            self._result_streams -= 1

    async def _follow(
        self,
        sequence: int,
        transactions: tuple[bytes, ...] | None,
        send: Callable[[StreamResultsResponse], Awaitable[None]],
    ) -> None:
        while True:
            async with self._store.wakeups() as wakeups:
                connected = True
                while connected:
                    events = await self._store.results_after(sequence, RESULTS_AT_ONCE, transactions)
                    for event in events:
                        await send(convert.result(event))
                        sequence = event.sequence
                    if not events:
                        connected = await self._await_results(wakeups)
            await trio.sleep(self.settings.poll_seconds)

    async def _await_results(self, wakeups: trio.abc.ReceiveChannel[Topic]) -> bool:
        """Wait for a wake-up or for the time to poll; returns whether wake-ups still come."""
        with trio.move_on_after(self.settings.poll_seconds):
            try:
                while await wakeups.receive() is not Topic.RESULTS:
                    pass
            except trio.EndOfChannel:
                return False
        return True

    async def _require_key(self, key_id: bytes) -> None:
        """Refuse a key that is not registered or too weak; the store makes sure anew that it is there."""
        if key_id in self._usable_keys:
            return
        record = await self._store.get_key(key_id)
        if record is None:
            raise NotFound(f"key {key_id.hex()} is not registered", key_id=key_id.hex())
        if record.parameters == INSECURE and not self.settings.allow_insecure_parameters:
            raise InvalidInput("key_id", "names a key with insecure parameters, which this server does not allow")
        if len(self._usable_keys) >= KEYS_KNOWN:
            self._usable_keys.clear()
        self._usable_keys.add(key_id)
