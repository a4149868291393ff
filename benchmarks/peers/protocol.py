"""A peer as a child process: one line of JSON asks for work, one line answers.

Decides how peers are started and spoken to; what they do is in their own folders.
"""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self, cast

from coproc.errors import FatalError

if TYPE_CHECKING:
    from collections.abc import Sequence

FOLDER: Final = Path(__file__).parent
MEASURING: Final = FOLDER / "tfhe_rs/target/release/tfhe-rs-peer"
COUNTING: Final = FOLDER / "tfhe_rs/target/counting/count/tfhe-rs-peer"


@dataclass(frozen=True, slots=True)
class Work:
    """What is asked for; see ``tfhe_rs/src/main.rs``."""

    name: str
    """An operation, ``transfer_...`` or ``bootstrap``."""
    type: str
    """``euint64`` and the like; empty for transfers and bootstraps."""
    operands: Sequence[Sequence[int]]
    """Of every independent instance, negative ones in two's complement of 256 bits."""
    threads: int
    seconds: float = 0.0
    """Whole passes are made until so much time is over; at least one."""
    scalar: bool = False
    """Whether the last operand of each instance is public."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of it."""

    seconds: Sequence[float]
    """Of every pass over all instances."""
    cpu_seconds: float
    """CPU time of all threads, over all passes."""
    values: Sequence[Sequence[int]]
    """Results of the first pass, decrypted, as unsigned numbers."""
    bootstraps: int | None
    """Of one pass; None from a build that does not count."""


class Peer:
    """A running peer with keys of its own."""

    def __init__(self, binary: Path, parameters: str) -> None:
        """Start it, and wait for its keys.

        Raises:
            FatalError: it is not there, or ends.
        """
        if not binary.exists():
            raise FatalError(
                f"{binary} is not built: make {'count' if binary == COUNTING else 'bench'}-peers builds it"
            )
        command = [str(binary), parameters]
        self._process = subprocess.Popen(  # noqa: S603 - what we built
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.about: Final = self._read()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self._process.stdin:
            self._process.stdin.close()
        self._process.wait(10)
        if self._process.stdout:
            self._process.stdout.close()

    def ask(self, work: Work) -> Answer:
        """Have work done.

        Raises:
            FatalError: the peer ended; it says why on standard error.
        """
        mask = (1 << 256) - 1
        request = {
            "name": work.name,
            "type": work.type,
            "operands": [[f"{value & mask:x}" for value in values] for values in work.operands],
            "threads": work.threads,
            "seconds": work.seconds,
            "scalar": work.scalar,
        }
        if self._process.stdin:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        reply = self._read()
        answers = cast("list[list[str]]", reply["answers"])
        return Answer(
            seconds=cast("list[float]", reply["seconds"]),
            cpu_seconds=cast("float", reply["cpu_seconds"]),
            values=[[int(value, 16) for value in values] for values in answers],
            bootstraps=cast("int | None", reply["bootstraps"]),
        )

    def _read(self) -> dict[str, object]:
        line = self._process.stdout.readline() if self._process.stdout else ""
        if not line:
            raise FatalError(f"the peer ended with status {self._process.wait()}")
        return cast("dict[str, object]", json.loads(line))
