"""Proofs for lists of tests: of the right form, and proving nothing."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, cast

from coproc.tfhe.wire import Release
from tests.tfhe.wire.examples import example

if TYPE_CHECKING:
    from coproc.tfhe.wire.ciphertexts import ProvenCompactCiphertextList
    from coproc.tfhe.wire.proofs import ProofV1, ProofV2


def empty_proof() -> ProofV1 | ProofV2:
    """Make a proof of random points."""
    for seed in range(100):
        value = cast(
            "ProvenCompactCiphertextList", example("ProvenCompactCiphertextList", Release.V1_5, random.Random(seed))
        )
        if value.inner.ct_list.proved_lists:
            return value.inner.ct_list.proved_lists[0][1]
    raise AssertionError("no example has a proof")
