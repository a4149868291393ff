"""Every rule that saves bootstraps, by the name under which it is switched off.

Decides only the list: rewrites of word graphs, what lowering shares between steps, and what circuits save while they
are built. A rule changes which bootstraps compute a result, never the result.
"""

from __future__ import annotations

from typing import Final

from coproc.circuits.savings import Saving
from coproc.program.choices import KNOWN_CHOICES
from coproc.program.lowering import BORROW_OF_DIFFERENCE, DIVISION_PAIRS, KNOWN_INPUTS
from coproc.program.rewrites import RULES

RULE_NAMES: Final[tuple[str, ...]] = (
    *RULES,
    KNOWN_INPUTS,
    KNOWN_CHOICES,
    BORROW_OF_DIFFERENCE,
    DIVISION_PAIRS,
    *(saving.value for saving in Saving),
)
"""In the order in which they are applied."""
