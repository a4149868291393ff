"""``coproc bench gpu``: rates of the device over batch sizes, and the transfer end to end, as one record.

Decides what is measured and where records go; the emulation can be measured to try the script, and says so.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

import click

from coproc.errors import IrrecoverableError
from coproc.tfhe.parameters import TOY_2_2, V1_5_2_2


@click.command("gpu")
@click.option("--largest", default=8192, show_default=True, help="Largest batch; sizes double from 1.")
@click.option("--repeats", default=3, show_default=True, help="Rounds; the median is reported.")
@click.option("--transfers", default=64, show_default=True, help="Transfers merged into one job.")
@click.option("--emulated", is_flag=True, help="Measure the emulation with toy parameters, to try the script.")
@click.option("--results", type=click.Path(path_type=Path, file_okay=False), default="benchmarks/results")
def bench_gpu(largest: int, repeats: int, transfers: int, results: Path, *, emulated: bool) -> None:
    """Measure keyswitch, bootstrap and transfers on the first GPU, and record them with its name and the date."""
    import numpy as np  # noqa: PLC0415 - heavy

    from coproc.circuits.merge import merge  # noqa: PLC0415 - heavy
    from coproc.circuits.strategy import Strategy  # noqa: PLC0415 - heavy
    from coproc.executors.bench import measure, random_key  # noqa: PLC0415 - heavy
    from coproc.executors.factory import create_device_executor  # noqa: PLC0415 - heavy
    from coproc.program.catalogue import transfer  # noqa: PLC0415 - heavy
    from coproc.program.lowering import lower  # noqa: PLC0415 - heavy

    name = "emulated" if emulated else "gpu"
    parameters = TOY_2_2 if emulated else V1_5_2_2
    try:
        executor = create_device_executor(name)
    except IrrecoverableError as error:
        raise click.ClickException(error.message) from error
    rng = np.random.default_rng(0)
    key = random_key(parameters, rng)
    rows: list[dict[str, float]] = []
    batch = 1
    while batch <= largest:
        figures = measure(executor, parameters, batch, repeats=repeats, key=key)
        rows.append(
            {
                "batch": batch,
                "keyswitch_per_second": batch / figures.keyswitch_seconds,
                "bootstrap_per_second": batch / figures.bootstrap_seconds,
                "both_per_second": batch / (figures.keyswitch_seconds + figures.bootstrap_seconds),
            }
        )
        click.echo("batch {batch}: {both_per_second:.1f} keyswitches and bootstraps a second".format(**rows[-1]))
        batch *= 2
    circuit = merge([lower(transfer(), Strategy.THROUGHPUT).circuit] * transfers)
    inputs = rng.integers(0, 1 << 64, (circuit.inputs, parameters.big_lwe_dimension + 1), dtype=np.uint64)
    prepared = executor.prepare(key)
    began = time.perf_counter()
    evaluation = executor.evaluate(prepared, circuit, inputs)
    evaluation.begin().result()
    while evaluation.levels_left:
        evaluation.run_level()
    evaluation.outputs()
    seconds = time.perf_counter() - began
    evaluation.close()
    now = datetime.now(UTC)
    record = {
        "device": executor.device_name,
        "date": now.date().isoformat(),
        "parameters": asdict(parameters),
        "batches": rows,
        "transfers": {"count": transfers, "seconds": seconds, "per_second": transfers / seconds},
    }
    results.mkdir(parents=True, exist_ok=True)
    target = results / f"{name}-{now:%Y%m%d-%H%M%S}.json"
    target.write_text(json.dumps(record, indent=2, default=str) + "\n")
    click.echo(f"{transfers} transfers in {seconds:.2f} s on {executor.device_name}; recorded in {target}")
