"""coproc's side of a comparison: the same operations on the same values, under a real key, on the ``cpu`` executor.

Decides how coproc does a piece of work: alone as the service does it on an idle machine, many as it does them when work
queues. It must not know any peer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from coproc.cli.bench_circuits import latency_case, throughput_case
from coproc.executors import create_executor
from coproc.executors.bench import BatchPasses, CircuitPasses
from coproc.program.lowering import LoweredInput
from coproc.tfhe.ciphertext import CiphertextKind, read_ciphertext
from coproc.tfhe.client import ClientKey
from coproc.tfhe.lwe import decode, phases
from coproc.tfhe.server_key import load_server_key

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from coproc.cli.bench_circuits import Case
    from coproc.executors.base import Executor, PreparedKey
    from coproc.program.types import FheType
    from coproc.program.wordgraph import WordGraph
    from coproc.tfhe.parameters import ClassicParameters


class Ours:
    """A real key in the layout of executors of several numbers of threads."""

    def __init__(self, parameters: ClassicParameters, thread_counts: Sequence[int]) -> None:
        """Make keys, and compile the kernel."""
        self.key: Final = ClientKey.generate(parameters)
        evaluation = load_server_key(self.key.compressed_server_key())
        self._executors: dict[int, tuple[Executor, PreparedKey]] = {}
        for threads in thread_counts:
            executor = create_executor("cpu", threads=threads)
            self._executors[threads] = executor, executor.prepare(evaluation)

    def bootstraps(self, batch: int, threads: int) -> BatchPasses:
        """Make a batch of independent keyswitches with bootstraps."""
        return BatchPasses(*self._executors[threads], batch)

    def alone(self, graph: WordGraph, operands: Sequence[int], threads: int) -> Job:
        """Make one instance, as an idle machine does it."""
        return self._job(graph, latency_case(graph, threads), [operands], threads)

    def many(self, graph: WordGraph, operands: Sequence[Sequence[int]], threads: int, most_bootstraps: int) -> Job:
        """Make as many instances as fill the lanes, their operands from ``operands`` by turns."""
        case = throughput_case(graph, threads, most_bootstraps)
        return self._job(graph, case, [operands[copy % len(operands)] for copy in range(case.copies)], threads)

    def _job(self, graph: WordGraph, case: Case, operands: Sequence[Sequence[int]], threads: int) -> Job:
        rows: list[NDArray[np.uint64]] = []
        rng = np.random.default_rng()
        for values in operands:
            blocks = [self._encrypt(value, source.type) for value, source in zip(values, graph.inputs, strict=True)]
            for wire in case.lowered.inputs:
                if isinstance(wire, LoweredInput):
                    rows.append(blocks[wire.number][wire.block])
                else:  # from a public seed: uniform words do as well
                    rows.append(rng.integers(0, 1 << 64, self.key.parameters.big_lwe_dimension + 1, dtype=np.uint64))
        inputs = np.stack(rows) if rows else None
        return Job(self.key, case, CircuitPasses(*self._executors[threads], case.circuit, inputs))

    def _encrypt(self, value: int, fhe_type: FheType) -> NDArray[np.uint64]:
        if fhe_type.bits == 1:
            data, kind = self.key.encrypt_bool(bool(value)), CiphertextKind.BOOL
        else:
            data, kind = self.key.encrypt(value, fhe_type.bits), CiphertextKind.UINT
        return read_ciphertext(data, self.key.parameters, kind, fhe_type.bits)


class Job:
    """Independent instances of one circuit, with their operands."""

    def __init__(self, key: ClientKey, case: Case, passes: CircuitPasses) -> None:
        self._key, self._passes = key, passes
        self.case: Final = case

    def run(self) -> float:
        """Make one pass over all instances; returns its seconds."""
        return self._passes.run()

    def values(self) -> list[list[int]]:
        """Run, and decrypt the results of every instance as unsigned numbers."""
        parameters = self._key.parameters
        phase = phases(self._passes.outputs(), self._key.glwe_key.reshape(-1))
        digits = (decode(phase, parameters.delta_log2) % np.uint64(parameters.message_modulus)).tolist()
        each = self.case.lowered.circuit.outputs.count
        return [
            [
                sum(int(digit) << (2 * place) for place, digit in enumerate(digits[start:][: output.blocks]))
                for output in self.case.lowered.outputs
                for start in [copy * each + output.first]
            ]
            for copy in range(self.case.copies)
        ]
