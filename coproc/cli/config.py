"""``coproc config show`` and ``check``: what a service would run with, and where each value comes from.

Decides the form of the answers; both commands take the options of ``coproc serve``.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from coproc.cli.serve import serve
from coproc.config import Config

if TYPE_CHECKING:
    from pathlib import Path


@click.group()
def config() -> None:
    """Show or check the configuration that ``coproc serve`` would run with."""


def _show(*, as_json: bool, **options: str | float | bool | Path | None) -> None:
    """Print every setting, its value and its origin; secrets are masked."""
    shown = Config.from_options(options).describe(options)
    if as_json:
        found = {name: {"value": value, "origin": origin} for name, value, origin in shown}
        click.echo(json.dumps(found, indent=2))
        return
    width = max(len(name) for name, _, _ in shown)
    for name, value, origin in shown:
        click.echo(f"{name:{width}}  {json.dumps(value)}  ({origin})")


def _check(**options: str | float | bool | Path | None) -> None:
    """Check every setting and the files that they name; the exit status is 1 if something is wrong."""
    found = Config.from_options(options)
    found.read_tokens()
    found.server_tls()
    click.echo("the configuration is valid")


_JSON = click.Option(["--json", "as_json"], is_flag=True, help="For programs.")
config.add_command(click.Command("show", params=[_JSON, *serve.params], callback=_show, help=_show.__doc__))
config.add_command(click.Command("check", params=[*serve.params], callback=_check, help=_check.__doc__))
