"""How a circuit runs on an executor, level by level, alone or with others.

Decides the order of steps inside a level (linear forms, keyswitch, modulus switch, bootstrap), how parts of levels of
several circuits run as one, and how long a wire is kept. It must not know which executor runs, which operation a
circuit came from, nor who asked for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from coproc.errors import InvalidInput
from coproc.executors.base import LevelExecutor
from coproc.executors.lwe import HALF_STEP_BELOW_DELTA, linear_combinations, modulus_switch
from coproc.executors.parts import FormsPart, LookUps, LookUpsPart, join_look_ups

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from coproc.circuits.circuit import Circuit, Level, LookUpTable
    from coproc.executors.base import Executor, PreparedKey


class Evaluation:
    """One run of a circuit: holds the wires that are still needed and advances level by level, or by parts of levels.

    Not thread-safe; the executor below it may use as many threads as it likes. Between two levels, and within one, it
    may be dropped, or continued in another thread. Levels without bootstraps are passed over.
    """

    def __init__(
        self, executor: Executor, prepared_key: PreparedKey, circuit: Circuit, inputs: NDArray[np.uint64]
    ) -> None:
        """Take the inputs, shape ``(I, k*N+1)`` uint64, in the order of the circuit's input wires.

        Raises:
            InvalidInput: the inputs do not have that shape or type.
        """
        width = prepared_key.parameters.big_lwe_dimension + 1
        check_inputs(circuit, inputs, width)
        self.executor, self.key = executor, prepared_key
        self.levels: LevelExecutor = executor if isinstance(executor, LevelExecutor) else _Steps(executor)
        self._circuit = circuit
        self._slots, capacity = assign_slots(circuit)
        self._ciphertexts = storage(capacity, width)
        self._ciphertexts[self._slots[: circuit.inputs]] = inputs
        self._next_level = 0
        self._open: _OpenLevel | None = None
        self._skip_empty()

    @property
    def levels_left(self) -> int:
        """Levels that have not run to their end."""
        return len(self._circuit.levels) - self._next_level

    @property
    def waiting(self) -> int:
        """Bootstraps of the present level that have not run; 0 once no level is left."""
        if self._open is not None:
            return self._open.left
        return self._circuit.levels[self._next_level].bootstraps if self.levels_left else 0

    def run_level(self) -> None:
        """Run the next level, or the rest of the present one: all its keyswitches, then all its bootstraps.

        Raises:
            InvalidInput: no level is left.
        """
        run_together([(self, self.waiting)])

    def begin_level(self) -> FormsPart:
        """Return what has to be switched before the present level's bootstraps; see ``switched``.

        Raises:
            InvalidInput: no level is left.
        """
        if self.levels_left == 0:
            raise InvalidInput("level", "every level of the circuit has run")
        forms = self._circuit.levels[self._next_level].forms
        return FormsPart(self._ciphertexts, forms, self._slots[forms.sources])

    @property
    def has_begun(self) -> bool:
        """Whether the present level's forms have been switched."""
        return self._open is not None

    def switched(self, rows: NDArray[np.uint16]) -> None:
        """Take the switched forms of the present level, shape ``(F, n+1)``: its outputs may replace what they read."""
        level, tables = self._circuit.levels[self._next_level], self._circuit.tables
        self._open = _OpenLevel(level, tables, rows, self._slots[output_wires(level, tables)])

    def next_look_ups(self, count: int) -> LookUpsPart:
        """Return the next ``count`` bootstraps of a level that has begun; running them twice changes nothing."""
        if self._open is None or not 1 <= count <= self._open.left:
            raise InvalidInput("count", f"must lie in [1, {self.waiting}] in a level that has begun, got {count}")
        return self._open.part(count, self._ciphertexts)

    def passed(self, count: int) -> None:
        """Go on after the next ``count`` bootstraps, which have run."""
        if self._open is None:
            return
        self._open.done += count
        if not self._open.left:
            self._open = None
            self._next_level += 1
            self._skip_empty()

    def outputs(self) -> NDArray[np.uint64]:
        """Return the circuit's outputs, shape ``(O, k*N+1)``, linear forms of wires.

        Raises:
            InvalidInput: some level has not run yet.
        """
        if self.levels_left:
            raise InvalidInput("level", f"{self.levels_left} levels have not run yet")
        forms, half_step = self._circuit.outputs, self.key.parameters.delta_log2 - HALF_STEP_BELOW_DELTA
        return linear_combinations(forms, self._ciphertexts, self._slots[forms.sources], half_step)

    def close(self) -> None:
        """Nothing to give back: memory is the host's."""

    def _skip_empty(self) -> None:
        while self.levels_left and not self._circuit.levels[self._next_level].bootstraps:
            self._next_level += 1


class _OpenLevel:
    """A level whose forms have been switched, and how many of its bootstraps have run."""

    def __init__(
        self, level: Level, tables: Sequence[LookUpTable], switched: NDArray[np.uint16], targets: NDArray[np.int64]
    ) -> None:
        self._level, self._tables, self._switched, self._targets = level, tables, switched, targets
        self.done = 0

    @property
    def left(self) -> int:
        """Bootstraps that have not run."""
        return self._level.bootstraps - self.done

    def part(self, count: int, ciphertexts: NDArray[np.uint64]) -> LookUpsPart:
        """Return the next ``count`` bootstraps, with no more forms than they use."""
        level = self._level
        if count == level.bootstraps:
            return LookUpsPart(
                self._switched, LookUps(level.form, level.table, self._tables), ciphertexts, self._targets
            )
        begin, end = self.done, self.done + count
        ends = np.cumsum(np.array([len(table.boxes) for table in self._tables], dtype=np.int64)[level.table])
        first, last = int(ends[begin - 1]) if begin else 0, int(ends[end - 1])
        form = level.form[begin:end]
        first_form, last_form = int(form.min()), int(form.max())
        look_ups = LookUps(form - np.int32(first_form), level.table[begin:end], self._tables)
        return LookUpsPart(self._switched[first_form : last_form + 1], look_ups, ciphertexts, self._targets[first:last])


def run_together(turns: Sequence[tuple[Evaluation, int]]) -> None:
    """Run the next bootstraps of several circuits as one batch; the bits are those of each by itself.

    If it raises, no evaluation has advanced, and each may be tried again by itself.

    Args:
        turns: evaluations on one executor under one prepared key, and how many bootstraps of the present level of each.

    Raises:
        InvalidInput: no level is left, or the evaluations do not belong together.
    """
    first = turns[0][0]
    if any(one.executor is not first.executor or one.key is not first.key for one, _ in turns):
        raise InvalidInput("turns", "must be on one executor and under one key")
    if beginning := [one for one, _ in turns if not one.has_begun]:
        switched = first.levels.switch_forms(first.key, [one.begin_level() for one in beginning])
        for one, rows in zip(beginning, switched, strict=True):
            one.switched(rows)
    first.levels.look_up(first.key, [one.next_look_ups(count) for one, count in turns])
    for one, count in turns:
        one.passed(count)


class _Steps:
    """Any executor as one that runs levels: what it does not do by itself is done here, in numpy."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor

    def switch_forms(self, prepared: PreparedKey, parts: Sequence[FormsPart]) -> list[NDArray[np.uint16]]:
        """See ``LevelExecutor.switch_forms``."""
        half_step = prepared.parameters.delta_log2 - HALF_STEP_BELOW_DELTA
        combined = [linear_combinations(part.forms, part.ciphertexts, part.rows, half_step) for part in parts]
        switched = modulus_switch(self._executor.keyswitch(prepared, np.concatenate(combined)), prepared.parameters)
        return np.split(switched, np.cumsum([part.forms.count for part in parts])[:-1])

    def look_up(self, prepared: PreparedKey, parts: Sequence[LookUpsPart]) -> None:
        """See ``LevelExecutor.look_up``."""
        joined = join_look_ups([(part.look_ups, len(part.switched)) for part in parts])
        switched = np.concatenate([part.switched for part in parts])
        fresh = self._executor.bootstrap(prepared, switched, joined.form, joined.table, joined.tables)
        first = 0
        for part in parts:
            part.ciphertexts[part.targets] = fresh[first : first + len(part.targets)]
            first += len(part.targets)


def storage(rows: int, width: int) -> NDArray[np.uint64]:
    """Return zeros of shape ``(rows, width)`` that lie at a multiple of the length of a row.

    So every row of every storage of one width is a whole number of rows away from every other one: bootstraps of
    several circuits can be given the rows that they write to as offsets from one of them.
    """
    words = np.zeros((rows + 1) * width, dtype=np.uint64)
    skip = -(words.ctypes.data // words.itemsize) % width
    return words[skip : skip + rows * width].reshape(rows, width)


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
