"""NVIDIA's run-time compiler and disassembler by their C and command-line interfaces: no driver, no device.

Says what became of a kernel: registers, bytes on the stack, and how often each instruction stands in its loops.
"""

from __future__ import annotations

import ctypes
import re
import subprocess
from collections import Counter
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

_REPORT = re.compile(
    r"Compiling entry function '(\w+)'.*?(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads"
    r".*?Used (\d+) registers",
    re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class Resources:
    """What every thread of a kernel takes."""

    registers: int
    stack_bytes: int
    """Of local memory: spilled registers and arrays that are indexed at run time."""


def folder() -> Path | None:
    """Where the wheels keep the tools; None if they are not installed."""
    spec = find_spec("nvidia")
    places = list(spec.submodule_search_locations or []) if spec is not None else []
    found = [place for place in (Path(each) / "cu13" for each in places) if (place / "bin" / "nvdisasm").exists()]
    return found[0] if found and list((found[0] / "lib").glob("libnvrtc.so.*")) else None


def compile_kernels(
    source: str, architecture: str, definitions: Mapping[str, int]
) -> tuple[bytes, dict[str, Resources]]:
    """Compile to machine code; returns it with the resources of every kernel."""
    place = folder()
    assert place is not None
    library = ctypes.CDLL(str(next((place / "lib").glob("libnvrtc.so.*"))))
    program = ctypes.c_void_p()
    assert library.nvrtcCreateProgram(ctypes.byref(program), source.encode(), b"kernels.cu", 0, None, None) == 0
    options = [f"--gpu-architecture={architecture}", "-std=c++17", "--fmad=false", "--ptxas-options=-v"]
    options += [f"-D{name}={value}" for name, value in definitions.items()]
    words = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
    status = library.nvrtcCompileProgram(program, len(options), words)
    log = _read(library, program, "ProgramLog").decode()
    assert status == 0, log
    code = _read(library, program, "CUBIN")
    library.nvrtcDestroyProgram(ctypes.byref(program))
    return code, {
        name: Resources(int(registers), int(stack) + int(stores) + int(loads))
        for name, stack, stores, loads, registers in _REPORT.findall(log)
    }


def _read(library: ctypes.CDLL, program: ctypes.c_void_p, what: str) -> bytes:
    size = ctypes.c_size_t()
    assert library[f"nvrtcGet{what}Size"](program, ctypes.byref(size)) == 0
    buffer = ctypes.create_string_buffer(size.value)
    assert library[f"nvrtcGet{what}"](program, buffer) == 0
    return buffer.raw[: size.value].rstrip(b"\0") if what == "ProgramLog" else buffer.raw[: size.value]


def longest_loop(code: bytes, kernel: str, scratch: Path) -> Counter[str]:
    """Count the instructions of a kernel's longest loop by name."""
    place = folder()
    assert place is not None
    scratch.write_bytes(code)
    command = [str(place / "bin" / "nvdisasm"), "-c", str(scratch)]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    section = re.search(rf"\.text\.{kernel}:(.*?)(?=\n\s*\.section|\Z)", text, re.DOTALL)
    assert section is not None
    labels: dict[str, int] = {}
    instructions: list[str] = []
    for line in section[1].splitlines():
        if label := re.match(r"\s*(\.L_x_\d+):", line):
            labels[label[1]] = len(instructions)
        elif found := re.match(r"\s*/\*[0-9a-f]+\*/\s+(.*?);", line):
            instructions.append(re.sub(r"^@!?U?P\d+\s+", "", found[1].strip()))
    loops = [
        (labels[target[1]], end)
        for end, instruction in enumerate(instructions)
        if (target := re.search(r"BRA.*?`\((\.L_x_\d+)\)", instruction)) and labels.get(target[1], end + 1) <= end
    ]
    begin, end = max(loops, key=lambda loop: loop[1] - loop[0])
    return Counter(instruction.split()[0] for instruction in instructions[begin : end + 1])
