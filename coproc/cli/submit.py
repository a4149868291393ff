"""``coproc submit``: run a program, written as JSON, on ciphertext files.

Decides the form of program files. Names stand for values::

    {"inputs":       {"a": {"type": "euint64", "file": "a.ct"}, "b": {"type": "euint64", "value": 7}},
     "computations": [{"name": "s", "operation": "add", "operands": ["a", "b"]},
                      {"name": "t", "operation": "mul", "operands": ["s", 3]}],
     "outputs":      ["t"]}

Inputs with a ``value`` are public; those with a ``handle`` are on the server already (``coproc upload``). Operands are
names or integers. ``cast``, ``trivial_encrypt`` and ``rand`` name the type of their result as ``"type"``.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import click
import trio
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TransferSpeedColumn

from coproc.cli.values import TYPES
from coproc.client import Transaction
from coproc.errors import InvalidInput
from coproc.program.computation import Operation
from coproc.program.operations import RULES
from coproc.program.types import FheType, Handle, handle_type, new_handle, parse_handle
from nurseries.bridge import TrioClient, open_client

if TYPE_CHECKING:
    from collections.abc import Mapping

Name = Annotated[str, Field(min_length=1)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ProgramInput(_Strict):
    """A value that exists before the program: a ciphertext file, a public value, or a value on the server."""

    type: Name
    file: Path | None = None
    value: int | None = None
    handle: str | None = None


class ProgramStep(_Strict):
    """One computation."""

    name: Name
    operation: Name
    operands: tuple[int | Name, ...]
    type: Name | None = None


class Program(_Strict):
    """A program file."""

    inputs: dict[Name, ProgramInput]
    computations: tuple[ProgramStep, ...]
    outputs: tuple[Name, ...] = Field(min_length=1)


def read_program(path: Path) -> Program:
    """Read a program file.

    Raises:
        InvalidInput: names what is wrong with it.
    """
    try:
        return Program.model_validate_json(path.read_bytes())
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in fault["loc"]) or "program"
        raise InvalidInput(where, fault["msg"]) from None


def build(program: Program, handles: Mapping[str, Handle], key_id: bytes) -> tuple[Transaction, dict[str, Handle]]:
    """Turn a program into a transaction; returns the handles of all names too.

    Raises:
        InvalidInput: an unknown name, operation or type, or operands that do not fit.
    """
    transaction = Transaction(key_id)
    names = dict(handles)
    for index, step in enumerate(program.computations):
        where = f"computations[{index}]"
        if step.name in names:
            raise InvalidInput(f"{where}.name", f"{step.name!r} is taken")
        operation = _operation(step.operation, where)
        operands: list[Handle | int] = []
        for position, operand in enumerate(step.operands):
            if isinstance(operand, str) and operand not in names:
                raise InvalidInput(f"{where}.operands[{position}]", f"{operand!r} is not defined above")
            operands.append(names[operand] if isinstance(operand, str) else operand)
        names[step.name] = transaction.compute(operation, operands, _result_type(step, operation, operands, where))
    for index, name in enumerate(program.outputs):
        if name not in names:
            raise InvalidInput(f"outputs[{index}]", f"{name!r} is not defined")
        transaction.allow(names[name])
    return transaction, names


def _operation(name: str, where: str) -> Operation:
    known = {item.name.lower(): item for item in RULES}
    if name.lower() not in known:
        raise InvalidInput(f"{where}.operation", f"{name!r} is unknown; known: {', '.join(known)}")
    return known[name.lower()]


def _result_type(step: ProgramStep, operation: Operation, operands: list[Handle | int], where: str) -> FheType:
    if step.type is not None:
        return _type(step.type, f"{where}.type")
    if RULES[operation].yields_bool:
        return FheType.BOOL
    encrypted = [operand for operand in operands if isinstance(operand, bytes)]
    if operation is Operation.CAST or not encrypted:
        raise InvalidInput(f"{where}.type", f"{operation.name.lower()} must name the type of its result")
    return handle_type(encrypted[-1] if operation is Operation.IF_THEN_ELSE else encrypted[0])


def _type(name: str, where: str) -> FheType:
    if name not in TYPES:
        raise InvalidInput(where, f"{name!r} is no encrypted type; known: {', '.join(TYPES)}")
    return TYPES[name]


def _known(text: str, fhe_type: FheType, where: str) -> Handle:
    try:
        raw = bytes.fromhex(text.removeprefix("0x"))
    except ValueError:
        raise InvalidInput(f"{where}.handle", "must be hexadecimal") from None
    handle = parse_handle(raw, f"{where}.handle")
    if handle_type(handle) is not fhe_type:
        raise InvalidInput(f"{where}.type", f"the handle is one of {handle_type(handle).name}, not {fhe_type.name}")
    return handle


@click.command()
@click.argument("program", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--server-key", type=click.Path(path_type=Path, exists=True, dir_okay=False), required=True)
@click.option("--server", default="127.0.0.1:50051", show_default=True, help="host:port of the compute API.")
@click.option("--token", envvar="COPROC_TOKEN", help="Bearer token.")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), default=Path(), help="Folder for results.")
@click.option("--timeout", default=600.0, show_default=True, help="Seconds to wait for results.")
def submit(program: Path, server_key: Path, server: str, token: str | None, out: Path, timeout: float) -> None:
    """Run PROGRAM (a JSON file, see the README) and write one ciphertext file for each of its outputs."""
    host, _, port = server.rpartition(":")
    if not host or not port.isdigit():
        raise click.BadParameter("must be host:port", param_hint="--server")
    out.mkdir(parents=True, exist_ok=True)
    parsed, key = read_program(program), server_key.read_bytes()

    async def run() -> None:
        async with open_client(host, int(port), token=token) as client:
            await _submit(client, parsed, program.parent, key, out, timeout)

    trio.run(run)


async def _submit(
    client: TrioClient, program: Program, folder: Path, server_key: bytes, out: Path, seconds: float
) -> None:
    with Progress(
        TextColumn("{task.description}"), BarColumn(), TransferSpeedColumn(), console=Console(stderr=True)
    ) as bar:
        task = bar.add_task("server key", total=len(server_key))
        key_id = await client.register_key(server_key, lambda done, _: bar.update(task, completed=done))
    handles: dict[str, Handle] = {}
    files: dict[Handle, bytes] = {}
    public: dict[Handle, int] = {}
    for name, source in program.inputs.items():
        fhe_type = _type(source.type, f"inputs.{name}.type")
        if [source.file, source.value, source.handle].count(None) != 2:
            raise InvalidInput(f"inputs.{name}", "must have one of file, value and handle")
        if source.handle is not None:
            handles[name] = _known(source.handle, fhe_type, f"inputs.{name}")
            continue
        handle = handles[name] = new_handle(fhe_type)
        if source.file is not None:
            files[handle] = (folder / source.file).read_bytes()
        elif source.value is not None:
            public[handle] = source.value
    transaction, names = build(program, handles, key_id)
    if files:
        await client.upload(key_id, files)
    if public:
        await client.trivial_encrypt(key_id, public)
    await client.submit(transaction)
    wanted = {name: names[name] for name in program.outputs}
    await client.wait(list(wanted.values()), seconds)
    for name, item in zip(wanted, await client.fetch(list(wanted.values())), strict=True):
        if item.ciphertext is None:
            raise InvalidInput(f"outputs.{name}", f"cannot be fetched, it is {item.state}")
        path = out / f"{name}.ct"
        path.write_bytes(item.ciphertext)
        click.echo(f"{path}  {len(item.ciphertext):,} bytes")
