"""The Python client: round trips, refusals, and keys that executors compute with."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from coproc.errors import InvalidInput
from coproc.tfhe.ciphertext import CiphertextKind, read_ciphertext
from coproc.tfhe.client import ClientKey
from coproc.tfhe.lwe import phases
from coproc.tfhe.parameters import TOY_2_2, V1_5_2_2
from coproc.tfhe.server_key import load_casting_key, load_server_key

if TYPE_CHECKING:
    from coproc.tfhe.keys import EvaluationKey


@pytest.mark.parametrize("seeded", [True, False])
@pytest.mark.parametrize(
    ("value", "bits", "signed"),
    [(0, 8, False), (255, 8, False), (2**64 - 1, 64, False), (12345, 160, False), (-1, 8, True), (-(2**63), 64, True)],
)
def test_integers_come_back(toy_client_key: ClientKey, value: int, bits: int, *, signed: bool, seeded: bool) -> None:
    data = toy_client_key.encrypt(value, bits, signed=signed, seeded=seeded)
    assert toy_client_key.decrypt(data) == value


@pytest.mark.parametrize("seeded", [True, False])
@pytest.mark.parametrize("value", [True, False])
def test_booleans_come_back(toy_client_key: ClientKey, *, value: bool, seeded: bool) -> None:
    assert toy_client_key.decrypt(toy_client_key.encrypt_bool(value, seeded=seeded)) is value


@pytest.mark.parametrize(
    ("value", "bits", "signed"), [(256, 8, False), (-1, 8, False), (128, 8, True), (-129, 8, True), (0, 7, False)]
)
def test_what_does_not_fit_is_refused(toy_client_key: ClientKey, value: int, bits: int, *, signed: bool) -> None:
    with pytest.raises(InvalidInput):
        toy_client_key.encrypt(value, bits, signed=signed)


def test_a_key_is_what_was_written(toy_client_key: ClientKey) -> None:
    data = toy_client_key.serialize()
    again = ClientKey.deserialize(data)
    assert again.serialize() == data
    assert again.parameters == TOY_2_2
    assert again.tag == toy_client_key.tag
    assert "array" not in repr(again)  # secrets do not end up in logs


def test_fresh_noise_is_that_of_the_parameters(toy_client_key: ClientKey) -> None:
    data = toy_client_key.encrypt(0, 256, seeded=False)
    blocks = read_ciphertext(data, TOY_2_2, CiphertextKind.UINT, 256)
    noise = phases(blocks, toy_client_key.glwe_key.reshape(-1)).view(np.int64)
    bound = 1 << TOY_2_2.glwe_noise_bound_log2
    assert int(abs(noise).max()) <= bound
    assert int(abs(noise).max()) > bound // 2


def test_every_row_of_the_server_key_is_within_its_noise(
    toy_client_key: ClientKey, toy_server_key: bytes, toy_evaluation_key: EvaluationKey
) -> None:
    key, small, big = toy_evaluation_key, toy_client_key.small_key, toy_client_key.glwe_key.reshape(-1)
    bound = 1 << TOY_2_2.lwe_noise_bound_log2
    weights = np.array([1 << (64 - 4 * (4 - level)) for level in range(4)], dtype=np.uint64)
    noise = (phases(key.keyswitch_key, small) - big[:, np.newaxis] * weights).view(np.int64)
    assert int(abs(noise).max()) <= bound
    casting = load_casting_key(toy_server_key)
    assert toy_client_key.compact_key is not None
    noise = (phases(casting.keyswitch_key, small) - toy_client_key.compact_key[:, np.newaxis] * weights).view(np.int64)
    assert int(abs(noise).max()) <= bound
    # Coefficient j of a GLWE row, by the definition of the negacyclic product.
    size = TOY_2_2.polynomial_size
    for j in (0, 1, size - 1):
        power = j - np.arange(size)
        column = np.where(power >= 0, 1, -1).astype(np.int64).view(np.uint64) * big[power % size]
        body = key.bootstrap_key[:, 0, :, 1, j] - key.bootstrap_key[:, 0, :, 0, :] @ column
        message = np.stack([-small * big[j], small * np.uint64(j == 0)], axis=1) << np.uint64(41)
        assert int(abs((body - message).view(np.int64)).max()) <= 1 << TOY_2_2.glwe_noise_bound_log2


def test_progress_goes_from_nothing_to_all(toy_client_key: ClientKey) -> None:
    shares: list[float] = []
    toy_client_key.compressed_server_key(shares.append)
    assert shares[0] == 0.0
    assert shares[-1] == 1.0
    assert shares == sorted(shares)


@pytest.mark.real
def test_real_keys() -> None:
    client_key = ClientKey.generate()
    assert client_key.decrypt(client_key.encrypt(2**64 - 59, 64)) == 2**64 - 59
    assert load_server_key(client_key.compressed_server_key()).parameters == V1_5_2_2
