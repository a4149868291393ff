"""Golden cases: fixed inputs whose results every executor with the canonical arithmetic reproduces bit for bit.

Decides the inputs and how digests are taken; the expected digests are those of ``ARITHMETIC.md``. Inputs are the output
of SHAKE-128 over short labels, so an implementation in any language can make them.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from coproc.circuits.circuit import LookUpTable
from coproc.executors.lwe import modulus_switch
from coproc.executors.twiddles import twiddle_table
from coproc.tfhe.keys import EvaluationKey
from coproc.tfhe.parameters import TOY_2_2, V1_5_2_2

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from coproc.executors.base import Executor
    from coproc.tfhe.parameters import ClassicParameters

CIPHERTEXTS: Final = 3
TABLES: Final = (
    LookUpTable(values=tuple(2 * ((5 * x + 3) % 16) for x in range(16))),
    LookUpTable(values=tuple(x - 7 for x in range(16)), boxes=(0, 8, 3), offsets=(0, 1, -5)),
)


@dataclass(frozen=True, slots=True)
class Digests:
    """SHA-256 of little-endian arrays in C order, in hexadecimal."""

    keyswitch: str
    """Of the small ciphertexts, uint64."""
    modulus_switch: str
    """Of the switched ciphertexts, uint16."""
    bootstrap: str
    """Of the extracted ciphertexts, uint64."""


TWIDDLES: Final = "f3545a652b08362bbba5d666b01b315e2261743ec390500a944964e39264391a"
"""Of the twiddle table, float64."""

GOLDEN: Final = {
    "toy": Digests(
        keyswitch="9f5fe6740d7416e7a217fcce78eb60222250f3d18415ea92b474f6a12781aca6",
        modulus_switch="28b29e5e7b20a66d1ebc2bd610429929884382d6b8c1de05d8dee4c59be6e84f",
        bootstrap="1e057c8dd5ff13e75370b7f011ea907f28903bc34fa4fa0b919ffe99e21f829a",
    ),
    "real": Digests(
        keyswitch="de7359711a86152d06f63fa034ec78581e409af1781211d6932eff085b53dba3",
        modulus_switch="e960f53e6dc78b86e6d38abd51a0548bc5b05aaa6efa634ab90e5e5d9d59ccd5",
        bootstrap="0ec43534235c62d09db45f04af3aa8e94abb103eb4953fd9e7488cb7557d7e5f",
    ),
}


def golden_parameters(name: str) -> ClassicParameters:
    """Return the parameters of the case ``toy`` or ``real``."""
    return {"toy": TOY_2_2, "real": V1_5_2_2}[name]


def golden_key(name: str) -> EvaluationKey:
    """Return the key of a case: random words, since arithmetic needs no secret behind them."""
    parameters = golden_parameters(name)
    n, k, size = parameters.lwe_dimension, parameters.glwe_dimension, parameters.polynomial_size
    return EvaluationKey(
        key_id=hashlib.sha256(name.encode()).digest(),
        parameters=parameters,
        tag=b"",
        keyswitch_key=_words(name, "keyswitch key", (parameters.big_lwe_dimension, parameters.ks_level, n + 1)),
        bootstrap_key=_words(name, "bootstrap key", (n, parameters.pbs_level, k + 1, k + 1, size)),
    )


def golden_digests(executor: Executor, name: str) -> Digests:
    """Run a case: keyswitch, modulus switch, then every ciphertext through every table.

    Raises:
        InvalidInput: the executor does not support the parameters.
    """
    parameters = golden_parameters(name)
    prepared = executor.prepare(golden_key(name))
    ciphertexts = _words(name, "ciphertexts", (CIPHERTEXTS, parameters.big_lwe_dimension + 1))
    small = executor.keyswitch(prepared, ciphertexts)
    switched = modulus_switch(small, parameters)
    form = np.repeat(np.arange(CIPHERTEXTS, dtype=np.int32), len(TABLES))
    table = np.tile(np.arange(len(TABLES), dtype=np.int32), CIPHERTEXTS)
    result = executor.bootstrap(prepared, switched, form, table, TABLES)
    return Digests(keyswitch=_digest(small), modulus_switch=_digest(switched), bootstrap=_digest(result))


def twiddle_digest() -> str:
    """Return the digest of the twiddle table of this process."""
    return _digest(twiddle_table())


def _words(name: str, part: str, shape: tuple[int, ...]) -> NDArray[np.uint64]:
    count = 8 * int(np.prod(shape))
    stream = hashlib.shake_128(f"coproc golden {name} {part}".encode()).digest(count)
    return np.frombuffer(stream, dtype="<u8").reshape(shape)


def _digest(array: NDArray[np.uint64] | NDArray[np.uint16] | NDArray[np.float64]) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()
