"""What an executor is, and how a circuit runs on one, level by level.

Decides the order of steps inside a level (linear forms, keyswitch, modulus switch, bootstrap) and how long a wire is
kept. It must not know which executor runs, which operation a circuit came from, nor who asked for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np

from coproc.errors import InvalidInput, IrrecoverableError
from coproc.executors.lwe import HALF_STEP_BELOW_DELTA, linear_combinations, modulus_switch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from coproc.circuits.circuit import Circuit, Level, LookUpTable
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
    """An executor that runs whole levels by itself, with nothing between keyswitches and bootstraps."""

    def run_level(
        self,
        prepared: PreparedKey,
        level: Level,
        tables: Sequence[LookUpTable],
        ciphertexts: NDArray[np.uint64],
        slots: NDArray[np.int64],
    ) -> None:
        """Run a level in place: linear forms, keyswitches, modulus switches, bootstraps.

        Args:
            prepared: the result of this executor's ``prepare``.
            level: what to run.
            tables: the accumulators of the circuit.
            ciphertexts: shape ``(S, k*N+1)``, the wires' storage; rows of outputs are written when all forms are read.
            slots: the row of each wire.
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


class Evaluation:
    """One run of a circuit: holds the wires that are still needed and advances one level at a time.

    Not thread-safe; the executor below it may use as many threads as it likes. Between two levels it may be dropped,
    or continued in another thread.
    """

    def __init__(
        self, executor: Executor, prepared_key: PreparedKey, circuit: Circuit, inputs: NDArray[np.uint64]
    ) -> None:
        """Take the inputs, shape ``(I, k*N+1)`` uint64, in the order of the circuit's input wires.

        Raises:
            InvalidInput: the inputs do not have that shape or type.
        """
        parameters = prepared_key.parameters
        width = parameters.big_lwe_dimension + 1
        check_inputs(circuit, inputs, width)
        self._executor = executor
        self._key = prepared_key
        self._parameters = parameters
        self._circuit = circuit
        self._half_step_log2 = parameters.delta_log2 - HALF_STEP_BELOW_DELTA
        self._next_level = 0
        self._slots, capacity = assign_slots(circuit)
        self._ciphertexts = np.zeros((capacity, width), dtype=np.uint64)
        self._ciphertexts[self._slots[: circuit.inputs]] = inputs

    @property
    def levels_left(self) -> int:
        """Levels that have not run yet."""
        return len(self._circuit.levels) - self._next_level

    def run_level(self) -> None:
        """Run the next level: all its keyswitches, then all its bootstraps.

        Raises:
            InvalidInput: no level is left.
        """
        if self.levels_left == 0:
            raise InvalidInput("level", "every level of the circuit has run")
        level = self._circuit.levels[self._next_level]
        tables = self._circuit.tables
        if isinstance(self._executor, LevelExecutor):
            self._executor.run_level(self._key, level, tables, self._ciphertexts, self._slots)
        else:
            combined = linear_combinations(level.forms, self._ciphertexts, self._slots, self._half_step_log2)
            small = self._executor.keyswitch(self._key, combined)
            switched = modulus_switch(small, self._parameters)
            fresh = self._executor.bootstrap(self._key, switched, level.form, level.table, tables)
            self._ciphertexts[self._slots[output_wires(level, tables)]] = fresh
        self._next_level += 1

    def outputs(self) -> NDArray[np.uint64]:
        """Return the circuit's outputs, shape ``(O, k*N+1)``, linear forms of wires.

        Raises:
            InvalidInput: some level has not run yet.
        """
        if self.levels_left:
            raise InvalidInput("level", f"{self.levels_left} levels have not run yet")
        return linear_combinations(self._circuit.outputs, self._ciphertexts, self._slots, self._half_step_log2)

    def close(self) -> None:
        """Nothing to give back: memory is the host's."""


def check_inputs(circuit: Circuit, inputs: NDArray[np.uint64], width: int) -> None:
    """Refuse inputs that are not uint64 of shape ``(circuit.inputs, width)``.

    Raises:
        InvalidInput: says what is expected.
    """
    if inputs.shape != (circuit.inputs, width) or inputs.dtype != np.uint64:
        message = f"must be uint64 of shape {(circuit.inputs, width)}, got {inputs.dtype} of {inputs.shape}"
        raise InvalidInput("inputs", message)


def output_wires(level: Level, tables: Sequence[LookUpTable]) -> NDArray[np.int32]:
    """Return the wire of every output of a level, in the row order of ``Executor.bootstrap``."""
    counts = np.array([len(table.boxes) for table in tables], dtype=np.int32)[level.table]
    starts = np.cumsum(counts) - counts
    within = np.arange(int(counts.sum()), dtype=np.int32) - np.repeat(starts, counts).astype(np.int32)
    return np.repeat(level.first_wire, counts).astype(np.int32) + within


def assign_slots(circuit: Circuit) -> tuple[NDArray[np.int64], int]:
    """Give every wire a storage slot such that wires whose lives overlap never share one.

    Returns the slot of every wire and the number of slots. The outputs of a level may take the slots of wires that
    the level reads last, since all linear forms of a level are computed before its first bootstrap.
    """
    depth = len(circuit.levels)
    last_use = np.full(circuit.wires, -1, dtype=np.int64)
    born = [np.arange(circuit.inputs, dtype=np.int64)]
    for number, level in enumerate(circuit.levels):
        last_use[level.forms.sources] = number
        wires = output_wires(level, circuit.tables).astype(np.int64)
        last_use[wires] = number + 1  # until overwritten: a wire that nobody reads lives through one more level
        born.append(wires)
    last_use[circuit.outputs.sources] = depth
    slots = np.zeros(circuit.wires, dtype=np.int64)
    by_last_use = np.argsort(last_use, kind="stable")
    bounds = np.searchsorted(last_use[by_last_use], np.arange(depth + 1), side="right")
    free = np.zeros(0, dtype=np.int64)
    capacity, released = 0, 0
    for number, wires in enumerate(born):
        if number:  # level ``number - 1`` has read its forms
            ended = by_last_use[released : bounds[number - 1]]
            free = np.concatenate([free, slots[ended]])
            released = int(bounds[number - 1])
        fresh = max(0, len(wires) - len(free))
        pool = np.concatenate([free, np.arange(capacity, capacity + fresh)])
        capacity += fresh
        slots[wires] = pool[: len(wires)]
        free = pool[len(wires) :]
    return slots, capacity
