"""Casting on any executor: what stands between a compact ciphertext and an ordinary evaluation.

Decides how the two kinds of casting keys use an executor. To the small key: the casting key takes the place of the
keyswitch key, so that the executor's own keyswitch and bootstrap do the work. To the big key: an exact integer
keyswitch here, then the compute key as always. It must not know which executor it is.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import numpy as np

from coproc.errors import InvalidInput
from coproc.executors.lwe import gadget_digits

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from coproc.executors.base import Executor, PreparedKey
    from coproc.tfhe.keys import EvaluationKey
    from coproc.tfhe.server_key import CastingKey

_AT_ONCE: Final = 64
"""Ciphertexts whose digits are multiplied together."""


@dataclass(frozen=True, slots=True, eq=False)
class PreparedCasting:
    """A casting key in the layout of one executor."""

    prepared: PreparedKey
    """What the circuit of ``casting_circuit`` is evaluated under."""
    to_big: CastingKey | None
    """The keyswitch that comes first, if the key casts to the big key."""

    def bring(self, ciphertexts: NDArray[np.uint64]) -> NDArray[np.uint64]:
        """Turn compact ciphertexts, shape ``(C, compact dimension + 1)``, into input wires, shape ``(C, k*N+1)``."""
        if self.to_big is not None:
            return _keyswitch(self.to_big, ciphertexts)
        return _widen(ciphertexts, self.prepared.parameters.big_lwe_dimension)


def prepare_casting(executor: Executor, key: EvaluationKey, casting: CastingKey) -> PreparedCasting:
    """Bring a casting key into the executor's layout.

    Raises:
        InvalidInput: the compact key is larger than the compute key, or the executor refuses the parameters.
    """
    parameters = key.parameters
    if casting.destination_is_big:
        return PreparedCasting(executor.prepare(key), casting)
    rows = casting.keyswitch_key
    if len(rows) > parameters.big_lwe_dimension:
        raise InvalidInput(
            "casting_key", f"has dimension {len(rows)}, at most {parameters.big_lwe_dimension} is supported"
        )
    padded = np.zeros((parameters.big_lwe_dimension, *rows.shape[1:]), dtype=np.uint64)
    padded[: len(rows)] = rows  # what was added is multiplied by the zeros of ``_widen``
    switching = replace(
        key,
        parameters=replace(parameters, ks_base_log=casting.base_log, ks_level=casting.level),
        keyswitch_key=padded,
    )
    return PreparedCasting(executor.prepare(switching), None)


def _widen(ciphertexts: NDArray[np.uint64], dimension: int) -> NDArray[np.uint64]:
    """Append zeros to the masks, which changes no message."""
    if ciphertexts.shape[1] == dimension + 1:
        return ciphertexts
    wide = np.zeros((len(ciphertexts), dimension + 1), dtype=np.uint64)
    wide[:, : ciphertexts.shape[1] - 1] = ciphertexts[:, :-1]
    wide[:, -1] = ciphertexts[:, -1]
    return wide


def _keyswitch(casting: CastingKey, ciphertexts: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Keyswitch as TFHE-rs does: ``(0, body)`` minus digits times rows, modulo 2^64."""
    rows = casting.keyswitch_key.reshape(-1, casting.keyswitch_key.shape[-1])
    result = np.empty((len(ciphertexts), rows.shape[1]), dtype=np.uint64)
    for start in range(0, len(ciphertexts), _AT_ONCE):
        part = ciphertexts[start : start + _AT_ONCE]
        digits = gadget_digits(part[:, :-1], casting.base_log, casting.level)
        result[start : start + len(part)] = -(digits.reshape(len(part), len(rows)).astype(np.uint64) @ rows)
    result[:, -1] += ciphertexts[:, -1]
    return result
