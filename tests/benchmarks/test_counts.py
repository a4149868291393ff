"""The counts of TFHE-rs that we show are those that it gave itself."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from coproc.program.catalogue import TFHE_RS, TFHE_RS_ON_TWO_THREADS, WIDTHS

COUNTED = json.loads((Path(__file__).parents[2] / "benchmarks/results/tfhe-rs-counts.json").read_text())


@pytest.mark.parametrize("name", TFHE_RS)
def test_encrypted_operands(name: str) -> None:
    for threads, shown in (("64", [count for count, _ in TFHE_RS[name]]), ("2", TFHE_RS_ON_TWO_THREADS[name])):
        counted = [COUNTED[threads].get(f"euint{fhe_type.bits}", {}).get(name) for fhe_type in WIDTHS]
        # The widest divisions take hours to count.
        pairs = [(found["encrypted"], count) for found, count in zip(counted, shown, strict=False) if found]
        assert [found for found, _ in pairs] == [count for _, count in pairs]
        assert len(pairs) >= 4
