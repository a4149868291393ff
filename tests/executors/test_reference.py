"""The reference executor decrypts right, with the noise that theory says."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from coproc.errors import InvalidInput
from coproc.executors.lwe import gadget_digits, modulus_switch
from coproc.executors.reference import ReferenceExecutor, forward_transform, inverse_transform
from coproc.tfhe.parameters import TOY_2_2, V1_5_2_2, ModulusSwitch
from tests.executors.circuits import lookup
from tests.executors.toykeys import random_key

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from coproc.tfhe.keys import EvaluationKey
    from tests.executors.toykeys import SecretKey


def test_all_values_through_all_kinds_of_tables(toy_secret: SecretKey, toy_key: EvaluationKey) -> None:
    executor = ReferenceExecutor()
    prepared = executor.prepare(toy_key)
    values = np.arange(16)
    tables = [lookup([(5 * x + 3) % 16 for x in range(16)]), lookup([x // 4 for x in range(16)])]
    ciphertexts = toy_secret.encrypt(values, np.random.default_rng(5))
    switched = modulus_switch(executor.keyswitch(prepared, ciphertexts), TOY_2_2)
    form, table = np.repeat(values, 2).astype(np.int32), np.tile([0, 1], 16).astype(np.int32)
    result = executor.bootstrap(prepared, switched, form, table, tables)
    expected = np.array([entry.values for entry in tables])[table, form]
    assert np.array_equal(toy_secret.decrypt_half_steps(result), expected)
    noise = np.log2(toy_secret.noise(result, expected).std())
    # 64 rows of digits of 2^22.2 times errors of 2^17 and of 2^9 in the accumulator's low bits
    assert -20 < noise < -16


def test_keyswitch_decomposes_and_recombines_exactly(toy_secret: SecretKey, toy_key: EvaluationKey) -> None:
    executor = ReferenceExecutor()
    prepared = executor.prepare(toy_key)
    ciphertexts = toy_secret.encrypt(np.arange(16), np.random.default_rng(6))
    small = executor.keyswitch(prepared, ciphertexts)
    assert np.array_equal(toy_secret.decrypt_half_steps(small), 2 * np.arange(16))
    words, level, base_log = ciphertexts[0, :-1], TOY_2_2.ks_level, TOY_2_2.ks_base_log
    digits = gadget_digits(words, base_log, level)
    assert np.abs(digits).max() <= 1 << (base_log - 1)
    weights = np.array([1 << (64 - base_log * (level - index)) for index in range(level)], dtype=np.uint64)
    error = (digits.astype(np.uint64) @ weights - words).view(np.int64)
    assert np.abs(error).max() <= 1 << (63 - base_log * level)
    # one word by plain Python integers
    expected = [int(ciphertexts[0, -1]) if column == TOY_2_2.lwe_dimension else 0 for column in range(33)]
    for row, row_digits in zip(toy_key.keyswitch_key.tolist(), digits.tolist(), strict=True):
        for key, digit in zip(row, row_digits, strict=True):
            expected = [(x - digit * y) % (1 << 64) for x, y in zip(expected, key, strict=True)]
    assert small[0].tolist() == expected


@pytest.mark.parametrize("kind", [ModulusSwitch.STANDARD, ModulusSwitch.CENTERED_MEAN])
def test_modulus_switch_follows_the_formula_in_exact_integers(kind: ModulusSwitch) -> None:
    parameters = replace(V1_5_2_2, modulus_switch=kind)
    words = np.random.default_rng(7).integers(0, 1 << 64, (20, 919), dtype=np.uint64)
    words[0] = 1 << 51  # a tie in every word
    words[1] = (1 << 64) - 1
    switched = modulus_switch(words, parameters)
    for row, result in zip(words.tolist(), switched.tolist(), strict=True):
        rounded = [((word >> 51) + 1) >> 1 for word in row]
        halves, lost = 0, 0
        for word, case in zip(row[:-1], rounded, strict=False):
            error = (case << 52) - word
            half = abs(error) // 2 * (1 if error > 0 else -1)
            halves += half
            lost += 2 * half - error
        body = row[-1]
        if kind is ModulusSwitch.CENTERED_MEAN:
            truncated = abs(lost) // 2 * (1 if lost > 0 else -1)
            body = (body + halves - truncated - (1 << 51)) % (1 << 64)
        expected = [case % 4096 for case in rounded[:-1]] + [(((body >> 51) + 1) >> 1) % 4096]
        assert result == expected


def test_centred_mean_makes_the_switching_error_smaller() -> None:
    rng = np.random.default_rng(8)
    words = rng.integers(0, 1 << 64, (4000, 919), dtype=np.uint64)
    key = rng.integers(0, 2, 918, dtype=np.uint64)
    words[:, -1] = (words[:, :-1] * key).sum(axis=1)  # encryptions of zero without noise
    spread = {}
    for kind in (ModulusSwitch.STANDARD, ModulusSwitch.CENTERED_MEAN):
        switched = modulus_switch(words, replace(V1_5_2_2, modulus_switch=kind)).astype(np.int64)
        phase: NDArray[np.int64] = (switched[:, -1] - (switched[:, :-1] * key.astype(np.int64)).sum(axis=1)) + 2048
        spread[kind] = float(np.std(phase % 4096 - 2048))
    assert spread[ModulusSwitch.STANDARD] == pytest.approx(6.2, abs=0.3)
    assert spread[ModulusSwitch.CENTERED_MEAN] == pytest.approx(4.4, abs=0.25)


def test_transforms_multiply_modulo_x_to_the_n_plus_one() -> None:
    left, right = np.zeros((2, 8))
    left[7], right[3] = 2.0, 5.0  # 2 x^7 * 5 x^3 = 10 x^10 = -10 x^2
    product = inverse_transform(forward_transform(left) * forward_transform(right))
    assert product == pytest.approx([0, 0, -10, 0, 0, 0, 0, 0], abs=1e-12)


def test_unsupported_parameters_are_named() -> None:
    key = random_key(replace(TOY_2_2, lwe_dimension=2, pbs_level=2, pbs_base_log=15), seed=1)
    with pytest.raises(InvalidInput, match=r"parameters\.pbs_level"):
        ReferenceExecutor().prepare(key)
    with pytest.raises(InvalidInput, match="drift"):
        modulus_switch(np.zeros((1, 33), np.uint64), replace(TOY_2_2, modulus_switch=ModulusSwitch.DRIFT))
