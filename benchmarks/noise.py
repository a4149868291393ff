"""Measure the noise of look-up inputs on real ciphertexts, against the model that the noise budget rests on.

Run it with ``.venv/bin/python benchmarks/noise.py``; it takes a few minutes and writes ``benchmarks/noise.json``.

Fresh wires are bootstrapped with the parameters of production. Linear forms of them with sums of squared coefficients
1, 25 and 35 are measured with the secret key at three places: as they are, after the keyswitch, and after the modulus
switch. Wires are reused in several forms (drawn by permutations), which leaves the samples of a variance all but
independent. The standard error of a variance of ``m`` samples is ``sqrt(2/m)``, 1 % for 20,000.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click
import numpy as np

from coproc.circuits.circuit import LookUpTable
from coproc.executors import create_executor
from coproc.executors.lwe import modulus_switch
from coproc.tfhe.ciphertext import trivial_blocks
from coproc.tfhe.client import ClientKey
from coproc.tfhe.lwe import phases
from coproc.tfhe.noise import noise_model
from coproc.tfhe.parameters import V1_5_2_2
from coproc.tfhe.server_key import load_server_key

if TYPE_CHECKING:
    from numpy.typing import NDArray

WIRES = 20_000
SAMPLES = 20_000
BATCH = 500
FORMS = {1: (1,), 25: (4, 3), 35: (5, 3, 1)}
TURN = 2.0**64


def variance(errors: NDArray[np.float64]) -> float:
    """Variance in torus units squared, around the mean."""
    return float(np.var(errors))


def measure(wires_count: int, samples: int) -> dict[str, object]:
    """Bootstrap, combine, keyswitch, switch, and compare."""
    parameters = V1_5_2_2
    client_key = ClientKey.generate(parameters)
    big, small = client_key.glwe_key.reshape(-1), client_key.small_key
    executor = create_executor("cpu")
    key = executor.prepare(load_server_key(client_key.compressed_server_key()))
    rng = np.random.default_rng()
    digits = rng.integers(0, 4, wires_count)
    inputs = np.concatenate([trivial_blocks(digit, 1, parameters) for digit in range(4)])
    # Uniform masks: zero would make every blind rotation the same.
    mask = rng.integers(0, 1 << 64, (wires_count, len(big)), dtype=np.uint64)
    fresh = np.column_stack([mask, inputs[digits, -1] + mask @ big])
    del mask
    table = LookUpTable(values=tuple(2 * (x % 4) for x in range(16)))
    wires = np.empty_like(fresh)
    for start in range(0, wires_count, BATCH):
        part = fresh[start : start + BATCH]
        switched = modulus_switch(executor.keyswitch(key, part), parameters)
        rows = np.arange(len(part), dtype=np.int32)
        wires[start : start + BATCH] = executor.bootstrap(key, switched, rows, 0 * rows, [table])
        click.echo(f"\r{start + len(part)} of {wires_count} bootstraps", nl=False, err=True)
    click.echo(err=True)
    model = noise_model(parameters)
    report: dict[str, object] = {}
    size = 2 * parameters.polynomial_size
    for squared, coefficients in FORMS.items():
        found: dict[str, list[NDArray[np.float64]]] = {"form": [], "keyswitched": [], "switched": []}
        done = 0
        while done < samples:
            order = rng.permutation(wires_count)[: wires_count // len(coefficients) * len(coefficients)]
            for group in np.array_split(order.reshape(-1, len(coefficients)), 20):
                weights = np.array(coefficients, dtype=np.int64) * rng.choice([-1, 1], (len(group), len(coefficients)))
                forms = (wires[group] * weights.astype(np.uint64)[..., np.newaxis]).sum(axis=1, dtype=np.uint64)
                value = (digits[group] * weights).sum(axis=1)
                exact = value.astype(np.uint64) << np.uint64(parameters.delta_log2)
                found["form"].append((phases(forms, big) - exact).view(np.int64) / TURN)
                keyswitched = executor.keyswitch(key, forms)
                found["keyswitched"].append((phases(keyswitched, small) - exact).view(np.int64) / TURN)
                positions = modulus_switch(keyswitched, parameters).astype(np.int64)
                phase = positions[:, -1] - positions[:, :-1] @ small.astype(np.int64)
                off = (phase - value * (size // 32) + size // 2) % size - size // 2
                found["switched"].append(off / size)
                done += len(group)
        errors = {name: np.concatenate(parts) for name, parts in found.items()}
        expected = {
            "form": squared * model.bootstrap,
            "keyswitched": squared * model.bootstrap + model.keyswitch,
            "switched": model.before_look_up(squared),
        }
        report[str(squared)] = {
            "coefficients": coefficients,
            "samples": done,
            **{
                name: {
                    "variance": variance(errors[name]),
                    "model": expected[name],
                    "ratio": variance(errors[name]) / expected[name],
                    "mean": float(errors[name].mean()),
                }
                for name in expected
            },
            "log2_failure_of_the_model": model.log2_failure(squared),
        }
    return {"parameters": "V1_5 2_2", "wires": wires_count, "executor": "cpu", "forms": report}


if __name__ == "__main__":
    result = measure(WIRES, SAMPLES)
    (Path(__file__).parent / "noise.json").write_text(json.dumps(result, indent=2) + "\n")
    click.echo(json.dumps(result, indent=2))
