"""Random valid objects of every TFHE-rs type, made by walking the codecs.

Dimensions are a few units: what matters here is structure, and that every variant of every enum comes up.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import numpy as np

from coproc.tfhe.wire import codec, compound
from coproc.tfhe.wire.container import OBJECTS
from coproc.tfhe.wire.core import (
    CiphertextModulus,
    LweCompactCiphertextList,
    PackedIntegers,
    SeededGgswCiphertextList,
    SeededLweKeyswitchKey,
    SeededLwePackingKeyswitchKey,
)
from coproc.tfhe.wire.hints import codec_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

    from coproc.tfhe.wire import Release

    Fields = dict[str, object]

_SMALL = 5


def example(name: str, release: Release, rng: Random) -> object:
    """Make a random object of a type in ``OBJECTS`` that ``release`` can express."""
    return _make(codec_of(OBJECTS[name]), release, rng)


def _make(of: codec.Codec, release: Release, rng: Random) -> object:  # noqa: C901, PLR0911, PLR0912 - one case a codec
    def inner(part: codec.Codec) -> object:
        return _make(part, release, rng)

    match of:
        case codec.Integer():
            if rng.random() < 0.1:
                return rng.choice([of.at_least, min(of.at_most, of.at_least + 255)])
            return rng.randint(of.at_least, min(of.at_most, of.at_least + _SMALL))
        case codec.Float():
            return rng.uniform(-200, 200)
        case codec.Boolean():
            return rng.random() < 0.5
        case codec.ByteString():
            return rng.randbytes(rng.randrange(_SMALL))
        case codec.Array():
            return _words(of.dtype, rng.randrange(_SMALL), rng)
        case compound.Struct():
            values = {name: inner(field) for name, field in of.fields}
            if of.cls in _CONSISTENT:
                _CONSISTENT[of.cls](values, rng)
            return cast("object", of.cls(**values))
        case compound.Sequence():
            return tuple(inner(of.element) for _ in range(rng.randrange(3)))
        case compound.FixedTuple():
            return tuple(inner(element) for element in of.elements)
        case compound.Optional():
            return inner(of.inner) if rng.random() < 0.7 else None
        case compound.Enumeration():
            return rng.choice(of.members)
        case compound.Variants():
            return inner(rng.choice(of.variants))
        case compound.Versioned():
            return inner(of.inner)
        case compound.Converted():
            return of.decoded(inner(of.inner))
        case compound.Absent():
            return None
        case compound.MultiVersioned():
            return inner(of.layouts[of.written[release]])
        case _:
            raise TypeError(f"no example for {type(of).__name__}")


def _words(dtype: np.dtype[np.generic], count: int, rng: Random) -> object:
    return np.frombuffer(rng.randbytes(count * dtype.itemsize), dtype)


def _resize(values: Fields, field: str, count: int, rng: Random) -> None:
    values[field] = _words(cast("np.ndarray[tuple[int], np.dtype[np.generic]]", values[field]).dtype, count, rng)


def _modulus(values: Fields, rng: Random) -> None:
    values["scalar_bits"] = bits = rng.choice([32, 64, 128])
    values["modulus"] = rng.choice([0, 0, 1 << 32, 1 << (bits - 1)])


def _rows(*units: str) -> Callable[[Fields, Random], None]:
    def resize(values: Fields, rng: Random) -> None:
        unit = 1
        for name in units:
            values[name] = min(cast("int", values[name]), 3)
            unit *= cast("int", values[name])
        _resize(values, "data", unit * rng.randrange(3), rng)

    return resize


def _compact(values: Fields, rng: Random) -> None:
    values["lwe_size"] = size = rng.randint(2, 4)
    values["lwe_ciphertext_count"] = count = rng.randrange(5)
    _resize(values, "data", -(-count // (size - 1)) * (size - 1) + count, rng)


def _packed(values: Fields, rng: Random) -> None:
    values["initial_len"] = count = rng.randrange(20)
    _resize(values, "packed_coeffs", -(-count * cast("int", values["log_modulus"]) // 64), rng)


_CONSISTENT: dict[type, Callable[[Fields, Random], None]] = {
    CiphertextModulus: _modulus,
    SeededLweKeyswitchKey: _rows("decomp_level_count"),
    SeededLwePackingKeyswitchKey: _rows("decomp_level_count", "output_polynomial_size"),
    SeededGgswCiphertextList: _rows("decomp_level_count", "glwe_size", "polynomial_size"),
    LweCompactCiphertextList: _compact,
    PackedIntegers: _packed,
}
