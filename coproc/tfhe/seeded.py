"""Seeded objects written out: the masks come from a seed, the bodies from the wire.

Decides how rows of one mask stream are laid out beside their bodies. In every seeded TFHE-rs object all masks are one
contiguous run of the stream, in storage order.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from coproc.tfhe.csprng import mask_words

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from coproc.tfhe.wire.core import AesCtrParams

_CHUNK_WORDS: Final = 1 << 17  # 1 MiB of masks at a time: stays in the cache, and a key is not in memory twice


def expand(seed: AesCtrParams, bodies: NDArray[np.uint64], mask_size: int) -> NDArray[np.uint64]:
    """Put the masks before the bodies.

    Args:
        seed: where the mask stream begins.
        bodies: shape ``(rows, body)``.
        mask_size: words of mask per row.

    Returns:
        C-contiguous uint64 of shape ``(rows, mask_size + body)``.
    """
    rows, size = bodies.shape
    expanded = np.empty((rows, mask_size + size), dtype=np.uint64)
    expanded[:, mask_size:] = bodies
    step = max(1, _CHUNK_WORDS // mask_size)
    for start in range(0, rows, step):
        count = min(step, rows - start)
        words = mask_words(seed, start * mask_size, count * mask_size)
        expanded[start : start + count, :mask_size] = words.reshape(count, mask_size)
    return expanded
