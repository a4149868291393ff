"""``coproc bench gpu``: a device's rates over batch sizes, 64-bit operations, and transfers end to end.

Decides what is measured; the emulation can be measured to try the command, and says so.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Final

import click

from coproc.cli.measuring import LIMITS, Figure, Record, figure, new_record, rate, recorded
from coproc.errors import IrrecoverableError
from coproc.tfhe.parameters import TOY_2_2, V1_5_2_2

if TYPE_CHECKING:
    from coproc.circuits.circuit import Circuit

OPERATIONS: Final = ("add", "sub", "mul", "eq", "lt", "min", "if_then_else", "bit_and", "shl", "div")
"""What `--operations` measures at 64 bits."""
FULL: Final = 1056
"""Bootstraps of a level that fill a large device twice."""
MOST_BOOTSTRAPS: Final = 100_000
"""In one job."""


@click.command("gpu")
@click.option("--largest", default=8192, show_default=True, help="Largest batch; sizes double from 1.")
@click.option("--passes", default=3, show_default=True, help="Passes; the median is reported.")
@click.option("--transfers", default=256, show_default=True, help="Transfers merged into one job.")
@click.option("--jobs", default=8, show_default=True, help="Such jobs, four beside each other.")
@click.option("--operations/--no-operations", default=True, help="Measure 64-bit operations, too.")
@click.option("--emulated", is_flag=True, help="Measure the emulation with toy parameters, to try the command.")
@recorded
def bench_gpu(largest: int, passes: int, transfers: int, jobs: int, *, operations: bool, emulated: bool) -> Record:
    """Measure keyswitches, bootstraps, operations and transfers on the first GPU."""
    import numpy as np  # noqa: PLC0415 - heavy

    from coproc.circuits.merge import merge  # noqa: PLC0415 - heavy
    from coproc.circuits.strategy import Strategy  # noqa: PLC0415 - heavy
    from coproc.executors.bench import random_key  # noqa: PLC0415 - heavy
    from coproc.executors.factory import create_device_executor  # noqa: PLC0415 - heavy
    from coproc.executors.gpu.bench import limits, time_batches, time_circuit  # noqa: PLC0415 - heavy
    from coproc.program.catalogue import operation_graph, transfer  # noqa: PLC0415 - heavy
    from coproc.program.planning import lower_cached  # noqa: PLC0415 - heavy
    from coproc.program.types import FheType  # noqa: PLC0415 - heavy

    parameters = TOY_2_2 if emulated else V1_5_2_2
    try:
        executor = create_device_executor("emulated" if emulated else "gpu")
    except IrrecoverableError as error:
        raise click.ClickException(error.message) from error
    key = executor.prepare(random_key(parameters, np.random.default_rng(0)))
    device = executor.owner.device
    sizes = [1 << power for power in range(largest.bit_length())]
    figures: list[Figure] = []
    for times in time_batches(executor, key, sizes, passes=passes, seconds=0 if emulated else 0.03):
        for name, seconds in (("keyswitch", times.keyswitch), ("bootstrap", times.bootstrap), ("both", times.both)):
            figures.append(rate(f"{name}, batch {times.batch}", seconds, times.batch))

    def once(circuit: Circuit) -> list[float]:
        return [time_circuit(executor, key, circuit) for _ in range(passes)]

    graphs = {f"{name} 64": operation_graph(name, FheType.UINT64) for name in OPERATIONS} if operations else {}
    for name, graph in ({"transfer": transfer()} | graphs).items():
        quick = lower_cached(graph, Strategy.LATENCY).circuit
        figures.append(figure(f"{name}, alone", "ms", [1e3 * seconds for seconds in once(quick)]))
        cheap = lower_cached(graph, Strategy.THROUGHPUT).circuit
        filled = min(FULL * cheap.depth, MOST_BOOTSTRAPS)
        copies = transfers if name == "transfer" else -(-filled // cheap.bootstraps)
        many = merge([cheap] * copies)
        together = jobs if name == "transfer" else 1
        took = [time_circuit(executor, key, many, jobs=together, beside=4) for _ in range(passes)]
        figures.append(rate(f"{name}, many", took, copies * together))
    speed = device.speed
    ceiling = limits(parameters.lwe_dimension, device.processors, speed) if speed is not None else None
    settings: dict[str, object] = {
        "device": device.name,
        "parameters": "toy" if emulated else "V1_5 2_2",
        "transfers": transfers,
        "jobs": jobs,
    }
    details = {
        "processors": device.processors,
        "speed": None if speed is None else asdict(speed),
        LIMITS: None if ceiling is None else asdict(ceiling),
    }
    return new_record("emulated" if emulated else "gpu", settings, figures, details)
