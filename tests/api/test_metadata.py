"""Versions are negotiated and tokens compared."""

from __future__ import annotations

import pytest

from coproc.api.metadata import Unauthenticated, UnsupportedVersion, check_metadata, check_version
from coproc.errors import InvalidInput


@pytest.mark.parametrize("version", ["1.0", "2.0", "2.3"])
def test_a_known_major_with_no_newer_minor_is_understood(version: str) -> None:
    check_version(version, "v", supported=("2.3", "1.0"))


@pytest.mark.parametrize("version", ["1.1", "2.4", "3.0", "0.9"])
def test_others_are_refused_with_what_would_do(version: str) -> None:
    with pytest.raises(UnsupportedVersion) as caught:
        check_version(version, "v", supported=("2.3", "1.0"))
    assert caught.value.supported == ("2.3", "1.0")
    assert str(caught.value) == f"API version {version} is not supported; this server supports 2.3, 1.0"


@pytest.mark.parametrize("version", ["", "1", "1.0.0", "v1.0", "01.0", "1.-1", "1.99999"])
def test_what_is_no_version_is_invalid(version: str) -> None:
    with pytest.raises(InvalidInput, match=r'v: must be "major\.minor"'):
        check_version(version, "v")


def test_a_call_without_metadata_is_fine() -> None:
    check_metadata({})


def test_the_version_in_the_metadata_counts() -> None:
    check_metadata({"coproc-api-version": "1.0"})
    with pytest.raises(UnsupportedVersion):
        check_metadata({"coproc-api-version": "9.0"})


@pytest.mark.parametrize("scheme", ["Bearer", "bearer"])
def test_a_known_token_lets_in(scheme: str) -> None:
    check_metadata({"authorization": f"{scheme} second"}, ("first", "second"))


@pytest.mark.parametrize("given", [None, "", "Bearer", "Bearer third", "Basic first", "first", b"Bearer first"])
def test_anything_else_does_not(given: str | bytes | None) -> None:
    with pytest.raises(Unauthenticated):
        check_metadata({} if given is None else {"authorization": given}, ("first", "second"))
