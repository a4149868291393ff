"""``coproc config show`` and ``check``: what a service would run with, and where each value comes from.

Decides the form of the answers; both commands take the options of ``coproc serve``.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from coproc.cli.serve import serve
from coproc.config import Config
from coproc.flags import Flags, parse, read_bytes
from coproc.store.open import make_objects

if TYPE_CHECKING:
    from pathlib import Path


@click.group()
def config() -> None:
    """Show or check the configuration that ``coproc serve`` would run with."""


def _show(*, as_json: bool, **options: str | float | bool | Path | None) -> None:
    """Print every setting, its value and its origin (flags that workers go by included); secrets are masked."""
    found = Config.from_options(options)
    shown = found.describe(options)
    if found.flags_file is not None:
        flags = parse(read_bytes(found.flags_file)).flags(Flags.of(found), datetime.now(UTC))
        over = _settings(flags)
        shown = [
            (name, over[name], "flags") if over.get(name, value) != value else (name, value, origin)
            for name, value, origin in shown
        ]
    if as_json:
        whole = {name: {"value": value, "origin": origin} for name, value, origin in shown}
        click.echo(json.dumps(whole, indent=2))
        return
    width = max(len(name) for name, _, _ in shown)
    for name, value, origin in shown:
        click.echo(f"{name:{width}}  {json.dumps(value)}  ({origin})")


def _check(**options: str | float | bool | Path | None) -> None:
    """Check every setting and the files that they name; the exit status is 1 if something is wrong."""
    found = Config.from_options(options)
    found.read_tokens()
    found.server_tls()
    if found.flags_file is not None:
        parse(read_bytes(found.flags_file))
    if found.object_store is not None:
        make_objects(found.object_store)
    click.echo("the configuration is valid")


def _settings(flags: Flags) -> dict[str, object]:
    """What flags say, by the names of the settings."""
    return {
        "executor": flags.executor,
        "batch_window_seconds": flags.batch_window_seconds,
        "maximum_batch": flags.maximum_batch,
        "strategy": flags.plan.strategy,
        "shift_semantics": flags.plan.shift_semantics,
        "rewrites_off": sorted(flags.plan.rewrites_off),
    }


_JSON = click.Option(["--json", "as_json"], is_flag=True, help="For programs.")
config.add_command(click.Command("show", params=[_JSON, *serve.params], callback=_show, help=_show.__doc__))
config.add_command(click.Command("check", params=[*serve.params], callback=_check, help=_check.__doc__))
