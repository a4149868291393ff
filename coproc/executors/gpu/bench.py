"""How fast a device is: kernels by themselves, and circuits with their ciphertexts kept on the device.

Decides what is timed and how long; prints nothing. Times are taken by the host around work that the device was given
at once, so that launches overlap as they do in the service.
"""

from __future__ import annotations

import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from coproc.circuits.circuit import LookUpTable
from coproc.executors.gpu import kernels
from coproc.executors.gpu.owner import MOST_UNDER_WAY

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from concurrent.futures import Future

    from coproc.circuits.circuit import Circuit
    from coproc.executors.gpu.device import Device, Speed
    from coproc.executors.gpu.executor import DeviceExecutor
    from coproc.executors.gpu.kernels import DeviceKey

SECONDS: Final = 0.03
"""A pass repeats short work until it takes so long."""


@dataclass(frozen=True, slots=True)
class BatchTimes:
    """Seconds that a device takes for one batch, ciphertexts being there: one value for every pass."""

    batch: int
    keyswitch: list[float]
    bootstrap: list[float]
    both: list[float]
    """Keyswitch, modulus switch and bootstrap after one another."""


def time_batches(
    executor: DeviceExecutor, key: DeviceKey, batches: Sequence[int], *, passes: int = 5, seconds: float = SECONDS
) -> list[BatchTimes]:
    """Time keyswitch and bootstrap of every batch size, with two look-up tables in turn."""
    return executor.owner.submit(
        lambda device: [_batch(device, key, size, passes, seconds) for size in batches]
    ).result()


def _batch(device: Device, key: DeviceKey, size: int, passes: int, seconds: float) -> BatchTimes:
    rng = np.random.default_rng(size)
    boxes = key.parameters.plaintext_modulus
    tables = [LookUpTable(values=tuple(range(boxes))), LookUpTable(values=tuple(range(boxes, 0, -1)))]
    ciphertexts = device.upload(rng.integers(0, 1 << 64, (size, key.words), dtype=np.uint64))
    switched = device.empty((size, key.small_words), np.uint16)
    target = device.empty((size, key.words), np.uint64)
    rows = np.arange(size, dtype=np.int32)

    def switch() -> None:
        kernels.modulus_switch(key, kernels.keyswitch(device, key, ciphertexts), switched, 0)

    def rotate() -> None:
        kernels.bootstrap(device, key, switched, rows, rows % 2, tables, target, rows)

    def both() -> None:
        switch()
        rotate()

    both()
    timed = [_seconds_of(device, work, passes, seconds) for work in (switch, rotate, both)]
    return BatchTimes(size, *timed)


def _seconds_of(device: Device, work: Callable[[], None], passes: int, seconds: float) -> list[float]:
    device.synchronize()
    began = time.perf_counter()
    work()
    device.synchronize()
    repeats = max(1, round(seconds / max(time.perf_counter() - began, 1e-9)))
    times: list[float] = []
    for _ in range(passes):
        began = time.perf_counter()
        for _ in range(repeats):
            work()
        device.synchronize()
        times.append((time.perf_counter() - began) / repeats)
    return times


def time_circuit(
    executor: DeviceExecutor, key: DeviceKey, circuit: Circuit, *, jobs: int = 1, beside: int = 1
) -> float:
    """Return the seconds in which ``jobs`` jobs of a circuit run, ``beside`` at a time, inputs and outputs copied.

    The jobs get the device level by level, as from the service.
    """
    inputs = np.random.default_rng(0).integers(0, 1 << 64, (circuit.inputs, key.words), dtype=np.uint64)

    def run(_job: int) -> None:
        evaluation = executor.evaluate(key, circuit, inputs)
        evaluation.begin().result()
        levels: deque[Future[None]] = deque()
        for _level in circuit.levels:
            while evaluation.levels_left and len(levels) <= MOST_UNDER_WAY:
                levels.append(evaluation.begin_level())
            levels.popleft().result()
        evaluation.outputs()
        evaluation.close()

    with ThreadPoolExecutor(beside) as pool:
        began = time.perf_counter()
        list(pool.map(run, range(jobs)))
        return time.perf_counter() - began


@dataclass(frozen=True, slots=True)
class Limits:
    """Bootstraps a second at which one part of a device would be busy all the time, at its highest clock."""

    fp64: float
    """The double-precision units."""
    l1: float
    """The path to shared memory and first cache, one wavefront of 128 bytes a cycle."""
    l2: float | None
    """The way of the key from the second cache, if no two ciphertexts shared it; None where its width is unknown."""


FP64_INSTRUCTIONS: Final = 2496
"""Of a warp in one step of the throughput kernel at N = 2048, as compiled."""
L1_WAVEFRONTS: Final = 1409
"""Likewise: shared memory, key and what else is loaded or stored."""
KEY_BYTES: Final = 4 * 1024 * 16
"""Of one step."""
FP64_LANES: Final = {(8, 0): 32, (9, 0): 64, (10, 0): 64}
"""Double-precision units of a multiprocessor, by compute capability."""
L2_BYTES: Final = {(9, 0): 5.5e12}
"""Bytes a second that all multiprocessors together get from the second cache: published measurements, not NVIDIA's."""


def limits(lwe_dimension: int, processors: int, speed: Speed) -> Limits | None:
    """Return the limits for ``N = 2048``, or None for devices that are not known."""
    lanes, width = FP64_LANES.get(speed.capability), L2_BYTES.get(speed.capability)
    if lanes is None:
        return None
    steps = processors * speed.hertz / (2 * lwe_dimension)  # of one warp of a ciphertext, a second
    return Limits(
        fp64=steps * lanes / 32 / FP64_INSTRUCTIONS,
        l1=steps / L1_WAVEFRONTS,
        l2=None if width is None else width / (KEY_BYTES * lwe_dimension),
    )
