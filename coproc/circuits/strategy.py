"""The two ways to build an operation."""

from __future__ import annotations

from enum import Enum


class Strategy(Enum):
    """What a circuit is good at; its results are the same."""

    THROUGHPUT = "throughput"
    """Fewest bootstraps: the choice when other work fills the executor."""
    LATENCY = "latency"
    """Few rounds: the choice for a lone request on an executor with many lanes."""
