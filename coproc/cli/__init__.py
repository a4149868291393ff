"""The command line.

Each command is a module; heavy imports happen inside commands so that ``--help`` is instant.
"""

from __future__ import annotations

import sys
from typing import Final

import click

from coproc import __version__
from coproc.errors import CoprocError

COMMANDS: Final = {
    "serve": ("coproc.cli.serve", "serve"),
    "migrate": ("coproc.cli.migrate", "migrate"),
    "objects": ("coproc.cli.objects", "objects"),
    "tenants": ("coproc.cli.tenants", "tenants"),
    "demo": ("coproc.cli.demo", "demo"),
    "keygen": ("coproc.cli.keys", "keygen"),
    "encrypt": ("coproc.cli.keys", "encrypt"),
    "encrypt-list": ("coproc.cli.inputs", "encrypt_list_command"),
    "upload": ("coproc.cli.inputs", "upload"),
    "decrypt": ("coproc.cli.keys", "decrypt"),
    "submit": ("coproc.cli.submit", "submit"),
    "config": ("coproc.cli.config", "config"),
    "doctor": ("coproc.cli.doctor", "doctor"),
    "bench": ("coproc.cli.bench", "bench"),
}


class LazyGroup(click.Group):
    """A command group that imports a command's module only when it is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """Name every command, in the order of a first visit."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """Import and return one command."""
        if cmd_name not in COMMANDS:
            return None
        module_name, attribute = COMMANDS[cmd_name]
        from importlib import import_module  # noqa: PLC0415 - kept off the path of --help

        command = getattr(import_module(module_name), attribute)
        assert isinstance(command, click.Command)  # noqa: S101 - a fact of COMMANDS above
        return command


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="coproc")
def cli() -> None:
    """Compute on TFHE-rs ciphertexts without ever reading them."""


def main() -> None:
    """Entry point: runs a command and turns our own errors into one clean line."""
    try:
        cli(standalone_mode=False)
    except click.exceptions.Abort:
        click.echo("aborted", err=True)
        sys.exit(130)
    except click.exceptions.Exit as stop:
        sys.exit(stop.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except CoprocError as error:
        click.echo(f"error [{error.rule}]: {error.message}", err=True)
        sys.exit(1)
