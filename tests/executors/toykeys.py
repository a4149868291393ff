"""Secret and evaluation keys made with numpy alone, for tests of executors.

Not secure: an ordinary pseudo-random generator.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from coproc.tfhe.glwe import BinaryPolynomial
from coproc.tfhe.keys import EvaluationKey

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from coproc.tfhe.parameters import ClassicParameters


@dataclass(frozen=True)
class SecretKey:
    """Both binary keys, with encryption and decryption of blocks under the big one."""

    parameters: ClassicParameters
    small: NDArray[np.uint64]
    big: NDArray[np.uint64]

    def encrypt(self, values: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.uint64]:
        """Encrypt values times Delta, shape ``(B,)``, as ``(B, k*N+1)``."""
        masks = _words(rng, (len(values), len(self.big)))
        noise = _tuniform(rng, self.parameters.glwe_noise_bound_log2, (len(values),))
        bodies = _dot(masks, self.big) + noise + (values.astype(np.uint64) << np.uint64(self.parameters.delta_log2))
        return np.concatenate([masks, bodies[:, np.newaxis]], axis=1)

    def phase(self, ciphertexts: NDArray[np.uint64]) -> NDArray[np.uint64]:
        """Return the noisy plaintexts of big or small ciphertexts."""
        key = self.big if ciphertexts.shape[1] == len(self.big) + 1 else self.small
        return ciphertexts[:, -1] - _dot(ciphertexts[:, :-1], key)

    def decrypt_half_steps(self, ciphertexts: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Round phases to half steps, in ``[0, 64)`` for 2_2."""
        shift = np.uint64(self.parameters.delta_log2 - 1)
        half = np.uint64(1) << (shift - np.uint64(1))
        return ((self.phase(ciphertexts) + half) >> shift).astype(np.int64)

    def noise(self, ciphertexts: NDArray[np.uint64], half_steps: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return what the phases are off by, in torus units."""
        exact = half_steps.astype(np.uint64) << np.uint64(self.parameters.delta_log2 - 1)
        return (self.phase(ciphertexts) - exact).view(np.int64).astype(np.float64) * 2.0**-64


def generate(parameters: ClassicParameters, seed: int) -> tuple[SecretKey, EvaluationKey]:
    """Make a key pair; ``k`` must be 1."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 2, parameters.lwe_dimension, dtype=np.uint64)
    big = rng.integers(0, 2, parameters.big_lwe_dimension, dtype=np.uint64)

    masks = _words(rng, (len(big), parameters.ks_level, len(small)))
    weights = _gadget(parameters.ks_base_log, parameters.ks_level)
    noise = _tuniform(rng, parameters.lwe_noise_bound_log2, masks.shape[:2])
    bodies = _dot(masks, small) + big[:, np.newaxis] * weights + noise
    keyswitch_key = np.concatenate([masks, bodies[..., np.newaxis]], axis=2)

    size = parameters.polynomial_size
    weights = _gadget(parameters.pbs_base_log, parameters.pbs_level)
    rows = _words(rng, (len(small), parameters.pbs_level, 2, size))
    bodies = _negacyclic(rows, big) + _tuniform(rng, parameters.glwe_noise_bound_log2, rows.shape)
    bootstrap_key = np.stack([rows, bodies], axis=3)
    message = small[:, np.newaxis] * weights
    bootstrap_key[:, :, 0, 0, 0] += message
    bootstrap_key[:, :, 1, 1, 0] += message
    secret = SecretKey(parameters=parameters, small=small, big=big)
    return secret, evaluation_key(parameters, keyswitch_key, bootstrap_key)


def random_key(parameters: ClassicParameters, seed: int) -> EvaluationKey:
    """Make keys of plain random words: no secret fits them, but arithmetic does not mind."""
    rng = np.random.Generator(np.random.PCG64(seed))
    n, k = parameters.lwe_dimension, parameters.glwe_dimension
    keyswitch_key = _words(rng, (parameters.big_lwe_dimension, parameters.ks_level, n + 1))
    bootstrap_key = _words(rng, (n, parameters.pbs_level, k + 1, k + 1, parameters.polynomial_size))
    return evaluation_key(parameters, keyswitch_key, bootstrap_key)


def evaluation_key(
    parameters: ClassicParameters, keyswitch_key: NDArray[np.uint64], bootstrap_key: NDArray[np.uint64]
) -> EvaluationKey:
    """Wrap the arrays."""
    keyswitch_key = np.ascontiguousarray(keyswitch_key)
    bootstrap_key = np.ascontiguousarray(bootstrap_key)
    keyswitch_key.flags.writeable = False
    bootstrap_key.flags.writeable = False
    return EvaluationKey(
        key_id=bytes(32),
        parameters=parameters,
        tag=b"",
        keyswitch_key=keyswitch_key,
        bootstrap_key=bootstrap_key,
    )


def _words(rng: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.uint64]:
    return rng.integers(0, 1 << 64, shape, dtype=np.uint64)


def _tuniform(rng: np.random.Generator, bound_log2: int, shape: tuple[int, ...]) -> NDArray[np.uint64]:
    wide = rng.integers(0, 1 << (bound_log2 + 2), shape, dtype=np.int64)
    return (((wide + 1) >> 1) - (1 << bound_log2)).astype(np.uint64)


def _gadget(base_log: int, level: int) -> NDArray[np.uint64]:
    """Return the weights of the digits, finest first."""
    return np.array([1 << (64 - base_log * (level - index)) for index in range(level)], dtype=np.uint64)


def _dot(words: NDArray[np.uint64], key: NDArray[np.uint64]) -> NDArray[np.uint64]:
    return words @ key


def _negacyclic(polynomials: NDArray[np.uint64], key: NDArray[np.uint64]) -> NDArray[np.uint64]:
    return BinaryPolynomial(key).times(polynomials)
