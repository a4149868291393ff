"""One key on a device, and the launches that make up keyswitch, modulus switch and bootstrap.

Decides grids, waves and which of the two bootstrap kernels runs. Must not know jobs, threads or which device it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeVar

import numpy as np

from coproc.executors.gpu.device import DeviceOutOfMemory
from coproc.executors.gpu.source import LATENCY_THREADS, ROWS, WARP, KernelShape
from coproc.executors.lwe import Extractions, accumulator_polynomials

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from coproc.circuits.circuit import LookUpTable
    from coproc.executors.gpu.device import Device, DeviceArray, Module
    from coproc.executors.gpu.slab import Slots
    from coproc.tfhe.keys import EvaluationKey
    from coproc.tfhe.parameters import ClassicParameters

Word = TypeVar("Word", bound=np.generic)

WAVE: Final = 4096
"""Ciphertexts in one round of launches; bounds scratch memory to 100 MB."""
_THREADS: Final = 256
_WARPS: Final = 8
_BLOCKS_PER_PROCESSOR: Final = 4
_FEW_ROWS: Final = 64
_FEW_BLOCKS: Final = 2
"""Ciphertexts a multiprocessor up to which the latency kernel is the faster one."""
_FULL_BLOCKS: Final = 4
"""Ciphertexts that fill a multiprocessor."""
_SLAB_SHARE: Final = 0.5
_MOST_ROWS: Final = 1 << 19


@dataclass(frozen=True, slots=True, eq=False)
class DeviceKey:
    """An evaluation key in the layout of the kernels, with the slab of ciphertexts under it."""

    parameters: ClassicParameters
    key_id: bytes
    shape: KernelShape
    module: Module
    keyswitch_key: DeviceArray
    """uint32 ``(column groups, steps, pairs of planes, 32, 4)``: bytes of the words in the order of matrix units."""
    spectra: DeviceArray
    """complex128 ``(n, 2, 2, N/2)``: step, row, column, point in the kernels' order."""
    twiddles: DeviceArray
    latency_twiddles: DeviceArray
    slab: DeviceArray
    """uint64 ``(rows, N+1)``."""
    slots: Slots

    @property
    def words(self) -> int:
        """Words of a big ciphertext."""
        return self.parameters.big_lwe_dimension + 1

    @property
    def small_words(self) -> int:
        """Words of a small ciphertext."""
        return self.parameters.lwe_dimension + 1


def load_key(device: Device, key: EvaluationKey, make_slots: Callable[[int], Slots]) -> DeviceKey:
    """Upload a key, transform its bootstrap key, and set a slab aside.

    Raises:
        InvalidInput: the parameters are not supported.
        DeviceFailure: see ``Device``.
    """
    parameters = key.parameters
    shape = KernelShape.of(parameters, device.shared_bytes)
    module = device.compile(shape.definitions)
    n, size = parameters.lwe_dimension, parameters.polynomial_size
    twiddles, latency = (device.upload(shape.twiddles(threads)) for threads in (WARP, LATENCY_THREADS))
    spectra = device.empty((n, 2, 2, size // 2), np.complex128)
    source = device.upload(np.ascontiguousarray(key.bootstrap_key).reshape(-1, size))
    shared = shape.twiddle_bytes(WARP) + shape.exchange_bytes(WARP)
    module.launch("transform_key", (4 * n,), WARP, (source, spectra, twiddles), shared)
    words = device.upload(np.ascontiguousarray(key.keyswitch_key))
    steps, groups = shape.keyswitch_steps, shape.column_groups
    planes = device.empty((groups, steps, 4, WARP, 4), np.uint32)
    module.launch("split_key", (steps // _WARPS, groups), _THREADS, (words, planes))
    device.synchronize()
    rows = max(1, min(_MOST_ROWS, int(_SLAB_SHARE * device.free_bytes()) // (8 * (size + 1))))
    while True:
        try:
            slab = device.zeros((rows, size + 1), np.uint64)
            break
        except DeviceOutOfMemory:
            if rows < WARP:
                raise
            rows //= 2
    return DeviceKey(
        parameters=parameters,
        key_id=key.key_id,
        shape=shape,
        module=module,
        keyswitch_key=planes,
        spectra=spectra,
        twiddles=twiddles,
        latency_twiddles=latency,
        slab=slab,
        slots=make_slots(rows),
    )


def in_waves(count: int, run: Callable[[int, int], None], wave: int = WAVE) -> None:
    """Call ``run(begin, end)`` over ``[0, count)``; where memory runs out, go on in waves of half the size.

    Raises:
        DeviceOutOfMemory: not even one ciphertext fits.
    """
    begin = 0
    while begin < count:
        end = min(begin + wave, count)
        try:
            run(begin, end)
        except DeviceOutOfMemory:
            if end - begin == 1:
                raise
            wave = (end - begin) // 2
            continue
        begin = end


def place(device: Device, key: DeviceKey, ciphertexts: NDArray[np.uint64], rows: NDArray[np.int32]) -> None:
    """Copy ciphertexts, shape ``(B, N+1)``, from the host to rows of the slab."""

    def run(begin: int, end: int) -> None:
        arguments = (device.upload(ciphertexts[begin:end]), device.upload(rows[begin:end]), key.slab)
        key.module.launch("place_rows", (_blocks(key.words), end - begin), _THREADS, arguments)

    in_waves(len(rows), run)


def linear_forms(
    device: Device,
    key: DeviceKey,
    offsets: NDArray[np.int32],
    rows: NDArray[np.int32],
    coefficients: NDArray[np.int64],
    constants: NDArray[np.uint64],
) -> DeviceArray:
    """Evaluate forms of slab rows; returns uint64 ``(F, N+1)``."""
    count = len(constants)
    result = device.empty((count, key.words), np.uint64)
    arrays = tuple(device.upload(array) for array in (offsets, _not_empty(rows), _not_empty(coefficients), constants))
    key.module.launch("linear_forms", (_blocks(key.words), count), _THREADS, (key.slab, *arrays, result))
    return result


def keyswitch(device: Device, key: DeviceKey, ciphertexts: DeviceArray) -> DeviceArray:
    """Keyswitch uint64 ``(F, N+1)``; returns uint64 ``(F, n+1)``."""
    count = ciphertexts.shape[0]
    shape = key.shape
    tiles = -(-count // ROWS)
    digits = device.empty((tiles, shape.keyswitch_steps, WARP, 4), np.uint32)
    key.module.launch("decompose", (shape.keyswitch_steps // _WARPS, tiles), _THREADS, (ciphertexts, digits, count))
    result = device.zeros((count, key.small_words), np.uint64)
    few = count <= _FEW_ROWS
    rows, of_a_block = (1, 1) if few else (4, 2)
    blocks = -(-shape.column_groups * of_a_block // _WARPS), -(-tiles // (rows * of_a_block))
    slices = max(
        1, min(shape.keyswitch_steps // 4, device.processors * _BLOCKS_PER_PROCESSOR // (blocks[0] * blocks[1]))
    )
    arguments = (ciphertexts, digits, key.keyswitch_key, result, count)
    key.module.launch("keyswitch_latency" if few else "keyswitch", (*blocks, slices), _THREADS, arguments)
    return result


def modulus_switch(key: DeviceKey, small: DeviceArray, switched: DeviceArray, first: int) -> None:
    """Round uint64 ``(F, n+1)`` to uint16 in ``[0, 2N)``, into rows ``first`` and on of ``switched``."""
    key.module.launch("modulus_switch", (small.shape[0],), WARP, (small, switched, first))


def bootstrap(
    device: Device,
    key: DeviceKey,
    switched: DeviceArray,
    form: NDArray[np.int32],
    table: NDArray[np.int32],
    tables: Sequence[LookUpTable],
    target: DeviceArray,
    rows: NDArray[np.int32],
) -> None:
    """Bootstrap row ``form[i]`` of ``switched`` with ``table[i]``, output ``o`` to row ``rows[o]`` of ``target``."""
    polynomials = device.upload(accumulator_polynomials(tables, key.parameters))
    extractions = Extractions(table, tables, key.parameters)

    def run(begin: int, end: int) -> None:
        outputs = slice(int(extractions.offsets[begin]), int(extractions.offsets[end]))
        count = end - begin
        few = count <= _FEW_BLOCKS * device.processors
        threads, per_block = (LATENCY_THREADS, 1) if few else (WARP, key.shape.ciphertexts)
        arguments = (
            switched,
            device.upload(form[begin:end]),
            device.upload(table[begin:end]),
            polynomials,
            key.spectra,
            key.latency_twiddles if few else key.twiddles,
            device.upload((extractions.offsets[begin : end + 1] - outputs.start).astype(np.int32)),
            device.upload(_not_empty(extractions.coefficient[outputs].astype(np.int32))),
            device.upload(_not_empty(extractions.added[outputs])),
            device.upload(_not_empty(rows[outputs])),
            target,
            count,
        )
        kernel = "bootstrap_latency" if few else "bootstrap"
        shared = key.shape.bootstrap_bytes(threads, per_block)
        key.module.launch(kernel, (-(-count // per_block),), 2 * threads * per_block, arguments, shared)

    wave = _FULL_BLOCKS * device.processors
    full = len(form) // wave * wave if wave else 0
    in_waves(full, run, full)  # what is left over may be few
    in_waves(len(form) - full, lambda begin, end: run(full + begin, full + end), len(form))


def _blocks(words: int) -> int:
    return -(-words // _THREADS)


def _not_empty(array: NDArray[Word]) -> NDArray[Word]:
    """Devices have no arrays without elements."""
    return array if len(array) else np.zeros(1, dtype=array.dtype)
