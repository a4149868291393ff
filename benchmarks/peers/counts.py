"""``make count-peers``: how many bootstraps TFHE-rs makes, counted by itself (its feature ``pbs-stats``).

Decides what is counted: every operation of its high-level API that coproc has too, on every type, with encrypted and
with public right operands, and the three transfers; on two threads and on many, since TFHE-rs chooses its algorithms by
that. Toy parameters do: how many bootstraps there are does not depend on them. As in TFHE-rs, look-ups of public values
count too, and one with several tables counts once.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Final

import click

from benchmarks.peers.cases import transfer_cases
from benchmarks.peers.protocol import COUNTING, Peer, Work
from coproc.errors import FatalError
from coproc.program.computation import Operation
from coproc.program.meaning import evaluate_graph
from coproc.program.types import FheType
from coproc.program.wordgraph import Constant, Input, Step, Value, WordGraph

if TYPE_CHECKING:
    from collections.abc import Sequence

    from coproc.program.wordgraph import Operand

THREADS: Final = (2, 64)
DRAWS: Final = 8
Record = dict[str, dict[str, dict[str, object]]]
"""By number of threads, then by type (or ``transfers``), then by operation (or flavour)."""
WIDTHS: Final = (8, 16, 32, 64, 128, 256)
TYPES: Final = ("ebool", *(f"euint{bits}" for bits in WIDTHS), *(f"eint{bits}" for bits in WIDTHS))
UNARY: Final = ("neg", "not")
COMPARISONS: Final = ("eq", "ne", "lt", "le", "gt", "ge")
SHIFTS: Final = ("shl", "shr", "rotl", "rotr")
BINARY: Final = ("add", "sub", "mul", "div", "rem", "bit_and", "bit_or", "bit_xor", *COMPARISONS, "min", "max", *SHIFTS)
OF_BOOLEANS: Final = ("bit_and", "bit_or", "bit_xor", "eq", "ne", "not", "if_then_else")
OTHERS: Final = (*UNARY, "if_then_else", "sum_8", "sum_32", "rand")


def type_named(name: str) -> FheType:
    """Return the type of a name like ``euint64``."""
    return FheType[name.removeprefix("e").upper()]


def count(peer: Peer, name: str, type_name: str, threads: int, rng: random.Random, *, scalar: bool = False) -> int:
    """Count one instance on random operands, whose result is checked.

    Raises:
        FatalError: the result is wrong, or the peer does not count.
    """
    fhe_type = type_named(type_name)
    is_shift, unsigned = name in SHIFTS, FheType[f"UINT{fhe_type.bits}"] if fhe_type.bits > 1 else FheType.BOOL
    if name.startswith("sum_"):
        types = [fhe_type] * int(name.removeprefix("sum_"))
    elif name == "if_then_else":
        types = [FheType.BOOL, fhe_type, fhe_type]
    elif name == "rand":
        types = []
    else:
        types = [fhe_type] if name in UNARY else [fhe_type, unsigned if is_shift else fhe_type]
    operands = [rng.getrandbits(operand.bits) for operand in types]
    if scalar and is_shift:
        operands[-1] = rng.randrange(1, fhe_type.bits)
    if name in {"div", "rem"}:
        operands[-1] |= 1
    answer = peer.ask(Work(name, type_name, [_extended(operands, types)], threads, scalar=scalar))
    if answer.bootstraps is None:
        raise FatalError("the peer was built without its feature count")
    if name != "rand":
        expected = _meaning(name, fhe_type, types, operands, scalar=scalar)
        if list(answer.values[0]) != [expected]:
            raise FatalError(f"{name} on {type_name} of {operands} gave {answer.values[0]}, expected {expected}")
    return answer.bootstraps


def _extended(operands: Sequence[int], types: Sequence[FheType]) -> list[int]:
    """Extend signs: what a native integer holds."""
    return [
        value - (1 << fhe_type.bits) if fhe_type.is_signed and value >> (fhe_type.bits - 1) else value
        for value, fhe_type in zip(operands, types, strict=True)
    ]


def _meaning(name: str, fhe_type: FheType, types: Sequence[FheType], operands: Sequence[int], *, scalar: bool) -> int:
    operation = Operation.SUM if name.startswith("sum_") else Operation[name.upper()]
    result = FheType.BOOL if name in COMPARISONS else fhe_type
    sources: list[Operand] = [Value(place) for place in range(len(types))]
    inputs = tuple(Input(operand) for operand in types)
    if scalar:
        sources[-1], inputs = Constant(operands[-1]), inputs[:-1]
    graph = WordGraph(inputs, (Step(operation, result, tuple(sources)),), (len(inputs),))
    value = evaluate_graph(graph, operands[: len(inputs)])[-1]
    return value % (1 << result.bits)


def count_type(
    peer: Peer, type_name: str, threads: int, draws: int, names: Sequence[str] = ()
) -> dict[str, dict[str, object]]:
    """Count the operations of a type (all, or those named) on so many threads."""
    rng = random.Random(f"{type_name} {threads}")  # noqa: S311 - the same on every run
    all_names = OF_BOOLEANS if type_name == "ebool" else (*BINARY, *OTHERS)
    rows: dict[str, dict[str, object]] = {}
    for name in [name for name in all_names if not names or name in names]:
        rows[name] = {"encrypted": count(peer, name, type_name, threads, rng)}
        if type_name != "ebool" and name in BINARY:
            found = [count(peer, name, type_name, threads, rng, scalar=True) for _ in range(draws)]
            rows[name]["public"] = {"mean": round(mean(found), 1), "least": min(found), "most": max(found)}
    return rows


def count_transfers(peer: Peer, threads: int) -> dict[str, int | None]:
    """Count the transfers."""
    cases = [case for case in transfer_cases() if case.way == "latency"]
    return {case.name: peer.ask(Work(case.name, "", case.operands(1), threads)).bootstraps for case in cases}


@click.command()
@click.option(
    "--draws", default=DRAWS, show_default=True, help="Public operands of each operation; wide types: a fourth."
)
@click.option("--threads", "thread_counts", multiple=True, type=int, default=THREADS, show_default=True)
@click.option("--type", "types", multiple=True, type=click.Choice(TYPES), default=TYPES, help="Default: all.")
@click.option("--operation", "names", multiple=True, help="Default: all.")
@click.option("--out", type=click.Path(path_type=Path), default="benchmarks/results/tfhe-rs-counts.json")
def main(draws: int, thread_counts: tuple[int, ...], types: tuple[str, ...], names: tuple[str, ...], out: Path) -> None:
    """Count TFHE-rs's bootstraps, and record them; what was recorded before and is not counted now stays."""
    record: Record = json.loads(out.read_text()) if out.exists() else {}
    out.parent.mkdir(parents=True, exist_ok=True)
    with Peer(COUNTING, "toy") as peer:
        for threads in thread_counts:
            part = record.setdefault(str(threads), {})
            if not names:
                part["transfers"] = dict(count_transfers(peer, threads))
            for type_name in types:
                wide = type_named(type_name).bits > 64
                rows = count_type(peer, type_name, threads, max(1, draws // 4) if wide else draws, names)
                part[type_name] = part.get(type_name, {}) | rows
                out.write_text(json.dumps(record, indent=1) + "\n")
                click.echo(f"{threads} threads: {type_name} counted", err=True)
    click.echo(f"recorded in {out}")


if __name__ == "__main__":
    main()
