"""Who calls: API keys, and the tenant that the call at hand is made for.

Decides what a key looks like, how it is hidden, and how long an answer about it is believed. It must not know where
tenants are kept.
"""

from __future__ import annotations

import hashlib
import secrets
from contextvars import ContextVar
from typing import TYPE_CHECKING, Final

import trio

from coproc.api.metadata import TOKEN_KEY, Unauthenticated

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from coproc.store.tenants import Tenant

PREFIX: Final = "coproc_"
BELIEVED_SECONDS: Final = 5.0
"""How long a revoked key may go on."""
MOST_REMEMBERED: Final = 4096

caller: ContextVar[Tenant | None] = ContextVar("caller", default=None)
"""The tenant of the call at hand; None where callers are not told apart."""


def new_api_key() -> str:
    """Make an API key of 256 random bits, to be shown once."""
    return PREFIX + secrets.token_urlsafe(32)


def hash_api_key(key: str) -> bytes:
    """Hide a key: of random ones a single SHA-256 tells nothing."""
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()


class Authenticator:
    """Finds the tenant of a call by its API key; unknown keys are remembered too, in bounded memory."""

    def __init__(self, find: Callable[[bytes], Awaitable[Tenant | None]]) -> None:
        self._find = find
        self._known: dict[bytes, tuple[float, Tenant | None]] = {}

    async def authenticate(self, metadata: Mapping[str, str | bytes]) -> Tenant:
        """Return who calls.

        Raises:
            Unauthenticated: the call carries no key of an active tenant.
        """
        given = metadata.get(TOKEN_KEY, "")
        scheme, _, key = given.partition(" ") if isinstance(given, str) else ("", "", "")
        if scheme.lower() == "bearer" and key.startswith(PREFIX):
            digest, now = hash_api_key(key), trio.current_time()
            until, tenant = self._known.get(digest, (0.0, None))
            if until <= now:
                tenant = await self._find(digest)
                while len(self._known) >= MOST_REMEMBERED:
                    del self._known[next(iter(self._known))]
                self._known[digest] = now + BELIEVED_SECONDS, tenant
            if tenant is not None:
                return tenant
        raise Unauthenticated("this server wants the metadata 'authorization: Bearer <API key>' with a key it knows")
