"""Where settings come from: files, secrets, variables and options, and which of them gave a value.

Decides how the layers are read and in which order they win; knows the names of settings only as it is told them.
"""

from __future__ import annotations

import json
import os
import tomllib
from typing import TYPE_CHECKING, Final, cast

from coproc.errors import FatalError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from pathlib import Path

LAYERS: Final = ("command line", "secret", "environment", "file", "default")
"""Where a value may come from; earlier ones win."""


class InvalidConfiguration(FatalError):
    """A setting breaks a rule: names the setting (and its variable) and the rule."""

    rule = "INVALID_CONFIGURATION"


def read_file(path: Path) -> dict[str, object]:
    """Read a file of settings: TOML, or JSON if its name ends in ``.json``.

    Raises:
        InvalidConfiguration: it cannot be read or is no table.
    """
    try:
        text = path.read_text("utf-8")
        found: object = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except OSError as error:
        raise InvalidConfiguration(f"config_file: cannot be read: {error.strerror}") from error
    except ValueError as error:  # of JSON, TOML and UTF-8 alike
        raise InvalidConfiguration(f"config_file: {error}") from None
    if not isinstance(found, dict):
        raise InvalidConfiguration("config_file: must be a table of settings")
    return cast("dict[str, object]", found)


def read_secrets(directory: Path) -> dict[str, object]:
    """Read a folder with one file for each setting, named like it, as orchestrators mount secrets.

    Hidden files are theirs, and skipped. Surrounding white space is no part of a value.

    Raises:
        InvalidConfiguration: the folder or a file in it cannot be read.
    """
    try:
        files = [file for file in directory.iterdir() if not file.name.startswith(".") and file.is_file()]
        return {file.name.lower().removeprefix("coproc_"): file.read_text("utf-8").strip() for file in files}
    except OSError as error:
        raise InvalidConfiguration(f"secrets_directory: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError:
        raise InvalidConfiguration("secrets_directory: files must be UTF-8 text") from None


def read_variables(prefix: str) -> frozenset[str]:
    """Name the settings that have a variable, as ``name`` or ``name.part``; an empty variable is none."""
    start = prefix.lower()
    given = (name.lower() for name, value in os.environ.items() if value)
    return frozenset(name.removeprefix(start).replace("__", ".") for name in given if name.startswith(start))


def find_origins(
    names: Collection[str],
    options: Mapping[str, object],
    secrets: Mapping[str, object],
    variables: Collection[str],
    file: Mapping[str, object],
) -> dict[str, str]:
    """Say for every setting (``name`` or ``name.part``) which of ``LAYERS`` gave its value."""
    given = dict(zip(LAYERS, (_flat(options), _flat(secrets), variables, _flat(file)), strict=False))

    def origin(name: str) -> str:
        whole = name.partition(".")[0]
        return next((layer for layer, there in given.items() if name in there or whole in there), LAYERS[-1])

    return {name: origin(name) for name in names}


def _flat(values: Mapping[str, object]) -> set[str]:
    """Name the values of a layer; a table counts by its parts."""
    flat: set[str] = set()
    for name, value in values.items():
        parts = cast("dict[str, object]", value) if isinstance(value, dict) else None
        flat |= {name} if parts is None else {f"{name}.{part}" for part in parts}
    return flat
