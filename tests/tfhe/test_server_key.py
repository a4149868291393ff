"""Server keys are expanded from their seeds, and only keys that executors can use are let in."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from coproc.tfhe.csprng import mask_words
from coproc.tfhe.parameters import TOY_2_2, V1_5_2_2, ModulusSwitch
from coproc.tfhe.server_key import load_casting_key, load_server_key, parameters_name, read_server_key_facts
from coproc.tfhe.wire import Release, WireError, write_object
from coproc.tfhe.wire.core import CiphertextModulus, EncryptionKeyChoice, PBSOrder, SeededLweMultiBitBootstrapKey
from coproc.tfhe.wire.server_keys import (
    CompressedClassicBootstrapKey,
    CompressedKeySwitch32ServerKey,
    CompressedMultiBitBootstrapKey,
    CompressedServerKey,
    CompressedStandardServerKey,
)
from tests.tfhe.serverkeys import compressed_server_key, seed, with_block, with_pattern

if TYPE_CHECKING:
    from coproc.tfhe.wire.core import SeededLweKeyswitchKey


def standard(key: CompressedServerKey) -> CompressedStandardServerKey:
    pattern = key.integer_key.key.compressed_ap_server_key
    assert isinstance(pattern, CompressedStandardServerKey)
    return pattern


def bootstrap(key: CompressedServerKey) -> CompressedClassicBootstrapKey[np.uint64]:
    found = standard(key).bootstrapping_key
    assert isinstance(found, CompressedClassicBootstrapKey)
    return found


def with_ggsw(key: CompressedServerKey, **changes: object) -> CompressedServerKey:
    classic = bootstrap(key)
    ggsw = replace(classic.bsk.ggsw_list, **changes)  # type: ignore[arg-type]
    return with_pattern(key, bootstrapping_key=replace(classic, bsk=replace(classic.bsk, ggsw_list=ggsw)))


def with_keyswitch(key: CompressedServerKey, **changes: object) -> CompressedServerKey:
    keyswitch: SeededLweKeyswitchKey[np.uint64] = standard(key).key_switching_key
    return with_pattern(key, key_switching_key=replace(keyswitch, **changes))  # type: ignore[arg-type]


@pytest.mark.parametrize("release", Release)
def test_a_key_is_expanded_from_its_seeds(release: Release) -> None:
    wire = compressed_server_key(tag=b"tag")
    data = write_object(wire, release)
    key = load_server_key(data)
    assert key.key_id == hashlib.sha256(data).digest()
    assert key.parameters == TOY_2_2
    assert key.tag == b"tag"
    assert key.keyswitch_key.shape == (512, 4, 33)
    assert key.bootstrap_key.shape == (32, 1, 2, 2, 512)
    for array in (key.keyswitch_key, key.bootstrap_key):
        assert array.dtype == np.uint64
        assert array.flags.c_contiguous
        assert not array.flags.writeable
    masks = mask_words(seed(1), 0, 512 * 4 * 32).reshape(512, 4, 32)
    assert np.array_equal(key.keyswitch_key[..., :-1], masks)
    assert np.array_equal(key.keyswitch_key[..., -1].ravel(), standard(wire).key_switching_key.data)
    masks = mask_words(seed(2), 0, 32 * 2 * 512).reshape(32, 1, 2, 512)
    assert np.array_equal(key.bootstrap_key[..., 0, :], masks)
    assert np.array_equal(key.bootstrap_key[..., 1, :].ravel(), bootstrap(wire).bsk.ggsw_list.data)


def test_the_casting_key_is_expanded_by_itself() -> None:
    wire = compressed_server_key()
    casting = load_casting_key(write_object(wire))
    assert (casting.base_log, casting.level) == (4, 4)
    assert casting.keyswitch_key.shape == (512, 4, 33)
    material = wire.integer_key.cpk_key_switching_key_material
    assert material is not None
    assert np.array_equal(casting.keyswitch_key[..., -1].ravel(), material.key_switching_key.data)
    assert np.array_equal(casting.keyswitch_key[..., :-1].ravel(), mask_words(seed(3), 0, 512 * 4 * 32))


def test_facts_are_read_without_expanding() -> None:
    facts = read_server_key_facts(write_object(compressed_server_key(tag=b"t")))
    assert (facts.parameters, facts.tag, facts.has_casting_key) == (TOY_2_2, b"t", True)
    facts = read_server_key_facts(write_object(compressed_server_key(casting=False)))
    assert not facts.has_casting_key


def test_published_parameters_are_known_by_name() -> None:
    assert parameters_name(V1_5_2_2) == "V1_5_PARAM_MESSAGE_2_CARRY_2_KS_PBS_TUNIFORM_2M128"
    assert parameters_name(TOY_2_2) == "insecure"
    assert parameters_name(replace(V1_5_2_2, lwe_dimension=900)) == "insecure"


def test_other_dimensions_are_read_but_not_secure() -> None:
    parameters = replace(
        TOY_2_2,
        lwe_dimension=20,
        polynomial_size=256,
        pbs_base_log=15,
        pbs_level=2,
        modulus_switch=ModulusSwitch.STANDARD,
    )
    key = load_server_key(write_object(compressed_server_key(parameters)))
    assert not key.parameters.is_secure
    assert key.parameters.modulus_switch is ModulusSwitch.STANDARD
    assert key.keyswitch_key.shape == (256, 4, 21)
    assert key.bootstrap_key.shape == (20, 2, 2, 2, 256)
    assert key.parameters.log2_p_fail == 0.0


def refused() -> dict[str, tuple[CompressedServerKey, str]]:
    key = compressed_server_key()
    classic = bootstrap(key)
    ggsw = classic.bsk.ggsw_list
    multi_bit = CompressedMultiBitBootstrapKey(SeededLweMultiBitBootstrapKey(ggsw, 2), deterministic_execution=False)
    small = replace(
        standard(key).key_switching_key, data=np.zeros(4, np.uint32), ciphertext_modulus=CiphertextModulus(0, 32)
    )
    pattern32 = CompressedKeySwitch32ServerKey(small, multi_bit)  # type: ignore[arg-type]
    return {
        "32-bit keyswitch": (with_block(key, compressed_ap_server_key=pattern32), "32-bit keyswitch"),
        "order": (with_pattern(key, pbs_order=PBSOrder.BOOTSTRAP_KEYSWITCH), "expected keyswitch before bootstrap"),
        "multi-bit": (with_pattern(key, bootstrapping_key=multi_bit), "got a multi-bit one"),
        "message modulus": (with_block(key, message_modulus=2), "expected message modulus 4"),
        "max degree": (with_block(key, max_degree=15), "maximal degree 12"),
        "keyswitch size": (with_keyswitch(key, data=np.zeros(4, np.uint64)), "expected 2048 bodies, got 4"),
        "bootstrap size": (with_ggsw(key, data=np.zeros(1024, np.uint64)), "expected 32768 words, got 1024"),
        "small dimension": (with_keyswitch(key, output_lwe_size=40), "expected 39936 words, got 32768"),
        "huge dimension": (with_keyswitch(key, output_lwe_size=1 << 20), "words, got 32768"),
        "polynomial size": (with_ggsw(key, polynomial_size=500, data=np.zeros(1000, np.uint64)), "power of two"),
        "levels": (with_ggsw(key, decomp_base_log=23, decomp_level_count=4), "at most 64 bits of decomposition"),
        "modulus": (with_ggsw(key, ciphertext_modulus=CiphertextModulus(1 << 63, 64)), "expected the modulus 2"),
        "keyswitch modulus": (with_keyswitch(key, ciphertext_modulus=CiphertextModulus(0, 32)), "expected the modulus"),
    }


@pytest.mark.parametrize("case", refused())
def test_keys_that_cannot_be_used_are_refused(case: str) -> None:
    key, message = refused()[case]
    data = write_object(key)
    for load in (load_server_key, read_server_key_facts):
        with pytest.raises(WireError, match=message):
            load(data)


def test_an_expanded_key_has_a_bound() -> None:
    """Few bytes must not unfold into gigabytes: dimensions that fit together but lead to 1.5 GiB."""
    parameters = replace(TOY_2_2, lwe_dimension=50_000, polynomial_size=4, ks_level=16, ks_base_log=2)
    big = compressed_server_key(replace(parameters, glwe_dimension=60))
    with pytest.raises(WireError, match="bytes expanded"):
        load_server_key(write_object(big))


def test_casting_keys_that_cannot_be_used_are_refused() -> None:
    key = compressed_server_key()
    material = key.integer_key.cpk_key_switching_key_material
    assert material is not None
    with pytest.raises(WireError, match="got none"):
        load_casting_key(write_object(compressed_server_key(casting=False)))
    for broken in (
        replace(material, destination_key=EncryptionKeyChoice.BIG),
        replace(material, cast_rshift=1),
        replace(material, key_switching_key=replace(material.key_switching_key, output_lwe_size=20)),
    ):
        integer = replace(key.integer_key, cpk_key_switching_key_material=broken)
        with pytest.raises(WireError, match="CompressedKeySwitchingKeyMaterial: expected"):
            load_casting_key(write_object(replace(key, integer_key=integer)))


def test_other_objects_are_no_server_keys() -> None:
    for data in (b"", b"garbage" * 10, write_object(compressed_server_key())[:-1]):
        with pytest.raises(WireError):
            load_server_key(data)
