"""Schema of the zero-knowledge proofs in proven compact lists. They are parsed and written back, not verified.

Points are on BLS12-446: a coordinate in the base field is a vector of seven 64-bit words in Montgomery form.
"""

from enum import Enum
from typing import Annotated

import numpy as np
from numpy.typing import NDArray

from coproc.tfhe.wire.hints import Newtype, OneOf, struct, unit_enum

Fp = Annotated[NDArray[np.uint64], Newtype("SerializableFp")]


@struct(0)
class Fp2:
    """TFHE-rs ``SerializableQuadExtField``."""

    c0: Fp
    c1: Fp


@struct(None)
class PointAtInfinity:
    """The neutral element."""


@struct(None)
class CompressedG1:
    """A point of G1 by its first coordinate."""

    x: Fp
    take_largest_y: bool


@struct(None)
class UncompressedG1:
    """A point of G1 by both coordinates."""

    x: Fp
    y: Fp


@struct(None)
class CompressedG2:
    """A point of G2 by its first coordinate."""

    x: Fp2
    take_largest_y: bool


@struct(None)
class UncompressedG2:
    """A point of G2 by both coordinates."""

    x: Fp2
    y: Fp2


G1 = Annotated[PointAtInfinity | CompressedG1 | UncompressedG1, OneOf("SerializableAffine")]
G2 = Annotated[PointAtInfinity | CompressedG2 | UncompressedG2, OneOf("SerializableAffine")]


@struct(0)
class LoadFieldsV1:
    """``ComputeLoadProofFields`` of the first proof system."""

    c_hat_t: G2
    c_h: G1
    pi_kzg: G1


@struct(1)
class ProofV1:
    """TFHE-rs ``pke::Proof``."""

    c_hat: G2
    c_y: G1
    pi: G1
    compute_load_proof_fields: LoadFieldsV1 | None


@struct(0)
class LoadFieldsV2:
    """``ComputeLoadProofFields`` of the second proof system."""

    c_hat_h3: G2
    c_hat_w: G2


@unit_enum(0)
class HashConfig(Enum):
    """TFHE-rs ``PkeV2SupportedHashConfig``."""

    V0_4_0 = 0
    V0_7_0 = 1
    V0_8_0 = 2


@struct(3)
class ProofV2:
    """TFHE-rs ``pke_v2::Proof``."""

    c_hat_e: G2
    c_e: G1
    c_r_tilde: G1
    c_r: G1
    c_hat_bin: G2
    c_y: G1
    c_h1: G1
    c_h2: G1
    c_hat_t: G2
    pi: G1
    pi_kzg: G1
    compute_load_proof_fields: LoadFieldsV2 | None
    hash_config: HashConfig


CompactPkeProof = Annotated[ProofV1 | ProofV2, OneOf("CompactPkeProof", 2)]
