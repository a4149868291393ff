"""The noise model against published figures of the parameter set."""

from __future__ import annotations

from dataclasses import replace

import pytest

from coproc.circuits.builder import NOISE_BUDGET
from coproc.tfhe.noise import noise_model, tuniform_variance
from coproc.tfhe.parameters import V1_5_2_2, ModulusSwitch


@pytest.mark.parametrize(
    ("squared", "log2_failure"),
    [(1, -132.2), (9, -131.3), (17, -130.4), (25, -129.581), (34, -128.63), (35, -128.53), (40, -128.0), (100, -122.1)],
)
def test_failure_probabilities_of_the_published_set(squared: int, log2_failure: float) -> None:
    assert noise_model(V1_5_2_2).log2_failure(squared) == pytest.approx(log2_failure, abs=0.06)


def test_the_set_names_its_own_failure_probability() -> None:
    """TFHE-rs sums coefficients up to 5: 25 squared, for which the set was made."""
    assert noise_model(V1_5_2_2).log2_failure(25) == pytest.approx(V1_5_2_2.log2_p_fail, abs=0.01)


def test_the_budget_is_the_last_that_keeps_2_to_the_minus_128() -> None:
    model = noise_model(V1_5_2_2)
    assert model.log2_failure(NOISE_BUDGET) <= -127.999
    assert model.log2_failure(NOISE_BUDGET + 1) > -128


def test_without_the_centred_mean_nothing_holds() -> None:
    plain = noise_model(replace(V1_5_2_2, modulus_switch=ModulusSwitch.STANDARD))
    assert plain.log2_failure(1) > -80


def test_variances_have_the_published_size() -> None:
    model = noise_model(V1_5_2_2)
    assert model.bootstrap == pytest.approx(1.18e-9, rel=0.01)
    assert model.keyswitch == pytest.approx(2.3e-7, rel=0.02)
    assert model.modulus_switch == pytest.approx(1.14e-6, rel=0.01)
    assert model.fourier / model.bootstrap == pytest.approx(0.22, abs=0.01)


def test_tuniform_variance_is_that_of_its_values() -> None:
    values = list(range(-8, 9))
    weights = [0.5 if abs(value) == 8 else 1.0 for value in values]
    exact = sum(w * v * v for v, w in zip(values, weights, strict=True)) / sum(weights)
    assert tuniform_variance(3) * 2.0**128 == pytest.approx(exact)
