"""``coproc encrypt-list`` and ``upload``: what a dapp does, on the command line.

Decides how people write values and bindings; the cryptography is in ``coproc.tfhe``.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from coproc.cli.values import TYPES, parse_value, type_name
from coproc.program.inputs import InputBinding, check_binding
from coproc.program.types import FheType, handle_type
from coproc.tfhe.ciphertext import CiphertextKind
from coproc.tfhe.client.compact_list import ClearValue, encrypt_list

if TYPE_CHECKING:
    from collections.abc import Sequence

_EXISTING = click.Path(path_type=Path, exists=True, dir_okay=False)


def clear_value(value: int, fhe_type: FheType) -> ClearValue:
    """Describe a value to the encryption of lists."""
    if fhe_type is FheType.BOOL:
        return ClearValue(value, 1, CiphertextKind.BOOL)
    return ClearValue(value, fhe_type.bits, CiphertextKind.INT if fhe_type.is_signed else CiphertextKind.UINT)


def _parse(text: str) -> ClearValue:
    name, colon, value = text.partition(":")
    if not colon or name not in TYPES:
        raise click.BadParameter(f"{text!r} must be TYPE:VALUE, with one of the types {', '.join(TYPES)}")
    return clear_value(parse_value(value, TYPES[name]), TYPES[name])


def _address(text: str, option: str) -> bytes:
    try:
        return bytes.fromhex(text.removeprefix("0x"))
    except ValueError:
        raise click.BadParameter("must be hexadecimal", param_hint=option) from None


@click.command("encrypt-list")
@click.argument("values", nargs=-1, required=True)
@click.option("--public-key", type=_EXISTING, required=True, help="Compact public key; no secret is needed.")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), required=True, help="File for the list.")
@click.option("--packed/--unpacked", default=True, show_default=True, help="Packed lists are half as large.")
def encrypt_list_command(values: Sequence[str], public_key: Path, out: Path, *, packed: bool) -> None:
    """Encrypt VALUES, each written TYPE:VALUE (euint64:5, ebool:true), as one list under a public key."""
    data = encrypt_list(public_key.read_bytes(), [_parse(value) for value in values], packed=packed)
    out.write_bytes(data)
    click.echo(f"{out}  {len(data):,} bytes")


@click.command()
@click.argument("list_file", metavar="LIST", type=_EXISTING)
@click.option("--server-key", type=_EXISTING, required=True, help="Registered if the server does not have it.")
@click.option("--server", default="127.0.0.1:50051", show_default=True, help="host:port of the compute API.")
@click.option("--token", envvar="COPROC_TOKEN", help="Bearer token.")
@click.option("--contract", help="Address of the contract that will use the values; with the next three.")
@click.option("--user", help="Address of who encrypted them.")
@click.option("--acl", help="Address of the chain's ACL contract.")
@click.option("--chain-id", type=int, help="The chain's number.")
@click.option("--timeout", default=600.0, show_default=True, help="Seconds to wait until the values can be used.")
def upload(
    list_file: Path,
    server_key: Path,
    server: str,
    token: str | None,
    timeout: float,
    chain_id: int | None,
    **addresses: str | None,
) -> None:
    """Upload LIST, wait until its values are there, and print one line for each: handle and type."""
    import trio  # noqa: PLC0415 - heavy

    from nurseries.bridge import open_client  # noqa: PLC0415 - heavy

    host, _, port = server.rpartition(":")
    if not host or not port.isdigit():
        raise click.BadParameter("must be host:port", param_hint="--server")
    binding = _binding(addresses["contract"], addresses["user"], addresses["acl"], chain_id)
    data, key = list_file.read_bytes(), server_key.read_bytes()

    async def run() -> None:
        async with open_client(host, int(port), token=token) as client:
            key_id = await client.register_key(key)
            uploaded = await client.upload_inputs(key_id, data, binding)
            await client.wait(uploaded.handles, timeout)
            for handle in uploaded.handles:
                click.echo(f"0x{handle.hex()}  {type_name(handle_type(handle))}")

    trio.run(run)


def _binding(contract: str | None, user: str | None, acl: str | None, chain_id: int | None) -> InputBinding | None:
    if contract is None and user is None and acl is None and chain_id is None:
        return None
    if contract is None or user is None or acl is None or chain_id is None:
        raise click.BadParameter("--contract, --user, --acl and --chain-id must be given together")
    return check_binding(
        _address(contract, "--contract"), _address(user, "--user"), _address(acl, "--acl"), chain_id, field="binding"
    )
