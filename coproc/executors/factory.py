"""Executors by name, for configuration, the command line and tests.

Decides which names exist.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from coproc.errors import InvalidInput
from coproc.executors.reference import ReferenceExecutor

if TYPE_CHECKING:
    from coproc.executors.base import Executor

EXECUTOR_NAMES: Final = ("reference",)


def create_executor(name: str, threads: int | None = None) -> Executor:
    """Make the executor of that name.

    Args:
        name: one of ``EXECUTOR_NAMES``.
        threads: worker threads, by default one for every core that this process may use; ``reference`` has one.

    Raises:
        InvalidInput: there is no such executor, or ``threads`` is not positive.
    """
    if threads is not None and threads < 1:
        raise InvalidInput("threads", f"must be at least 1, got {threads}")
    if name == "reference":
        return ReferenceExecutor()
    raise InvalidInput("executor", f"must be one of {', '.join(EXECUTOR_NAMES)}, got {name!r}")
