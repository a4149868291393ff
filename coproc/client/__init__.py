"""The Python client: asyncio, grpclib, strict, and steady across restarts of the server."""

from __future__ import annotations

from coproc.client.client import CoprocClient
from coproc.client.records import Failure, FetchedCiphertext, HandleState, Result, ServerInfo, State, UploadedInputs
from coproc.client.transaction import Transaction
from coproc.program.inputs import InputBinding

__all__ = [
    "CoprocClient",
    "Failure",
    "FetchedCiphertext",
    "HandleState",
    "InputBinding",
    "Result",
    "ServerInfo",
    "State",
    "Transaction",
    "UploadedInputs",
]
