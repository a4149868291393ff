"""Evaluation keys in the standard (coefficient) domain, expanded and ready for any executor.

Decides the array layouts that executors rely on; knows nothing of the wire format nor of Fourier transforms.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from coproc.tfhe.parameters import ClassicParameters, CompressionParameters


@dataclass(frozen=True, slots=True, eq=False)
class EvaluationKey:
    """What the server needs to compute: a keyswitch key and a bootstrap key, both public.

    All arrays are C-contiguous uint64 and read-only. In lists of levels index 0 is the finest level (TFHE-rs order); in
    the rows of a GGSW ciphertext the last row carries the positive message.
    """

    key_id: bytes
    """SHA-256 of the serialized server key: the identity of the key everywhere in coproc."""
    parameters: ClassicParameters
    tag: bytes
    """Opaque TFHE-rs tag; every result carries a copy."""
    keyswitch_key: NDArray[np.uint64]
    """Shape ``(k*N, ks_level, n+1)``: big key to small key."""
    bootstrap_key: NDArray[np.uint64]
    """Shape ``(n, pbs_level, k+1, k+1, N)``."""
    casting_dimension: int = 0
    """Dimension of the compact key that the server key can cast from; 0: it cannot."""
    compression: CompressionParameters | None = None
    """How ciphertexts are packed under this key; None: they cannot be."""


@dataclass(frozen=True, slots=True, eq=False)
class PackingKey:
    """What packs ciphertexts: a keyswitch from the big key to the GLWE key of compression."""

    parameters: CompressionParameters
    rows: NDArray[np.uint64]
    """Shape ``(k*N * level, (k'+1) * N')``, finest level first; the last polynomial of a row is the body."""


@dataclass(frozen=True, slots=True, eq=False)
class UnpackingKey:
    """What takes ciphertexts out again: a bootstrap key whose bits are those of the GLWE key of compression."""

    parameters: CompressionParameters
    bootstrap_key: NDArray[np.uint64]
    """Shape ``(k'*N', level, k+1, k+1, N)``."""
