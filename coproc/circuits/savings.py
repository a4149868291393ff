"""Names of what circuits save while they are built, each of which can be switched off.

Decides nothing: the builder and the families ask it. A saving changes which bootstraps compute a value, never the
value; networks whose workers must agree on ciphertext bytes switch the same ones off.
"""

from __future__ import annotations

from enum import StrEnum


class Saving(StrEnum):
    """One way to spend fewer bootstraps."""

    SHARED_LOOK_UPS = "shared_look_ups"
    """Equal functions of equal forms are one bootstrap, across operations too."""
    MANY_LOOK_UP_TABLES = "many_look_up_tables"
    """Functions of one form share a bootstrap where its 16 boxes hold the values of all."""
    GATES = "gates"
    """A select with zero is a gate, and its bootstrap gives the opposite gate as well."""
    LAZY_SELECTS = "lazy_selects"
    """The result of a select keeps the noise of two wires until somebody needs a fresh one."""
    DEAD_LOOK_UPS = "dead_look_ups"
    """Look-ups and steps that no wanted result depends on are dropped."""
