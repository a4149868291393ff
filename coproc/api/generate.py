"""Generate the Python classes of the public API from ``proto/`` (``python -m coproc.api.generate``, ``make proto``).

Decides the compiler's options and where the result goes; needs the development tools and a source checkout. The result
is committed, so that users install without a compiler and reviewers see what changes for clients.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

from coproc.errors import FatalError

PROTO: Final = Path(__file__).parents[2] / "proto"
"""Root of the ``.proto`` files in a source checkout."""
GENERATED: Final = Path(__file__).parent / "generated"
"""Where the committed result lives."""


def generate(target: Path) -> None:
    """Write the generated package into the existing folder ``target``.

    Raises:
        FatalError: the compiler failed; the message carries what it said.
    """
    sources = sorted(str(path.relative_to(PROTO)) for path in PROTO.rglob("*.proto"))
    command = [
        sys.executable,
        "-m",
        "grpc_tools.protoc",
        f"-I{PROTO}",
        f"--python_betterproto2_out={target}",
        "--python_betterproto2_opt=client_generation=async,server_generation=async",
        *sources,
    ]
    # protoc looks for its plugin, and the plugin for its formatter, on the path.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    result = subprocess.run(  # noqa: S603 - our own command, no shell
        command, env={**os.environ, "PATH": path}, capture_output=True, text=True, check=False
    )
    if result.returncode != 0:
        raise FatalError(f"the protobuf compiler failed with status {result.returncode}:\n{result.stderr}")


def files_of(folder: Path) -> dict[str, bytes]:
    """Read a generated package: relative path to contents, without byte code."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts
    }


def main() -> None:
    """Replace the committed package by a fresh one."""
    with tempfile.TemporaryDirectory(prefix="coproc-proto-") as name:
        fresh = Path(name)
        generate(fresh)
        shutil.rmtree(GENERATED, ignore_errors=True)
        shutil.copytree(fresh, GENERATED)
    print(f"wrote {len(files_of(GENERATED))} files to {GENERATED}")  # noqa: T201 - the answer to a person


if __name__ == "__main__":
    main()
