"""The Python client: asyncio, grpclib, strict, and steady across restarts of the server."""

from __future__ import annotations

from coproc.client.client import CoprocClient
from coproc.client.records import Failure, FetchedCiphertext, HandleState, Result, ServerInfo, State
from coproc.client.transaction import Transaction

__all__ = [
    "CoprocClient",
    "Failure",
    "FetchedCiphertext",
    "HandleState",
    "Result",
    "ServerInfo",
    "State",
    "Transaction",
]
