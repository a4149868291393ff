"""From the smallest step to whole bootstraps: each part of the kernels against exact or independent arithmetic."""

from __future__ import annotations

import shutil
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from coproc.circuits.circuit import LookUpTable
from coproc.executors import create_executor
from coproc.executors.base import ExecutorUnavailable
from coproc.executors.factory import create_device_executor
from coproc.executors.gpu import kernels
from coproc.executors.gpu.source import WARP
from coproc.executors.lwe import accumulator_polynomials, modulus_switch
from coproc.tfhe.parameters import TOY_2_2, V1_5_2_2
from tests.executors.toykeys import generate, random_key

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from coproc.executors.gpu import DeviceExecutor
    from coproc.executors.gpu.device import Device
    from coproc.tfhe.keys import EvaluationKey
    from tests.executors.toykeys import SecretKey

ONE_STEP = replace(V1_5_2_2, lwe_dimension=1)
"""One external product at full size, and next to no key."""


@pytest.fixture(
    scope="module",
    params=[
        pytest.param("emulated", marks=pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")),
        pytest.param("gpu", marks=pytest.mark.gpu),
    ],
)
def device(request: pytest.FixtureRequest) -> DeviceExecutor:
    try:
        return create_device_executor(request.param)
    except ExecutorUnavailable as error:
        pytest.skip(error.message)


@pytest.mark.parametrize("count", [3, 70])
def test_keyswitch_and_modulus_switch_are_exact(device: DeviceExecutor, toy_key: EvaluationKey, count: int) -> None:
    words = np.random.default_rng(40).integers(0, 1 << 64, (count, 513), dtype=np.uint64)
    words[0], words[1] = 0, 2**64 - 1
    reference = create_executor("reference")
    expected = reference.keyswitch(reference.prepare(toy_key), words)
    key = device.prepare(toy_key)
    assert np.array_equal(device.keyswitch(key, words), expected)
    found = np.empty((count, 33), dtype=np.uint16)

    def switch(opened: Device) -> None:
        switched = opened.empty((count, 33), np.uint16)
        kernels.modulus_switch(key, opened.upload(expected), switched, 0)
        opened.download(switched, found)

    device.owner.submit(switch).result()
    assert np.array_equal(found, modulus_switch(expected, TOY_2_2))


def test_the_transform_is_as_exact_as_doubles_allow(device: DeviceExecutor) -> None:
    made = random_key(ONE_STEP, seed=41)
    key = device.prepare(made)
    half = ONE_STEP.polynomial_size // 2
    found = np.empty((1, 2, 2, half), dtype=np.complex128)
    device.owner.submit(lambda opened: opened.download(key.spectra, found)).result()
    words = made.bootstrap_key.view(np.int64).astype(np.float64)[0, 0]
    folded = (words[..., :half] + 1j * words[..., half:]) * 2.0**-32 / half
    # Leaf b of the tree is the value at exp(2*pi*i * (1 + 4*reverse(b)) / (4*half)): a twist, then numpy's transform.
    twist = np.exp(2j * np.pi * np.arange(half) / (4 * half))
    bits = half.bit_length() - 1
    reverse = np.array([int(format(b, f"0{bits}b")[::-1], 2) for b in range(half)])
    leaves = (np.fft.ifft(folded * twist) * half)[..., reverse]
    expected = leaves.reshape(2, 2, WARP, half // WARP).swapaxes(-1, -2).reshape(2, 2, half)  # the kernels' order
    error = np.abs(found[0] - expected)
    assert float(np.sqrt((error**2).mean() / (np.abs(expected) ** 2).mean())) < 1e-15


def negacyclic(digits: NDArray[np.int64], words: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Multiply exactly modulo X^N + 1 and 2^64, by pieces of 16 bits whose sums fit."""
    size = len(digits)
    total = np.zeros(size, dtype=np.uint64)
    for shift in range(0, 64, 16):
        piece = ((words >> np.uint64(shift)) & np.uint64(0xFFFF)).astype(np.int64)
        long = np.convolve(digits, piece)
        long = np.concatenate([long, np.zeros(2 * size - len(long), dtype=np.int64)])
        total += (long[:size] - long[size:]).astype(np.uint64) << np.uint64(shift)
    return total


def test_one_external_product_against_integers(device: DeviceExecutor) -> None:
    made = random_key(ONE_STEP, seed=42)
    key = device.prepare(made)
    size = ONE_STEP.polynomial_size
    table = LookUpTable(values=tuple((7 * x + 1) % 32 for x in range(16)))
    rotation, body = 1234, 777
    switched = np.array([[rotation, body]], dtype=np.uint16)
    zero = np.zeros(1, dtype=np.int32)
    (result,) = device.bootstrap(key, switched, zero, zero, [table])

    polynomial = accumulator_polynomials([table], ONE_STEP)[0]

    def turned(words: NDArray[np.uint32], by: int) -> NDArray[np.uint32]:
        index = np.arange(size) - by
        signs = np.where((index // size) % 2 == 0, 1, -1).astype(np.int64)
        return (words[index % size].astype(np.int64) * signs).astype(np.uint32)

    accumulator = turned(polynomial, -body)
    change = turned(accumulator, rotation) - accumulator
    half = 1 << (31 - ONE_STEP.pbs_base_log)
    digits = ((change + np.uint32(half)).view(np.int32) >> (32 - ONE_STEP.pbs_base_log)).astype(np.int64)
    mask, product = (negacyclic(digits, made.bootstrap_key[0, 0, 1, column]) for column in (0, 1))
    exact = np.concatenate([mask[:1], -mask[:0:-1], product[:1] + (accumulator[:1].astype(np.uint64) << np.uint64(32))])
    error = (result - exact).view(np.int64).astype(np.float64) * 2.0**-64
    assert float(np.sqrt((error**2).mean())) < 2**-25.8
    assert float(np.abs(error).max()) < 2**-23


def decrypts(device: DeviceExecutor, pair: tuple[SecretKey, EvaluationKey]) -> float:
    """Bootstrap all messages with two look-up tables; check their values, and return log2 of the noise."""
    secret, made = pair
    rng = np.random.default_rng(43)
    tables = [
        LookUpTable(values=tuple(2 * ((5 * x + 3) % 16) for x in range(16))),
        LookUpTable(values=tuple(range(16))),
    ]
    messages = np.tile(np.arange(16), 2)
    table = np.repeat(np.arange(2), 16).astype(np.int32)
    key = device.prepare(made)
    small = device.keyswitch(key, secret.encrypt(messages, rng))
    rows = np.arange(len(messages), dtype=np.int32)
    result = device.bootstrap(key, modulus_switch(small, secret.parameters), rows, table, tables)
    values = np.array([each.values for each in tables])
    expected = values[table, messages]
    assert np.array_equal(secret.decrypt_half_steps(result), expected % 64)
    return float(np.log2(secret.noise(result, expected).std()))


def test_short_rotations_have_the_phases_of_the_reference(
    device: DeviceExecutor, toy_secret: SecretKey, toy_key: EvaluationKey
) -> None:
    words = toy_secret.encrypt(np.arange(16), np.random.default_rng(44))
    rows = np.arange(16, dtype=np.int32)
    phases: list[NDArray[np.uint64]] = []
    for executor in (device, create_executor("reference")):
        key = executor.prepare(toy_key)
        switched = modulus_switch(executor.keyswitch(key, words), TOY_2_2)
        fresh = executor.bootstrap(key, switched, rows, rows * 0, [LookUpTable(values=tuple(range(16)))])
        phases.append(toy_secret.phase(fresh))
    difference = (phases[0] - phases[1]).view(np.int64).astype(np.float64) * 2.0**-64
    assert float(difference.std()) < 2**-15


@pytest.mark.real
def test_full_rotations_decrypt_with_the_noise_of_theory(device: DeviceExecutor) -> None:
    assert -15.1 < decrypts(device, generate(V1_5_2_2, seed=45)) < -14.6
