"""What an executor is.

Decides what every executor can do, and what some can do besides. It must not know which executor runs, nor circuits as
wholes: how one runs on an executor is in ``coproc.executors.evaluation``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

from coproc.errors import IrrecoverableError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from coproc.circuits.circuit import LookUpTable
    from coproc.executors.parts import FormsPart, LookUpsPart
    from coproc.tfhe.keys import EvaluationKey
    from coproc.tfhe.parameters import ClassicParameters


class ExecutorUnavailable(IrrecoverableError):
    """This machine lacks what an executor needs: a package, a driver, an instruction set."""

    rule = "EXECUTOR_UNAVAILABLE"


class PreparedKey(Protocol):
    """An evaluation key in the layout of one executor: made once, read-only, shared by all its threads."""

    @property
    def parameters(self) -> ClassicParameters:
        """The parameter set of the key."""
        ...

    @property
    def key_id(self) -> bytes:
        """Identity of the evaluation key that this was made from."""
        ...


class Executor(Protocol):
    """Computes keyswitches and programmable bootstraps in bulk.

    All methods may be called from any thread, from several at once, and block until the result is there. The GIL is
    released during the heavy work.
    """

    @property
    def name(self) -> str:
        """Short name for configuration, logs and metrics."""
        ...

    def prepare(self, key: EvaluationKey) -> PreparedKey:
        """Bring a key into this executor's own layout.

        Raises:
            InvalidInput: the parameters are not supported; names the field and the rule.
        """
        ...

    def keyswitch(self, prepared: PreparedKey, ciphertexts: NDArray[np.uint64]) -> NDArray[np.uint64]:
        """Keyswitch from the big to the small key, exactly, in integers.

        Args:
            prepared: the result of this executor's ``prepare``.
            ciphertexts: shape ``(F, k*N+1)``, LWE ciphertexts under the big key.

        Returns:
            Shape ``(F, n+1)``: the same messages under the small key.
        """
        ...

    def bootstrap(
        self,
        prepared: PreparedKey,
        switched: NDArray[np.uint16],
        form: NDArray[np.int32],
        table: NDArray[np.int32],
        tables: Sequence[LookUpTable],
    ) -> NDArray[np.uint64]:
        """Blind rotation and sample extraction of ``P`` bootstraps.

        Args:
            prepared: the result of this executor's ``prepare``.
            switched: shape ``(F, n+1)``, modulus-switched small ciphertexts, values in ``[0, 2N)``.
            form: shape ``(P,)``, the row of ``switched`` that each bootstrap reads.
            table: shape ``(P,)``, index into ``tables`` of each bootstrap.
            tables: the accumulators.

        Returns:
            Shape ``(O, k*N+1)``: for every bootstrap in order, one row for every output of its table.
        """
        ...


@runtime_checkable
class LevelExecutor(Protocol):
    """An executor that runs levels by itself, those of several circuits as one, and copies no ciphertexts for that."""

    def switch_forms(self, prepared: PreparedKey, parts: Sequence[FormsPart]) -> list[NDArray[np.uint16]]:
        """Evaluate linear forms, keyswitch and modulus-switch them.

        Args:
            prepared: the result of this executor's ``prepare``.
            parts: forms, each part with storage made by ``evaluation.storage`` if there are several.

        Returns:
            For every part, shape ``(F, n+1)``.
        """
        ...

    def look_up(self, prepared: PreparedKey, parts: Sequence[LookUpsPart]) -> None:
        """Bootstrap, and write every output to its row.

        Args:
            prepared: the result of this executor's ``prepare``.
            parts: bootstraps, each part with storage made by ``evaluation.storage`` if there are several.
        """
        ...


@runtime_checkable
class Metered(Protocol):
    """An executor that knows how much CPU time its arithmetic took: what a process spends beyond that is overhead."""

    @property
    def kernel_seconds(self) -> float:
        """CPU time spent inside keyswitches and bootstraps so far, over all threads."""
        ...


@runtime_checkable
class Closeable(Protocol):
    """An executor that has threads or a device to give back."""

    def close(self) -> None:
        """Give them back after the work under way."""
        ...


def lanes_of(executor: Executor) -> int | None:
    """How many bootstraps an executor on cores runs at the same time; None for devices, which take what they get."""
    threads: object = getattr(executor, "threads", None)
    return threads if isinstance(threads, int) else None
