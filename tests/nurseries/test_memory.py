"""Memory goes back to the system."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import re, sys
from pathlib import Path

import numpy as np

from nurseries.memory import keep_large_arrays_apart


def resident() -> int:
    return int(re.search(r"VmRSS:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) >> 10


if "apart" in sys.argv and not keep_large_arrays_apart():
    sys.exit(3)
np.ones(3 << 20, dtype=np.uint64)  # 24 MB: glibc takes what is smaller from its heap from now on
before = resident()
arrays = [np.ones(1 << 16, dtype=np.uint64) for _ in range(256)]  # 0.5 MB each
kept = arrays[::8]
del arrays
print(resident() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_what_is_left_of_many_arrays_does_not_keep_the_rest() -> None:
    def grown(*arguments: str) -> int:
        ended = subprocess.run([sys.executable, "-c", PROGRAM, *arguments], capture_output=True, text=True, check=False)
        if ended.returncode == 3:
            pytest.skip("not glibc")
        assert ended.returncode == 0, ended.stderr
        return int(ended.stdout)

    assert grown() > 100
    assert 16 <= grown("apart") < 32
