"""``coproc keygen``, ``encrypt`` and ``decrypt``: a TFHE-rs client on the command line.

Decides file names and messages; the cryptography is in ``coproc.tfhe``.
"""

from __future__ import annotations

import os
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from coproc.cli.values import TypeParameter, parse_value
from coproc.program.types import FheType
from coproc.tfhe.client import ClientKey
from coproc.tfhe.parameters import TOY_2_2, TOY_COMPRESSION, V1_5_2_2, V1_5_COMPRESSION

CLIENT_KEY = "client.key"
SERVER_KEY = "server.key"
PUBLIC_KEY = "public.key"


def make_keys(directory: Path, *, toy: bool, tag: bytes = b"", compression: bool = False) -> tuple[Path, Path, Path]:
    """Write a fresh client key, compressed server key and compact public key into ``directory``.

    The client key is the secret: it is created with mode 0600, and existing keys are never overwritten.

    Raises:
        click.ClickException: a key is there already.
    """
    directory.mkdir(parents=True, exist_ok=True)
    paths = (directory / CLIENT_KEY, directory / SERVER_KEY, directory / PUBLIC_KEY)
    for path in paths:
        if path.exists():
            raise click.ClickException(f"{path} exists; keys are never overwritten, choose another --out")
    parameters, packing = (TOY_2_2, TOY_COMPRESSION) if toy else (V1_5_2_2, V1_5_COMPRESSION)
    client_key = ClientKey.generate(parameters, tag=tag, compression=packing if compression else None)
    with Progress(
        TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), console=Console(stderr=True)
    ) as bar:
        task = bar.add_task("server key", total=1.0)
        server_key = client_key.compressed_server_key(progress=lambda share: bar.update(task, completed=share))
        bar.update(task, completed=1.0)
    with os.fdopen(os.open(paths[0], os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(client_key.serialize())
    paths[1].write_bytes(server_key)
    paths[2].write_bytes(client_key.compact_public_key())
    return paths


@click.command()
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), default=Path("keys"), show_default=True)
@click.option("--tag", default="", help="Text that the key and everything computed under it carries.")
@click.option("--toy", is_flag=True, help="Insecure parameters for tests: no security at all, but instant.")
@click.option("--compression", is_flag=True, help="Let servers store ciphertexts packed: +46 MB of server key.")
def keygen(out: Path, tag: str, *, toy: bool, compression: bool) -> None:
    """Make a client key (secret), a compressed server key and a compact public key."""
    for path, what in zip(
        make_keys(out, toy=toy, tag=tag.encode(), compression=compression),
        ("secret, keep it", "for the server", "for encryption"),
        strict=True,
    ):
        click.echo(f"{path}  {path.stat().st_size:>11,} bytes  ({what})")


@click.command()
@click.argument("value")
@click.option("--type", "fhe_type", type=TypeParameter(), required=True, help="ebool, euint8 ... euint256, eint8 ...")
@click.option("--key", type=click.Path(path_type=Path, exists=True, dir_okay=False), required=True, help="Client key.")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), required=True, help="File for the ciphertext.")
@click.option(
    "--seeded/--plain", default=True, show_default=True, help="Seeded ciphertexts are 20 to 200 times smaller."
)
def encrypt(value: str, fhe_type: FheType, key: Path, out: Path, *, seeded: bool) -> None:
    """Encrypt VALUE (decimal, 0x..., true or false) under a client key."""
    number = parse_value(value, fhe_type)
    data = encrypt_value(ClientKey.deserialize(key.read_bytes()), number, fhe_type, seeded=seeded)
    out.write_bytes(data)
    click.echo(f"{out}  {len(data):,} bytes")


def encrypt_value(client_key: ClientKey, value: int, fhe_type: FheType, *, seeded: bool) -> bytes:
    """Encrypt one value as the serialized TFHE-rs object of ``fhe_type``."""
    if fhe_type is FheType.BOOL:
        return client_key.encrypt_bool(bool(value), seeded=seeded)
    return client_key.encrypt(value, fhe_type.bits, signed=fhe_type.is_signed, seeded=seeded)


@click.command()
@click.argument("ciphertext", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--key", type=click.Path(path_type=Path, exists=True, dir_okay=False), required=True, help="Client key.")
def decrypt(ciphertext: Path, key: Path) -> None:
    """Decrypt a ciphertext file and print the value."""
    value = ClientKey.deserialize(key.read_bytes()).decrypt(ciphertext.read_bytes())
    click.echo(str(value).lower() if isinstance(value, bool) else value)
