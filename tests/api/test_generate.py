"""The committed classes are what the contract in proto/ says."""

from __future__ import annotations

from typing import TYPE_CHECKING

from coproc.api.generate import GENERATED, files_of, generate
from coproc.api.generated.coproc.v1 import Operation as WireOperation
from coproc.api.generated.coproc.v1 import State as WireState
from coproc.program.computation import Operation
from coproc.store.base import State

if TYPE_CHECKING:
    from pathlib import Path


def test_regenerating_gives_the_committed_files(tmp_path: Path) -> None:
    generate(tmp_path)
    assert files_of(tmp_path) == files_of(GENERATED)


def test_operation_numbers_are_those_of_the_domain_plus_one() -> None:
    wire = {member.name: member.value - 1 for member in WireOperation if member.name != "UNSPECIFIED"}
    assert wire == {member.name: member.value for member in Operation if member is not Operation.VERIFY_INPUT}


def test_every_state_of_the_domain_has_a_name_on_the_wire() -> None:
    assert {member.name for member in State} <= {member.name for member in WireState}
