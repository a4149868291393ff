"""Keys shared by the tests of executors."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from coproc.tfhe.parameters import TOY_2_2
from tests.executors.toykeys import SecretKey, generate

if TYPE_CHECKING:
    from coproc.tfhe.keys import EvaluationKey


@pytest.fixture(scope="session")
def toy_pair() -> tuple[SecretKey, EvaluationKey]:
    return generate(TOY_2_2, seed=20)


@pytest.fixture(scope="session")
def toy_secret(toy_pair: tuple[SecretKey, EvaluationKey]) -> SecretKey:
    return toy_pair[0]


@pytest.fixture(scope="session")
def toy_key(toy_pair: tuple[SecretKey, EvaluationKey]) -> EvaluationKey:
    return toy_pair[1]
