"""The executor on a device: ciphertexts stay in its slab from a job's first level to its last.

Decides what one level of several jobs becomes on the device. Which device it is, CuPy's or the emulation, it does not
know.
"""

from __future__ import annotations

from concurrent.futures import CancelledError, Future
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final, TypeVar

import numpy as np

from coproc.errors import InvalidInput
from coproc.executors.evaluation import assign_slots, check_inputs, output_wires
from coproc.executors.gpu import kernels
from coproc.executors.gpu.kernels import DeviceKey
from coproc.executors.gpu.owner import Owner
from coproc.executors.gpu.slab import Slots
from coproc.executors.lwe import HALF_STEP_BELOW_DELTA, Extractions
from coproc.executors.parts import LookUps, join_forms, join_look_ups

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from coproc.circuits.circuit import Circuit, LinearForms, LookUpTable
    from coproc.executors.base import PreparedKey
    from coproc.executors.gpu.device import Device, DeviceArray, DeviceLost, Mark
    from coproc.tfhe.keys import EvaluationKey


Result = TypeVar("Result")


@dataclass(frozen=True, slots=True, eq=False)
class LevelWork:
    """One level of one job, in rows of the slab."""

    job: object
    """Identity of the job: its levels follow one another."""
    key: DeviceKey
    forms: LinearForms
    rows: NDArray[np.int32]
    """Slab row of every term of the forms."""
    look_ups: LookUps
    targets: NDArray[np.int32]
    """Slab row of every output, in the row order of ``Executor.bootstrap``."""


PIECE: Final = 512
"""Ciphertexts that are copied at once."""


def together(one: LevelWork, other: LevelWork) -> bool:
    """Whether two levels may run as one."""
    return one.key is other.key and one.job is not other.job


def run_levels(device: Device, works: Sequence[LevelWork]) -> Mark:
    """Start levels of jobs under one key as one; the mark is passed when they are done."""
    key = works[0].key
    forms = join_forms([(work.forms, work.rows) for work in works])
    look_ups = join_look_ups([(work.look_ups, work.forms.count) for work in works])
    switched = switch_forms(device, key, forms.offsets, forms.rows, forms.coefficients, forms.constants)
    targets = np.concatenate([work.targets for work in works])
    kernels.bootstrap(device, key, switched, look_ups.form, look_ups.table, look_ups.tables, key.slab, targets)
    return device.mark()


def switch_forms(
    device: Device,
    key: DeviceKey,
    offsets: NDArray[np.int64],
    rows: NDArray[np.int32],
    coefficients: NDArray[np.int64],
    constants: NDArray[np.int64],
) -> DeviceArray:
    """Linear forms, keyswitch and modulus switch in waves; returns uint16 ``(F, n+1)`` on the device."""
    switched = device.empty((max(1, len(constants)), key.small_words), np.uint16)

    def run(begin: int, end: int) -> None:
        big = forms_between(device, key, offsets, rows, coefficients, constants, begin, end)
        kernels.modulus_switch(key, kernels.keyswitch(device, key, big), switched, begin)

    kernels.in_waves(len(constants), run)
    return switched


def forms_between(
    device: Device,
    key: DeviceKey,
    offsets: NDArray[np.integer],
    rows: NDArray[np.int32],
    coefficients: NDArray[np.integer],
    constants: NDArray[np.integer],
    begin: int,
    end: int,
) -> DeviceArray:
    """Evaluate forms ``begin`` to ``end`` of slab rows; returns uint64 ``(end - begin, N+1)`` on the device."""
    terms = slice(int(offsets[begin]), int(offsets[end]))
    within = (offsets[begin : end + 1] - offsets[begin]).astype(np.int32)
    half_step = np.uint64(key.parameters.delta_log2 - HALF_STEP_BELOW_DELTA)
    bodies = constants[begin:end].astype(np.uint64) << half_step
    return kernels.linear_forms(device, key, within, rows[terms], coefficients[terms].astype(np.int64), bodies)


class DeviceEvaluation:
    """One run of a circuit on a device; see ``coproc.executors.base.Evaluation``, whose calls it has.

    Its rows of the slab are given back by ``close``, in the device's own order: after whatever still runs there.
    """

    def __init__(self, executor: DeviceExecutor, key: DeviceKey, circuit: Circuit, inputs: NDArray[np.uint64]) -> None:
        """Check the inputs; ``begin`` copies them to the device.

        Raises:
            InvalidInput: the inputs do not have the right shape or type.
        """
        check_inputs(circuit, inputs, key.words)
        self._executor, self._key, self._circuit, self._inputs = executor, key, circuit, inputs
        self._next_level = 0
        self._slots, self._capacity = assign_slots(circuit)
        self._rows: NDArray[np.int32] | None = None
        self._row_of_wire = np.zeros(0, dtype=np.int32)
        self._closed = False
        self._begun: list[Future[None]] = []

    def begin(self) -> Future[None]:
        """Start to take rows and to copy the inputs there; must be done before the first level begins.

        The result may be a ``DeviceFailure``: there is no room for this job now, or the device failed.
        """

        def take(_: Device) -> None:
            rows = self._key.slots.take(self._capacity)
            self._rows, self._row_of_wire = rows, rows[self._slots]

        def copy(device: Device, begin: int, end: int) -> None:
            with device.aside():
                kernels.place(device, self._key, self._inputs[begin:end], self._row_of_wire[begin:end])
                device.synchronize()

        return self._in_pieces(self._circuit.inputs, copy, take)

    def _in_pieces(
        self,
        count: int,
        work: Callable[[Device, int, int], None],
        before: Callable[[Device], None] = lambda _: None,
    ) -> Future[None]:
        """Copy ``count`` ciphertexts in pieces, between which levels of others begin."""
        failed: list[BaseException] = []

        def piece(device: Device, begin: int, end: int) -> None:
            if self._closed or failed:
                return
            try:
                if begin == 0:
                    before(device)
                work(device, begin, end)
            except BaseException as error:
                failed.append(error)
                raise

        def last(device: Device, begin: int, end: int) -> None:
            if failed:
                raise failed[0]
            piece(device, begin, end)

        for begin in range(0, count - PIECE, PIECE):
            self._executor.owner.submit(partial(piece, begin=begin, end=begin + PIECE))
        begin = max(0, count - 1) // PIECE * PIECE
        return self._executor.owner.submit(partial(last, begin=begin, end=count))

    @property
    def levels_left(self) -> int:
        """Levels that have not run yet."""
        return len(self._circuit.levels) - self._next_level

    def begin_level(self) -> Future[None]:
        """Start the next level; levels of other jobs under this key may join it.

        It may be asked for before the one before it is done.

        Raises:
            InvalidInput: no level is left.
        """
        if self.levels_left == 0:
            raise InvalidInput("level", "every level of the circuit has run")
        level, tables = self._circuit.levels[self._next_level], self._circuit.tables
        self._next_level += 1
        work = LevelWork(
            job=self,
            key=self._key,
            forms=level.forms,
            rows=self._row_of_wire[level.forms.sources],
            look_ups=LookUps(level.form, level.table, tables),
            targets=self._row_of_wire[output_wires(level, tables)],
        )
        future = self._executor.owner.submit_level(work)
        self._begun.append(future)
        return future

    def run_level(self) -> None:
        """Run the next level and wait for it."""
        self.begin_level().result()

    def begin_outputs(self) -> Future[NDArray[np.uint64]]:
        """Start to compute and fetch the outputs, shape ``(O, N+1)``; all levels must be done.

        Raises:
            InvalidInput: some level has not run yet.
        """
        if self.levels_left:
            raise InvalidInput("level", f"{self.levels_left} levels have not run yet")
        forms, key = self._circuit.outputs, self._key
        rows = self._row_of_wire[forms.sources]
        arrays = (forms.offsets, rows, forms.coefficients, forms.constants)
        result = np.empty((forms.count, key.words), dtype=np.uint64)

        def fetch(device: Device, first: int, last: int) -> None:
            def run(begin: int, end: int) -> None:
                part = forms_between(device, key, *arrays, first + begin, first + end)
                device.download(part, result[first + begin : first + end])

            with device.aside():
                kernels.in_waves(last - first, run)  # smaller ones where memory runs out

        done: Future[NDArray[np.uint64]] = Future()
        self._in_pieces(forms.count, fetch).add_done_callback(partial(_pass_on, done, result))
        return done

    def outputs(self) -> NDArray[np.uint64]:
        """Return the outputs."""
        return self.begin_outputs().result()

    def close(self) -> None:
        """Give the rows back once the device is done with them; returns at once, and may be called again."""
        self._closed = True

        def give_back(device: Device) -> None:
            if self._rows is not None:
                if not all(level.done() for level in self._begun):
                    device.synchronize()  # cancelled: what still runs writes to the rows
                rows, self._rows = self._rows, None
                self._key.slots.give_back(rows)

        self._executor.owner.submit(give_back)


class DeviceExecutor:
    """Runs on one device through its owner's thread; see ``coproc.executors.base.Executor``."""

    def __init__(self, name: str, open_device: Callable[[], Device]) -> None:
        """Open the device, in a thread of its own that then keeps it.

        Raises:
            ExecutorUnavailable: there is no such device, or what it needs is missing.
        """
        self._name = name
        self.owner: Owner[LevelWork] = Owner(open_device, run_levels, together)

    @property
    def name(self) -> str:
        """Short name."""
        return self._name

    @property
    def parallel(self) -> int:
        """Bootstraps that take about as long as a single one."""
        return max(1, self.owner.device.processors)

    @property
    def device_name(self) -> str:
        """Model of the device."""
        return self.owner.device.name

    @property
    def lost(self) -> DeviceLost | None:
        """Why the device cannot be used any more, if so."""
        return self.owner.lost

    def prepare(self, key: EvaluationKey) -> DeviceKey:
        """Upload and transform a key.

        Raises:
            InvalidInput: the parameters are not supported.
            DeviceFailure: the device has no room for it, or failed.
        """
        return self.owner.submit(lambda device: kernels.load_key(device, key, Slots)).result()

    def evaluate(self, prepared: PreparedKey, circuit: Circuit, inputs: NDArray[np.uint64]) -> DeviceEvaluation:
        """Begin a run that keeps its ciphertexts on the device."""
        return DeviceEvaluation(self, _own(prepared), circuit, inputs)

    def keyswitch(self, prepared: PreparedKey, ciphertexts: NDArray[np.uint64]) -> NDArray[np.uint64]:
        """Keyswitch; see ``Executor.keyswitch``."""
        key = _own(prepared)
        if ciphertexts.ndim != 2 or ciphertexts.shape[1] != key.words or ciphertexts.dtype != np.uint64:
            raise InvalidInput("ciphertexts", f"must be uint64 of shape (F, {key.words}), got {ciphertexts.shape}")
        result = np.empty((len(ciphertexts), key.small_words), dtype=np.uint64)

        def work(device: Device) -> None:
            def run(begin: int, end: int) -> None:
                source = device.upload(np.ascontiguousarray(ciphertexts[begin:end]))
                device.download(kernels.keyswitch(device, key, source), result[begin:end])

            kernels.in_waves(len(ciphertexts), run)

        self.owner.submit(work).result()
        return result

    def bootstrap(
        self,
        prepared: PreparedKey,
        switched: NDArray[np.uint16],
        form: NDArray[np.int32],
        table: NDArray[np.int32],
        tables: Sequence[LookUpTable],
    ) -> NDArray[np.uint64]:
        """Blind rotation and sample extraction; see ``Executor.bootstrap``."""
        key = _own(prepared)
        outputs = Extractions(table, tables, key.parameters).count
        result = np.empty((outputs, key.words), dtype=np.uint64)
        if len(form) == 0 or outputs == 0:
            return result
        _check_rows("form", form, len(switched))
        _check_rows("table", table, len(tables))
        limit = 2 * key.parameters.polynomial_size
        if switched.ndim != 2 or switched.shape[1] != key.small_words or int(switched.max()) >= limit:
            raise InvalidInput("switched", f"must be of shape (F, {key.small_words}) with values below {limit}")

        def work(device: Device) -> None:
            target = device.empty(result.shape, np.uint64)
            rows = np.arange(outputs, dtype=np.int32)
            source = device.upload(np.ascontiguousarray(switched, dtype=np.uint16))
            kernels.bootstrap(device, key, source, form, table, tables, target, rows)
            device.download(target, result)

        self.owner.submit(work).result()
        return result

    def close(self) -> None:
        """Let the device's thread end after the work that waits."""
        self.owner.close()


def _pass_on(done: Future[Result], result: Result, copied: Future[None]) -> None:
    """Answer one future when another one has been answered."""
    if not done.set_running_or_notify_cancel():
        return
    if copied.cancelled():
        done.set_exception(CancelledError())
    elif (error := copied.exception()) is not None:
        done.set_exception(error)
    else:
        done.set_result(result)


def _own(prepared: PreparedKey) -> DeviceKey:
    if not isinstance(prepared, DeviceKey):
        raise InvalidInput("prepared", "was made by another executor")
    return prepared


def _check_rows(field: str, rows: NDArray[np.int32], limit: int) -> None:
    if int(rows.min()) < 0 or int(rows.max()) >= limit:
        raise InvalidInput(field, f"must lie in [0, {limit})")
