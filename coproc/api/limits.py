"""How much one caller may ask for: every bound of the API in one place.

Decides numbers only. Whoever enforces a bound answers with its name.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

MIB: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of the gRPC API; the first four are told to clients."""

    max_message_bytes: int = 32 * MIB
    """One message, either way. The largest ciphertext (2048 bits) takes 16.8 MB."""
    max_key_bytes: int = 512 * MIB
    """One serialized server key."""
    max_handles_per_request: int = 256
    max_computations_per_request: int = 1024
    max_graph_depth: int = 512
    """Computations of one request that follow one another."""
    max_bootstraps_per_request: int = 1_000_000
    """Estimated cost of one request (``coproc.program.costs``): some 50 minutes of two cores."""
    max_open_groups: int = 100_000
    """Groups that wait or compute, over all callers: the queue in the database."""
    max_uploads: int = 32
    """Uploads of ciphertexts that are checked and stored at the same time."""
    max_operands: int = 256
    """Operands of one computation."""
    max_scalar_bytes: int = 256
    """One clear operand: 2048 bits."""
    max_list_bytes: int = 16 * MIB
    """One list of encrypted inputs, its proofs included (fhevm's limit)."""
    max_trivial_bytes: int = 64 * MIB
    """Ciphertexts made by one TrivialEncrypt."""
    max_transactions_per_stream: int = 256
    max_registrations: int = 2
    """Keys that are received at the same time: each takes its size in memory."""
    max_result_streams: int = 256
    max_connections: int = 1024
    max_calls: int = 512
    """Calls in flight, over all connections."""
    max_buffered_bytes: int = 512 * MIB
    """Request bytes in memory, over all calls."""
    max_call_seconds: float = 120.0
    """Longest deadline that a unary call may ask for; longer ones are cut."""
    max_stream_seconds: float = 24 * 3600.0
    """Longest deadline of a streaming call."""
    idle_seconds: float = 30.0
    """Longest silence of a client in the middle of a key."""
    keepalive_seconds: float = 60.0
    """How often a connection is asked for a sign of life; one that gives none for as long again is closed."""
