"""Compile emitted IR for this machine: the only module that talks to LLVM.

Decides the instruction sets that exist and how they are told to LLVM. Optimisation passes cannot change results: the IR
has no fast-math flags and names every fused step.
"""
# llvmlite has no type information, so its objects are opaque here and must not leave this module.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportMissingTypeStubs=false

from __future__ import annotations

import ctypes
import threading
from typing import TYPE_CHECKING, Final

import llvmlite.binding as llvm

from coproc.errors import InvalidInput
from coproc.executors.cpu.machine import ISAS, Isa

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_AVX512: Final = ("avx512f", "avx512dq", "avx512vl", "avx512bw")
_AVX2: Final = ("avx2", "fma")
_lock = threading.Lock()
_state = {"ready": False}


def host_name() -> str:
    """Return LLVM's name of this machine's processor."""
    return str(llvm.get_host_cpu_name())


def detect_isa() -> Isa:
    """Return the widest instruction set that this machine has a kernel for."""
    features = llvm.get_host_cpu_features()
    if all(features.get(name, False) for name in (*_AVX512, *_AVX2)):
        return "avx512"
    if all(features.get(name, False) for name in _AVX2):
        return "avx2"
    return "baseline"


def check_isa(isa: str) -> Isa:
    """Return ``isa`` if there is such an instruction set and this machine has it.

    Raises:
        InvalidInput: it is unknown, or wider than the machine's.
    """
    for known in ISAS:
        if known == isa:
            if ISAS.index(known) < ISAS.index(detect_isa()):
                raise InvalidInput("isa", f"{isa} is not supported by this machine")
            return known
    raise InvalidInput("isa", f"must be one of {', '.join(ISAS)}, got {isa!r}")


class Library:
    """Machine code in memory; it lives as long as this object."""

    def __init__(self, text: str, isa: Isa) -> None:
        """Compile a module."""
        with _lock:
            _initialise()
            module = llvm.parse_assembly(text)
            module.verify()
            machine = _target_machine(isa)
            options = llvm.create_pipeline_tuning_options(speed_level=2)
            options.loop_vectorization = False
            options.slp_vectorization = False
            options.loop_unrolling = False
            builder = llvm.create_pass_builder(machine, options)
            builder.getModulePassManager().run(module, builder)
            self._engine = llvm.create_mcjit_compiler(module, machine)
            self._engine.finalize_object()
            self.assembly: Callable[[], str] = lambda: str(machine.emit_assembly(module))

    def function(self, name: str, arguments: Sequence[type[ctypes.c_void_p | ctypes.c_int64]]) -> Callable[..., None]:
        """Return an exported function; calls release the GIL."""
        return ctypes.CFUNCTYPE(None, *arguments)(self._engine.get_function_address(name))


def _initialise() -> None:
    if _state["ready"]:
        return
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    # LLVM's scheduler before register allocation hoists the twiddle loads of a pass, which then spill.
    llvm.set_option("coproc", "-enable-misched=false")
    _state["ready"] = True


def _target_machine(isa: Isa) -> llvm.TargetMachine:
    if isa == "avx512":
        processor, features = host_name(), str(llvm.get_host_cpu_features().flatten()) + ",-prefer-256-bit"
    elif isa == "avx2":
        processor, features = "haswell", ""
    else:
        processor, features = "x86-64", ""
    target = llvm.Target.from_default_triple()
    return target.create_target_machine(cpu=processor, features=features, opt=3)
