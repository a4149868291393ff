"""Keys made by real clients, small enough to be made in every run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
import trio

from tests.clients.node import VERSIONS, NodeClient, Version, open_node_client

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator


@dataclass(frozen=True, slots=True)
class NodeKeys:
    """What one node-tfhe made: ``safe_serialize`` bytes."""

    client_key: bytes
    compressed_server_key: bytes
    compact_public_key: bytes


async def _make_keys() -> dict[Version, NodeKeys]:
    made: dict[Version, NodeKeys] = {}
    for version in VERSIONS:
        async with open_node_client(version) as node:
            client_key = await node.client_key(toy=True)
            made[version] = NodeKeys(
                client_key,
                await node.compressed_server_key(client_key),
                await node.compact_public_key(client_key),
            )
    return made


@pytest.fixture(scope="session")
def toy_node_keys() -> dict[Version, NodeKeys]:
    """Toy keys by release, each set from its own client key."""
    return trio.run(_make_keys)


@pytest.fixture(params=VERSIONS)
async def node(request: pytest.FixtureRequest) -> AsyncGenerator[NodeClient]:
    """Run each test with a client of every release."""
    async with open_node_client(request.param) as client:
        yield client
