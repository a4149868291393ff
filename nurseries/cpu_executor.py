"""The executor actor for the cores of this machine.

Decides which executor runs on cores: our own kernel, or another one by name. What it does is in ``nurseries.executor``.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from coproc.executors.factory import create_executor
from nurseries.executor import ExecutorActor

if TYPE_CHECKING:
    from pathlib import Path

    from coproc.keyring import KeyCache
    from nurseries.executor import JobCall
    from nurseries.mailbox import Mailbox


def cpu_executor(
    keys: KeyCache,
    mailbox: Mailbox[JobCall],
    *,
    name: str = "cpu",
    threads: int | None = None,
    jobs: int = 2,
    prepared_keys: int = 2,
    cache: Path | None = None,
) -> ExecutorActor:
    """Make the actor; ``name`` is one of ``coproc.executors.factory.EXECUTOR_NAMES``.

    Compiled kernels are kept in the folder ``cache``.
    """
    make = partial(create_executor, name, threads, cache=cache)
    return ExecutorActor(make, keys, mailbox, jobs=jobs, prepared_keys=prepared_keys)
