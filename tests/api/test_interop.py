"""Clients of other makes are served: google's C core, with google's own message classes."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import grpc
import pytest
import trio
from google.rpc import error_details_pb2, status_pb2

from coproc.program.types import FheType, new_handle
from tests.api.google_classes import google_class, serialize
from tests.api.serving import serving, toy_key, toy_server_key

if TYPE_CHECKING:
    from collections.abc import Iterator

SERVICE = "/coproc.v1.CoprocessorService/"


class CoreClient:
    """The generic client of grpcio."""

    def __init__(self, port: int) -> None:
        options = [("grpc.max_receive_message_length", 64 << 20)]
        self.channel = grpc.insecure_channel(f"127.0.0.1:{port}", options=options)

    def callable(self, name: str, kind: str) -> Any:  # noqa: ANN401 - grpcio has no types
        return getattr(self.channel, kind)(
            SERVICE + name,
            request_serializer=serialize,
            response_deserializer=google_class(f"{name}Response").FromString,
        )

    def unary(self, name: str, **fields: object) -> Any:  # noqa: ANN401
        return self.callable(name, "unary_unary")(google_class(f"{name}Request")(**fields), timeout=10)


def details_of(error: Any) -> dict[str, Any]:  # noqa: ANN401 - grpcio's errors are calls as well
    """Read google's standard details out of an error."""
    kinds = {
        kind.DESCRIPTOR.full_name: kind for kind in vars(error_details_pb2).values() if hasattr(kind, "FromString")
    }
    (packed,) = [value for key, value in error.trailing_metadata() if key == "grpc-status-details-bin"]
    details = status_pb2.Status.FromString(packed).details
    return {
        detail.type_url.rpartition(".")[2]: kinds[detail.type_url.rpartition("/")[2]].FromString(detail.value)
        for detail in details
    }


def converse(port: int) -> None:
    """Make every call, as a program in another language would."""
    client = CoreClient(port)
    with client.channel:
        info = client.unary("GetServerInfo", api_version="1.0")
        assert list(info.api_versions) == ["1.0"]

        data = toy_server_key()
        key_id = hashlib.sha256(data).digest()
        request = google_class("RegisterKeyRequest")

        def parts() -> Iterator[object]:
            yield request(header={"size": len(data), "sha256": key_id})
            for start in range(0, len(data), 100_000):
                yield request(chunk=data[start : start + 100_000])

        for is_new in (True, False):
            response = client.callable("RegisterKey", "stream_unary")(parts(), timeout=20)
            assert (response.key_id, response.is_new, response.parameters) == (key_id, is_new, "insecure")

        a, b, total, flag = (new_handle(kind) for kind in (FheType.UINT8,) * 3 + (FheType.BOOL,))
        ciphertext = toy_key().encrypt(5, 8, signed=False, seeded=True)
        items = [{"handle": a, "ciphertext": ciphertext}]
        assert client.unary("UploadCiphertexts", key_id=key_id, items=items).stored == 1
        items = [{"handle": b, "value": b"\x03"}]
        assert client.unary("TrivialEncrypt", key_id=key_id, items=items).stored == 1

        computations = [
            {"operation": 1, "output_handle": total, "operands": [{"handle": a}, {"handle": b}], "is_allowed": True},
            {"operation": 15, "output_handle": flag, "operands": [{"handle": total}, {"scalar": b"\x07"}]},
        ]
        submit = {"key_id": key_id, "transaction_id": b"core", "computations": computations}
        assert client.unary("SubmitComputations", **submit).accepted == 2
        states = client.unary("GetStatus", transaction_id=b"core").items
        assert [(item.handle, item.state, item.is_allowed) for item in states] == [(total, 3, True), (flag, 3, False)]

        fetch = client.callable("FetchCiphertexts", "unary_stream")
        fetched = list(fetch(google_class("FetchCiphertextsRequest")(handles=[a, total, b, a]), timeout=10))
        assert [(item.handle, item.state) for item in fetched] == [(a, 5), (total, 3), (b, 5), (a, 5)]
        assert fetched[0].ciphertext == fetched[3].ciphertext == ciphertext


async def test_every_call_from_the_c_core() -> None:
    async with serving() as server:
        await trio.to_thread.run_sync(converse, server.port)


def refusal(client: CoreClient, name: str, **fields: object) -> Any:  # noqa: ANN401 - grpcio has no types
    """Make a call that must be refused; returns the error."""
    with pytest.raises(grpc.RpcError) as caught:
        client.unary(name, **fields)
    return caught.value


def refuse(port: int) -> None:
    """Look at refusals as the C core shows them."""
    client = CoreClient(port)
    with client.channel:
        error = refusal(client, "GetStatus", handles=[bytes(32), b"short"])
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
        (violation,) = details_of(error)["BadRequest"].field_violations
        assert violation.field == "handles[1]"
        assert details_of(error)["ErrorInfo"].reason == "INVALID_INPUT"

        error = refusal(client, "GetServerInfo", api_version="2.0")
        assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert details_of(error)["ErrorInfo"].metadata["supported_versions"] == "1.0"
        assert details_of(error)["PreconditionFailure"].violations[0].type == "UNSUPPORTED_API_VERSION"

        item = {"handle": bytes(32), "ciphertext": bytes(40 << 20)}
        error = refusal(client, "UploadCiphertexts", key_id=bytes(32), items=[item])
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "over the limit" in error.details()


async def test_refusals_as_the_c_core_shows_them() -> None:
    async with serving() as server:
        await trio.to_thread.run_sync(refuse, server.port)


async def test_a_large_key_is_streamed_with_little_memory_in_flight() -> None:
    """96 MiB of a key that is none: everything is received and hashed, then refused for what it is."""
    size = 96 << 20

    def send(port: int) -> None:
        client = CoreClient(port)
        request = google_class("RegisterKeyRequest")
        chunk = bytes(1 << 20)
        digest = hashlib.sha256()
        for _ in range(size >> 20):
            digest.update(chunk)

        def parts() -> Iterator[object]:
            yield request(header={"size": size, "sha256": digest.digest()})
            for _ in range(size >> 20):
                yield request(chunk=chunk)

        with client.channel, pytest.raises(grpc.RpcError) as caught:
            client.callable("RegisterKey", "stream_unary")(parts(), timeout=60)
        # It got as far as the reading of the key: size and digest were right.
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        (violation,) = details_of(caught.value)["BadRequest"].field_violations
        assert violation.field not in {"header.size", "header.sha256"}

    async with serving() as server:
        await trio.to_thread.run_sync(send, server.port)
