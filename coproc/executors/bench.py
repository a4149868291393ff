"""How fast an executor is: keyswitches and bootstraps a second, and whole circuits.

Decides what is timed; prints nothing.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from coproc.circuits.circuit import LookUpTable
from coproc.errors import InvalidInput
from coproc.executors.evaluation import Evaluation
from coproc.executors.lwe import modulus_switch
from coproc.tfhe.keys import EvaluationKey

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from coproc.circuits.circuit import Circuit
    from coproc.executors.base import Executor, PreparedKey
    from coproc.tfhe.parameters import ClassicParameters

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Measurement:
    """Medians over the repeats, in seconds for a whole batch."""

    executor: str
    batch: int
    repeats: int
    prepare_seconds: float
    """Bringing the key into the executor's layout, once; contains compilation where there is any."""
    keyswitch_seconds: float
    modulus_switch_seconds: float
    bootstrap_seconds: float

    @property
    def seconds(self) -> float:
        """Keyswitch, modulus switch and bootstrap of a batch."""
        return self.keyswitch_seconds + self.modulus_switch_seconds + self.bootstrap_seconds

    @property
    def pbs_per_second(self) -> float:
        """Whole bootstraps a second: each with a keyswitch of its own."""
        return self.batch / self.seconds

    @property
    def milliseconds_per_pbs(self) -> float:
        """Inverse of the rate, over all threads together."""
        return 1e3 * self.seconds / self.batch


class BatchPasses:
    """Passes over one batch of independent ciphertexts; each returns its seconds."""

    def __init__(
        self,
        executor: Executor,
        prepared: PreparedKey,
        batch: int,
        *,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """Make random ciphertexts and one look-up table; ``clock`` is as in ``measure``.

        Raises:
            InvalidInput: ``batch`` is not positive.
        """
        if batch < 1:
            raise InvalidInput("batch", "must be at least 1")
        self._executor, self._key, self._clock = executor, prepared, clock
        parameters = prepared.parameters
        shape = (batch, parameters.big_lwe_dimension + 1)
        self._ciphertexts = np.random.default_rng(0).integers(0, 1 << 64, shape, dtype=np.uint64)
        self._tables = [LookUpTable(values=tuple(range(parameters.plaintext_modulus)))]
        self._form, self._which = np.arange(batch, dtype=np.int32), np.zeros(batch, dtype=np.int32)
        self._switched = modulus_switch(executor.keyswitch(prepared, self._ciphertexts), parameters)

    def keyswitch(self) -> float:
        """Keyswitch the batch."""
        return _timed(lambda: self._executor.keyswitch(self._key, self._ciphertexts), self._clock)[0]

    def bootstrap(self) -> float:
        """Bootstrap what was keyswitched before."""
        return _timed(lambda: self._bootstrap(self._switched), self._clock)[0]

    def both(self) -> float:
        """Keyswitch, modulus switch and bootstrap."""

        def run() -> None:
            small = self._executor.keyswitch(self._key, self._ciphertexts)
            self._bootstrap(modulus_switch(small, self._key.parameters))

        return _timed(run, self._clock)[0]

    def _bootstrap(self, switched: NDArray[np.uint16]) -> NDArray[np.uint64]:
        return self._executor.bootstrap(self._key, switched, self._form, self._which, self._tables)


class CircuitPasses:
    """Passes over one circuit, level by level as the service does it; each returns its seconds."""

    def __init__(
        self,
        executor: Executor,
        prepared: PreparedKey,
        circuit: Circuit,
        inputs: NDArray[np.uint64] | None = None,
    ) -> None:
        """Take inputs of shape ``(I, k*N+1)``, by default random ones, on which no executor runs faster or slower."""
        shape = (circuit.inputs, prepared.parameters.big_lwe_dimension + 1)
        rng = np.random.default_rng(0)
        self._inputs = rng.integers(0, 1 << 64, shape, dtype=np.uint64) if inputs is None else inputs
        self._executor, self._key, self._circuit = executor, prepared, circuit

    def run(self) -> float:
        """Pass from the inputs to the outputs."""
        return _timed(self.outputs, time.perf_counter)[0]

    def outputs(self) -> NDArray[np.uint64]:
        """Return the outputs, shape ``(O, k*N+1)``."""
        evaluation = Evaluation(self._executor, self._key, self._circuit, self._inputs)
        while evaluation.levels_left:
            evaluation.run_level()
        return evaluation.outputs()


def measure(
    executor: Executor,
    parameters: ClassicParameters,
    batch: int,
    *,
    repeats: int = 5,
    key: EvaluationKey | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> Measurement:
    """Time ``batch`` independent bootstraps after one unmeasured round.

    Args:
        executor: what to measure, with all its threads.
        parameters: the parameter set; ignored if a key is given.
        batch: bootstraps at once.
        repeats: rounds over which the median is taken.
        key: a real key; by default random words, on which no executor runs faster or slower.
        clock: what to time by; ``time.process_time`` does not count what else the machine does.

    Raises:
        InvalidInput: ``batch`` or ``repeats`` is not positive, or the executor does not support the parameters.
    """
    if batch < 1 or repeats < 1:
        raise InvalidInput("batch" if batch < 1 else "repeats", "must be at least 1")
    rng = np.random.default_rng(0)
    key = key or random_key(parameters, rng)
    parameters = key.parameters
    ciphertexts = rng.integers(0, 1 << 64, (batch, parameters.big_lwe_dimension + 1), dtype=np.uint64)
    table = LookUpTable(values=tuple(range(parameters.plaintext_modulus)))
    form, which = np.arange(batch, dtype=np.int32), np.zeros(batch, dtype=np.int32)
    prepare_seconds, prepared = _timed(lambda: executor.prepare(key), clock)
    rounds: list[tuple[float, float, float]] = []
    for _ in range(repeats + 1):
        keyswitch, small = _timed(lambda: executor.keyswitch(prepared, ciphertexts), clock)
        switch, switched = _timed(partial(modulus_switch, small, parameters), clock)
        rotate, _ = _timed(partial(executor.bootstrap, prepared, switched, form, which, [table]), clock)
        rounds.append((keyswitch, switch, rotate))
    keyswitches, switches, rotations = zip(*rounds[1:], strict=True)
    return Measurement(
        executor=executor.name,
        batch=batch,
        repeats=repeats,
        prepare_seconds=prepare_seconds,
        keyswitch_seconds=median(keyswitches),
        modulus_switch_seconds=median(switches),
        bootstrap_seconds=median(rotations),
    )


def _timed(work: Callable[[], T], clock: Callable[[], float]) -> tuple[float, T]:
    start = clock()
    result = work()
    return clock() - start, result


def random_key(parameters: ClassicParameters, rng: np.random.Generator) -> EvaluationKey:
    """Return a key of random words, on which no executor runs faster or slower."""
    n, k, size = parameters.lwe_dimension, parameters.glwe_dimension, parameters.polynomial_size
    keyswitch = (parameters.big_lwe_dimension, parameters.ks_level, n + 1)
    bootstrap = (n, parameters.pbs_level, k + 1, k + 1, size)
    return EvaluationKey(
        key_id=bytes(32),
        parameters=parameters,
        tag=b"",
        keyswitch_key=rng.integers(0, 1 << 64, keyswitch, dtype=np.uint64),
        bootstrap_key=rng.integers(0, 1 << 64, bootstrap, dtype=np.uint64),
    )
