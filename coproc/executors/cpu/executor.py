"""The ``cpu`` executor: spreads keyswitches and bootstraps over the cores of this machine.

Decides how a batch is cut into tasks. How it is cut never changes results: every ciphertext's operations are its own.
"""

from __future__ import annotations

import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from coproc.errors import InvalidInput
from coproc.executors.cpu.compiler import check_isa, detect_isa
from coproc.executors.cpu.kernel import Kernel, Workspace, address, aligned
from coproc.executors.cpu.keyswitch_kernel import PARTS
from coproc.executors.cpu.machine import second_level_cache
from coproc.executors.cpu.objects import ObjectCache
from coproc.executors.lwe import HALF_STEP_BELOW_DELTA, Extractions, accumulator_polynomials
from coproc.executors.parts import LookUps, join_forms, join_look_ups

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from coproc.circuits.circuit import LookUpTable
    from coproc.executors.base import PreparedKey
    from coproc.executors.cpu.machine import Isa
    from coproc.executors.parts import FormsPart, LookUpsPart
    from coproc.tfhe.keys import EvaluationKey
    from coproc.tfhe.parameters import ClassicParameters

BATCH: Final = 16
"""Ciphertexts that share one reading of the bootstrap key; more gains nothing."""
SMALLEST: Final = 4
"""Ciphertexts in the last batches of a level, in which threads wait for each other."""
SWITCHES: Final = 64
"""Modulus switches below which a second thread is not worth waking."""


def batch_bounds(count: int, threads: int, largest: int) -> list[int]:
    """Cut ``count`` bootstraps into batches for threads that take the next one when they are done.

    Every thread gets as many, and the later batches are smaller, so that one that is held up leaves little to wait for.
    A single thread waits for nobody: its batches are equal.
    """
    bounds = [0]
    if threads == 1:
        pieces = -(-count // largest)
        return [count * piece // pieces for piece in range(pieces + 1)]
    while bounds[-1] < count:
        share = -(-(count - bounds[-1]) // threads)
        last = share if share <= 2 * SMALLEST else max(SMALLEST, share // 4)
        size = min(largest, share - last or share)
        for _ in range(threads):
            bounds.append(min(bounds[-1] + size, count))
            if bounds[-1] == count:
                break
    return bounds


@dataclass(frozen=True, slots=True, eq=False)
class CpuKey:
    """An evaluation key in the layouts of the kernel."""

    key: EvaluationKey
    kernel: Kernel
    tiles: NDArray[np.int16]
    """Shape ``(tiles, kN*level/2, 4, columns, 2)``: the keyswitch key, as ``keyswitch_tiles`` reads it."""
    spectra: NDArray[np.float64]
    """Shape ``(n, 4N)``: the transformed bootstrap key, in the order of the kernel's reads."""

    @property
    def parameters(self) -> ClassicParameters:
        """The parameter set of the key."""
        return self.key.parameters

    @property
    def key_id(self) -> bytes:
        """Identity of the evaluation key."""
        return self.key.key_id


class CpuExecutor:
    """Own kernel, compiled at start, for ``k = 1``, ``N`` of 512, 1024 or 2048 and one level of decomposition."""

    def __init__(self, threads: int | None = None, isa: str | None = None, cache: Path | None = None) -> None:
        """Use ``threads`` threads, by default one a core; ``isa`` forces a narrower instruction set.

        Compiled kernels are kept in the folder ``cache``, if there is one.

        Raises:
            InvalidInput: ``isa`` is unknown or this machine does not have it.
        """
        self.isa: Final[Isa] = detect_isa() if isa is None else check_isa(isa)
        self.threads: Final = threads or len(os.sched_getaffinity(0))
        self._objects = None if cache is None else ObjectCache(cache)
        self._pool = ThreadPoolExecutor(self.threads, thread_name_prefix="coproc-cpu")
        self._thread_seconds: dict[int, float] = {}
        """CPU time of every thread inside the kernel; each writes to its own entry."""

    @property
    def name(self) -> str:
        """Short name."""
        return "cpu"

    @property
    def kernel_seconds(self) -> float:
        """CPU time spent inside keyswitches and bootstraps so far, over all threads."""
        return sum(self._thread_seconds.copy().values())

    def prepare(self, key: EvaluationKey) -> CpuKey:
        """Tile the keyswitch key and transform the bootstrap key.

        Raises:
            InvalidInput: the parameters are not supported.
        """
        parameters = key.parameters
        kernel = Kernel.of(parameters, self.isa, self._objects)
        n, size = parameters.lwe_dimension, parameters.polynomial_size
        _check_shape("keyswitch_key", key.keyswitch_key, (parameters.big_lwe_dimension, parameters.ks_level, n + 1))
        _check_shape("bootstrap_key", key.bootstrap_key, (n, 1, 2, 2, size))
        rows, width = parameters.big_lwe_dimension * parameters.ks_level, n + 1
        columns = kernel.tile.columns
        count = -(-width // columns)
        tiles = aligned((count, rows // 2, PARTS, columns, 2), np.int16)
        words = np.ascontiguousarray(key.keyswitch_key)

        def reorder(begin: int, end: int) -> None:
            kernel.keyswitch_key(address(words), address(tiles), begin, end, rows, width)

        self._spread(reorder, count, -(-count // self.threads))
        steps = parameters.lwe_dimension
        # The prefetch looks one row ahead and never reads for real.
        spectra = aligned((steps, 4 * parameters.polynomial_size), np.float64)
        source = np.ascontiguousarray(key.bootstrap_key)

        def convert(begin: int, end: int) -> None:
            work = Workspace(kernel.shape, 1)
            kernel.convert_key(
                address(source[begin:]), address(spectra[begin:]), address(kernel.twiddles), work.spectra, end - begin
            )

        self._spread(convert, steps, -(-steps // self.threads))
        return CpuKey(key=key, kernel=kernel, tiles=tiles, spectra=spectra)

    def keyswitch(self, prepared: PreparedKey, ciphertexts: NDArray[np.uint64]) -> NDArray[np.uint64]:
        """Keyswitch; see ``Executor.keyswitch``."""
        own = self._own(prepared)
        parameters = own.parameters
        count, words = len(ciphertexts), parameters.big_lwe_dimension
        width = parameters.lwe_dimension + 1
        if ciphertexts.ndim != 2 or ciphertexts.shape[1] != words + 1 or ciphertexts.dtype != np.uint64:
            raise InvalidInput("ciphertexts", f"must be uint64 of shape (F, {words + 1}), got {ciphertexts.shape}")
        if count == 0:
            return np.empty((0, width), dtype=np.uint64)
        source = np.ascontiguousarray(ciphertexts)
        return self._products(own, source, lambda _begin, _end: None)[:, :width]

    def bootstrap(
        self,
        prepared: PreparedKey,
        switched: NDArray[np.uint16],
        form: NDArray[np.int32],
        table: NDArray[np.int32],
        tables: Sequence[LookUpTable],
    ) -> NDArray[np.uint64]:
        """Blind rotation and sample extraction; see ``Executor.bootstrap``."""
        own = self._own(prepared)
        parameters = own.parameters
        if len(form) == 0:
            return np.empty((0, parameters.big_lwe_dimension + 1), dtype=np.uint64)
        _check_switched(switched, parameters)
        _check_rows("form", form, len(switched))
        _check_rows("table", table, len(tables))
        extractions = Extractions(table, tables, parameters)
        result = np.empty((extractions.count, parameters.big_lwe_dimension + 1), dtype=np.uint64)
        rotations = np.ascontiguousarray(switched, dtype=np.uint16)
        look_ups = LookUps(form, table, tables)
        self._rotate(own, rotations, look_ups, address(result), np.arange(extractions.count, dtype=np.int64))
        return result

    def switch_forms(self, prepared: PreparedKey, parts: Sequence[FormsPart]) -> list[NDArray[np.uint16]]:
        """Evaluate, keyswitch and modulus-switch forms; see ``LevelExecutor.switch_forms``."""
        own = self._own(prepared)
        kernel, parameters = own.kernel, own.parameters
        words, dimension = parameters.big_lwe_dimension, parameters.lwe_dimension
        base, shifts = _common_base([part.ciphertexts for part in parts], words + 1)
        for part in parts:
            _check_rows("rows", part.rows, len(part.ciphertexts))
        joined = join_forms([(part.forms, part.rows + shift) for part, shift in zip(parts, shifts, strict=True)])
        count = len(joined.constants)
        half_step = np.uint64(parameters.delta_log2 - HALF_STEP_BELOW_DELTA)
        constants = joined.constants.astype(np.uint64) << half_step
        combined = np.empty((count, words + 1), dtype=np.uint64)

        def combine(begin: int, end: int) -> None:
            kernel.combine(
                *(base, address(joined.offsets), address(joined.rows), address(joined.coefficients)),
                *(address(constants), address(combined), begin, end),
            )

        small = self._products(own, combined, combine)
        switched = np.empty((count, dimension + 1), dtype=np.uint16)

        def switch(begin: int, end: int) -> None:
            kernel.switch(address(small), address(switched), dimension, small.shape[1], begin, end)

        self._spread(switch, count, max(SWITCHES, -(-count // self.threads)))
        ends = np.cumsum([part.forms.count for part in parts]).tolist()
        return [switched[end - part.forms.count : end] for part, end in zip(parts, ends, strict=True)]

    def look_up(self, prepared: PreparedKey, parts: Sequence[LookUpsPart]) -> None:
        """Bootstrap in place; see ``LevelExecutor.look_up``. Batches are cut over all parts together."""
        own = self._own(prepared)
        parameters = own.parameters
        base, shifts = _common_base([part.ciphertexts for part in parts], parameters.big_lwe_dimension + 1)
        for part in parts:
            _check_switched(part.switched, parameters)
            _check_rows("form", part.look_ups.form, len(part.switched))
            _check_rows("table", part.look_ups.table, len(part.look_ups.tables))
            _check_rows("targets", part.targets, len(part.ciphertexts))
        look_ups = join_look_ups([(part.look_ups, len(part.switched)) for part in parts])
        targets = np.concatenate([part.targets + shift for part, shift in zip(parts, shifts, strict=True)])
        switched = parts[0].switched if len(parts) == 1 else np.concatenate([part.switched for part in parts])
        self._rotate(own, np.ascontiguousarray(switched), look_ups, base, targets)

    def _products(
        self, own: CpuKey, source: NDArray[np.uint64], before: Callable[[int, int], None]
    ) -> NDArray[np.uint64]:
        """Keyswitch rows of ``source``, each thread after ``before(begin, end)`` of its own; rows are padded."""
        kernel, parameters = own.kernel, own.parameters
        count, words = len(source), parameters.big_lwe_dimension
        per_group, tiles = kernel.tile.ciphertexts, len(own.tiles)
        rows, groups = words * parameters.ks_level, -(-count // per_group)
        digits = aligned((groups, rows // 2, per_group, 2), np.int16)
        sums = aligned((groups * per_group, tiles * kernel.tile.columns), np.uint64)

        def decompose(begin: int, end: int) -> None:
            first, last = begin * per_group, min(end * per_group, count)
            before(first, last)
            sums[first:last, parameters.lwe_dimension] = source[first:last, -1]
            kernel.keyswitch_digits(address(source[first:]), address(digits[begin:]), words, last - first)

        def multiply(begin: int, end: int) -> None:
            kernel.keyswitch_tiles(
                *(address(own.tiles), address(digits), address(sums)), *(begin, end, tiles, groups, rows)
            )

        self._spread(decompose, groups, max(1, -(-groups // self.threads)))
        self._spread(multiply, tiles, max(1, -(-tiles // (2 * self.threads))))
        return sums[:count]

    def _rotate(
        self,
        own: CpuKey,
        switched: NDArray[np.uint16],
        look_ups: LookUps,
        out: int,
        rows: NDArray[np.int64],
    ) -> None:
        """Bootstrap; every output is written to its row, counted from the address ``out`` on."""
        kernel, parameters = own.kernel, own.parameters
        polynomials = accumulator_polynomials(look_ups.tables, parameters)
        extractions = Extractions(look_ups.table, look_ups.tables, parameters)
        if len(rows) != extractions.count:
            raise InvalidInput("targets", f"must be {extractions.count}, one an output, got {len(rows)}")
        form, table = (np.ascontiguousarray(array, dtype=np.int32) for array in (look_ups.form, look_ups.table))
        bounds = np.array(batch_bounds(len(form), self.threads, self._batch(parameters)), dtype=np.int64)
        claimed = np.zeros(1, dtype=np.int64)
        batches, largest = len(bounds) - 1, int(np.diff(bounds).max())

        def run(_begin: int, _end: int) -> None:
            work = Workspace(kernel.shape, largest)
            kernel.bootstrap(
                *(address(switched), address(form), address(table), address(polynomials)),
                *(address(extractions.offsets), address(extractions.coefficient), address(extractions.added)),
                *(address(rows), out, address(own.spectra), address(kernel.twiddles)),
                *(work.accumulators, work.spectra, address(bounds), address(claimed)),
                *(parameters.lwe_dimension, batches),
            )

        self._spread(run, min(self.threads, batches), 1)

    @staticmethod
    def _batch(parameters: ClassicParameters) -> int:
        """Return how many accumulators fit beside two rows of the key in the second-level cache, at most ``BATCH``."""
        accumulator = 8 * parameters.polynomial_size
        return max(SMALLEST, min(BATCH, (second_level_cache() * 3 // 4) // accumulator - 8))

    def close(self) -> None:
        """Stop the threads; running tasks end first."""
        self._pool.shutdown()

    def _spread(self, task: Callable[[int, int], None], count: int, size: int) -> None:
        """Run ``task(begin, end)`` over ``[0, count)`` in pieces of ``size`` on all threads, and wait for all."""

        def timed(begin: int, end: int) -> None:
            started = time.thread_time()
            task(begin, end)
            thread = threading.get_ident()
            self._thread_seconds[thread] = self._thread_seconds.get(thread, 0.0) + time.thread_time() - started

        pieces = [(begin, min(begin + size, count)) for begin in range(0, count, size)]
        if len(pieces) == 1:
            timed(*pieces[0])
            return
        for future in [self._pool.submit(timed, *piece) for piece in pieces]:
            future.result()

    def _own(self, prepared: PreparedKey) -> CpuKey:
        if not isinstance(prepared, CpuKey) or prepared.kernel.isa != self.isa:
            raise InvalidInput("prepared", "was made by another executor")
        return prepared


def _check_shape(field: str, array: NDArray[np.uint64], shape: tuple[int, ...]) -> None:
    if array.shape != shape or array.dtype != np.uint64:
        raise InvalidInput(field, f"must be uint64 of shape {shape}, got {array.dtype} of {array.shape}")


def _check_rows(field: str, rows: NDArray[np.int32] | NDArray[np.int64], limit: int) -> None:
    if int(rows.min()) < 0 or int(rows.max()) >= limit:
        raise InvalidInput(field, f"must lie in [0, {limit})")


def _check_switched(switched: NDArray[np.uint16], parameters: ClassicParameters) -> None:
    width, limit = parameters.lwe_dimension + 1, 2 * parameters.polynomial_size
    if switched.ndim != 2 or switched.shape[1] != width or int(switched.max()) >= limit:
        raise InvalidInput("switched", f"must be of shape (F, {width}) with values below {limit}")


def _common_base(arrays: Sequence[NDArray[np.uint64]], width: int) -> tuple[int, list[int]]:
    """Return one address, and how many rows after it each array begins; the caller keeps the arrays alive."""
    for array in arrays:
        if array.ndim != 2 or array.shape[1] != width or array.dtype != np.uint64:
            raise InvalidInput("ciphertexts", f"must be uint64 of shape (S, {width}), got {array.shape}")
        if not array.flags.c_contiguous:
            raise InvalidInput("ciphertexts", "must lie in memory row by row")
    addresses = [address(array) for array in arrays]
    base, row = min(addresses), 8 * width
    if any((place - base) % row for place in addresses):
        raise InvalidInput("ciphertexts", "of several parts must lie whole rows apart")
    return base, [(place - base) // row for place in addresses]
