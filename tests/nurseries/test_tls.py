"""The listener serves TLS, and its clients check who it is."""

from __future__ import annotations

import ssl
from functools import partial
from typing import TYPE_CHECKING

import grpc
import pytest
import trio

from coproc.client.connection import ConnectionLost
from coproc.config import Config
from coproc.errors import RecoverableError
from nurseries.bridge import open_client
from nurseries.certificates import follow_certificates
from nurseries.listener import ListenerSettings
from tests.api.google_classes import google_class, serialize
from tests.api.serving import serving
from tests.fixtures.certificates import make_certificate

if TYPE_CHECKING:
    from pathlib import Path


async def test_calls_over_tls_from_both_kinds_of_client(tmp_path: Path) -> None:
    certificate, key = make_certificate(tmp_path)
    server_side = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server_side.load_cert_chain(certificate, key)
    server_side.set_alpn_protocols(["h2"])
    trusting = ssl.create_default_context(cafile=str(certificate))
    trusting.set_alpn_protocols(["h2"])
    distrustful = ssl.create_default_context()
    distrustful.set_alpn_protocols(["h2"])

    def ask_with_core(port: int) -> str:
        credentials = grpc.ssl_channel_credentials(certificate.read_bytes())
        with grpc.secure_channel(f"127.0.0.1:{port}", credentials) as channel:
            call = channel.unary_unary(
                "/coproc.v1.CoprocessorService/GetServerInfo",
                request_serializer=serialize,
                response_deserializer=google_class("GetServerInfoResponse").FromString,
            )
            return str(getattr(call(google_class("GetServerInfoRequest")(), timeout=10), "software_version"))  # noqa: B009

    async with serving(listener=ListenerSettings(ssl_context=server_side)) as server:
        async with open_client("127.0.0.1", server.port, ssl_context=trusting) as client:
            assert (await client.server_info()).software_version == "1.2.3"
        assert await trio.to_thread.run_sync(ask_with_core, server.port) == "1.2.3"
        async with open_client("127.0.0.1", server.port, ssl_context=distrustful, attempts=1) as client:
            with pytest.raises(ConnectionLost, match="certificate verify failed"):
                await client.server_info()
        # Somebody who does not speak TLS at all costs nobody anything.
        stream = await trio.open_tcp_stream("127.0.0.1", server.port)
        await stream.send_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        with trio.move_on_after(2):
            await stream.receive_some()
        await stream.aclose()
        async with open_client("127.0.0.1", server.port, ssl_context=trusting) as client:
            assert (await client.server_info()).plan_version == 7


async def test_renewed_certificates_are_served_without_a_restart(tmp_path: Path) -> None:
    certificate, key = make_certificate(tmp_path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    context.set_alpn_protocols(["h2"])
    async with (
        serving(listener=ListenerSettings(ssl_context=context)) as server,
        trio.open_nursery() as nursery,
    ):
        follow = partial(follow_certificates, certificate, key, lambda: [context], look_seconds=0.05)
        await nursery.start(follow)
        key.write_bytes(b"half a renewal")
        await trio.sleep(0.3)

        async def ask() -> None:
            trusting = ssl.create_default_context(cafile=str(certificate))
            trusting.set_alpn_protocols(["h2"])
            async with open_client("127.0.0.1", server.port, ssl_context=trusting, attempts=1) as client:
                await client.server_info()

        await ask()
        make_certificate(tmp_path)
        with trio.fail_after(20):
            while True:
                try:
                    await ask()
                except ConnectionLost:  # only the new one is trusted by now, and the old one still served
                    await trio.sleep(0.05)
                else:
                    break
        nursery.cancel_scope.cancel()


async def test_mutual_tls_wants_a_certificate_of_the_client(tmp_path: Path) -> None:
    (tmp_path / "client").mkdir()
    certificate, key = make_certificate(tmp_path)
    clients, clients_key = make_certificate(tmp_path / "client")
    config = Config(tls_certificate=certificate, tls_key=key, tls_client_ca=clients)
    stranger = ssl.create_default_context(cafile=str(certificate))
    stranger.set_alpn_protocols(["h2"])
    known = ssl.create_default_context(cafile=str(certificate))
    known.set_alpn_protocols(["h2"])
    known.load_cert_chain(clients, clients_key)
    async with serving(listener=ListenerSettings(ssl_context=config.server_tls("h2"))) as server:
        async with open_client("127.0.0.1", server.port, ssl_context=known, attempts=1) as client:
            assert (await client.server_info()).plan_version == 7
        async with open_client("127.0.0.1", server.port, ssl_context=stranger, attempts=1, timeout=5) as client:
            with pytest.raises(RecoverableError):
                await client.server_info()
