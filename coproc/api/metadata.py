"""What a call's metadata says: the API version that the client speaks, and who it is.

Decides compatibility of versions and the check of tokens, as pure functions of the metadata.
"""

from __future__ import annotations

import hmac
import re
from typing import TYPE_CHECKING, Final

from coproc.errors import InvalidInput, IrrecoverableError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

API_VERSIONS: Final = ("1.0",)
"""Versions that this code speaks, newest first, one for each major number. A server understands older minors too."""
VERSION_KEY: Final = "coproc-api-version"
TOKEN_KEY: Final = "authorization"  # noqa: S105 - the name of a metadata key

_VERSION = re.compile(r"(0|[1-9][0-9]{0,3})\.(0|[1-9][0-9]{0,3})")


class UnsupportedVersion(IrrecoverableError):
    """The client speaks a version of the API that this server does not."""

    rule = "UNSUPPORTED_API_VERSION"

    def __init__(self, version: str, supported: tuple[str, ...] = API_VERSIONS) -> None:
        versions = ", ".join(supported)
        super().__init__(
            f"API version {version} is not supported; this server supports {versions}",
            api_version=version,
            supported_versions=versions,
        )
        self.supported = supported


class Unauthenticated(IrrecoverableError):
    """The call carries no token, or one that is not known."""

    rule = "UNAUTHENTICATED"


def check_version(version: str, field: str, supported: tuple[str, ...] = API_VERSIONS) -> None:
    """Check a client's API version ("major.minor"): the major must be known, its minor not newer than ours.

    Raises:
        InvalidInput: it is no version.
        UnsupportedVersion: we do not speak it.
    """
    match = _VERSION.fullmatch(version)
    if match is None:
        raise InvalidInput(field, 'must be "major.minor", for example "1.0"')
    major, minor = int(match[1]), int(match[2])
    for known in supported:
        known_major, known_minor = map(int, known.split("."))
        if major == known_major and minor <= known_minor:
            return
    raise UnsupportedVersion(version, supported)


def check_metadata(metadata: Mapping[str, str | bytes], tokens: Collection[str] = ()) -> None:
    """Check what every call carries: a supported API version, if any, and a token, if any are configured.

    Raises:
        Unauthenticated: tokens are configured and the call carries none of them.
        InvalidInput: the version is no version.
        UnsupportedVersion: the version is not ours.
    """
    if tokens:
        given = metadata.get(TOKEN_KEY, "")
        scheme, _, token = given.partition(" ") if isinstance(given, str) else ("", "", "")
        # Every token is compared, so that time tells nothing.
        matches = [hmac.compare_digest(token.encode(), known.encode()) for known in tokens]
        if scheme.lower() != "bearer" or not any(matches):
            raise Unauthenticated(
                "this server wants the metadata 'authorization: Bearer <token>' with a token it knows"
            )
    version = metadata.get(VERSION_KEY)
    if version is not None:
        check_version(version if isinstance(version, str) else version.decode("ascii", "replace"), VERSION_KEY)
