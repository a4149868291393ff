"""The noise model: how likely a look-up goes wrong, for given parameters and a given linear form.

Decides nothing; it is the ground of the noise budget in ``coproc.circuits.builder``. Variances are in torus units
squared (a whole turn is 1). The formulas are those of TFHE-rs' parameter search (noise of the external product,
keyswitch and modulus switch, with its fitted term for 64-bit Fourier transforms).

Before a bootstrap a form of fresh wires with squared coefficients adding up to ``nu2`` has the variance
``nu2 V_pbs + V_ks + V_ms``; the look-up is wrong if the error exceeds half a box.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from coproc.tfhe.parameters import TORUS_BITS, ModulusSwitch

if TYPE_CHECKING:
    from coproc.tfhe.parameters import ClassicParameters

DOUBLE_MANTISSA_BITS: Final = 53


@dataclass(frozen=True, slots=True)
class NoiseModel:
    """Variances that a parameter set gives."""

    parameters: ClassicParameters
    bootstrap: float
    """Of a bootstrap's output, and so of every wire."""
    fourier: float
    """The part of ``bootstrap`` that doubles in the transforms add."""
    keyswitch: float
    """Added by the keyswitch."""
    modulus_switch: float
    """Added by rounding to ``2N`` positions."""

    def before_look_up(self, squared_coefficients: float) -> float:
        """Variance at the decision, for a form with that sum of squared coefficients."""
        return squared_coefficients * self.bootstrap + self.keyswitch + self.modulus_switch

    def log2_failure(self, squared_coefficients: float) -> float:
        """Log2 of the probability that one look-up of such a form is wrong."""
        half_box = 0.25 / self.parameters.plaintext_modulus
        x = half_box / math.sqrt(2 * self.before_look_up(squared_coefficients))
        tail = math.erfc(x)
        if tail > 0:
            return math.log2(tail)
        # Asymptotic expansion of erfc, where it is too small for a double.
        series = 1 - 1 / (2 * x**2) + 3 / (4 * x**4)
        return -(x**2) * math.log2(math.e) + math.log2(series / (x * math.sqrt(math.pi)))


def tuniform_variance(bound_log2: int) -> float:
    """Variance of TUniform(b): uniform on ``[-2^b, 2^b]``, ends with half weight, as a fraction of the torus."""
    return (2.0 ** (2 * bound_log2 + 1) + 1) / 6 / 2.0 ** (2 * TORUS_BITS)


def noise_model(parameters: ClassicParameters) -> NoiseModel:
    """Work the variances out."""
    n, k, size = parameters.lwe_dimension, parameters.glwe_dimension, parameters.polynomial_size
    word = 2.0 ** (-2 * TORUS_BITS)
    base = 2.0**parameters.pbs_base_log
    level = parameters.pbs_level
    fresh = tuniform_variance(parameters.glwe_noise_bound_log2)
    exponent = 2 * (TORUS_BITS - DOUBLE_MANTISSA_BITS) + 2 * parameters.pbs_base_log - 2 * TORUS_BITS
    fourier = n * 0.00705 * level * 2.0**exponent * size**2.22003 * (k + 1) ** 1.01827
    rounding = base ** (-2 * level)
    product = level * (k + 1) * size * fresh * (base**2 / 12 + 1 / 6)
    gadget = (rounding / 24 - word / 24) + 0.5 * k * size * (word / 48 + rounding / 24)
    bootstrap = fourier + n * (product + gadget)

    big = k * size
    ks_base, ks_level = 2.0**parameters.ks_base_log, parameters.ks_level
    keyswitch = ks_level * big * tuniform_variance(parameters.lwe_noise_bound_log2) * (ks_base**2 / 12 + 1 / 6)
    keyswitch += big * (word / 48 + ks_base ** (-2 * ks_level) / 24)

    positions = (2.0 * size) ** -2
    centred = parameters.modulus_switch is ModulusSwitch.CENTERED_MEAN
    # A rounding error has variance p^-2/12; a key bit counts it by 1/2, or by 1/4 once its expectation is taken off.
    modulus_switch = n * (word / 24 + positions / (48 if centred else 24))
    return NoiseModel(parameters, bootstrap, fourier, keyswitch, modulus_switch)
