"""Compiled kernels on disk, so that a process starts without compiling again.

Decides where an object lies, when it may be trusted, and which are thrown away. An object is found by the digest of
all that made it, is written beside and renamed (so writers cannot disturb readers or each other), and is only loaded
from a folder that nobody else can write to, with its own digest right. Nothing here ever fails: what cannot be read is
compiled, what cannot be written is not kept.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_SUFFIX: Final = ".object"
_PARTIAL: Final = ".partial"
_ABANDONED_SECONDS: Final = 3600.0
"""Age at which what a writer left behind is no writer's any more."""
_DIGEST_BYTES: Final = hashlib.sha256().digest_size
MOST_OBJECTS: Final = 32
"""Objects kept; those used longest ago go first."""


@dataclass(frozen=True, slots=True)
class ObjectCache:
    """A folder of compiled objects. It need not exist, and may be read-only or deleted at any time."""

    directory: Path

    def get(self, key: bytes, make: Callable[[], bytes]) -> bytes:
        """Return the object of that key: the one on disk if it is whole, else what ``make`` gives, and keep that."""
        path = self.directory / (hashlib.sha256(key).hexdigest() + _SUFFIX)
        found = self._read(path)
        if found is None:
            found = make()
            with contextlib.suppress(OSError):
                self._write(path, found)
        return found

    def _read(self, path: Path) -> bytes | None:
        try:
            if not _is_ours(self.directory) or not _is_ours(path):
                return None
            content = path.read_bytes()
        except OSError:
            return None
        digest, found = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:]
        if hashlib.sha256(found).digest() != digest:
            return None
        with contextlib.suppress(OSError):
            os.utime(path)
        return found

    def _write(self, path: Path, content: bytes) -> None:
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not _is_ours(self.directory):
            return
        descriptor, name = tempfile.mkstemp(suffix=_PARTIAL, dir=self.directory)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(hashlib.sha256(content).digest() + content)
            os.replace(name, path)  # noqa: PTH105 - a name, not a path
        except OSError:
            with contextlib.suppress(OSError):
                os.unlink(name)  # noqa: PTH108
            raise
        self._prune()

    def _prune(self) -> None:
        ages: list[tuple[float, Path]] = []
        for path in self.directory.glob("*" + _SUFFIX):
            with contextlib.suppress(OSError):  # another process prunes too
                ages.append((path.stat().st_mtime, path))
        for _, path in sorted(ages, reverse=True)[MOST_OBJECTS:]:
            path.unlink(missing_ok=True)
        for path in self.directory.glob("*" + _PARTIAL):
            with contextlib.suppress(OSError):
                if path.stat().st_mtime < time.time() - _ABANDONED_SECONDS:
                    path.unlink(missing_ok=True)


def _is_ours(path: Path) -> bool:
    """Whether nobody else, except root, can put machine code there."""
    status = path.stat()
    return status.st_uid == os.geteuid() and not status.st_mode & 0o022
