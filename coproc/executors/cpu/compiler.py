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

import llvmlite
import llvmlite.binding as llvm

from coproc.errors import InvalidInput
from coproc.executors.cpu.machine import ISAS, ON_X86, Isa

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from coproc.executors.cpu.objects import ObjectCache

_AVX512: Final = ("avx512f", "avx512dq", "avx512vl", "avx512bw")
_AVX2: Final = ("avx2", "fma")
OPTION: Final = "-enable-misched=false"
"""LLVM's scheduler before register allocation hoists the twiddle loads of a pass, which then spill."""
_NEAR: Final = ("pic", "small")
"""Relocation and code model: constants lie near the code and are read in place, and nothing outside is called."""
_ANYWHERE: Final = ("static", "large")
"""Without instructions for fused products a function of the C library, far away, computes them."""
_OPTIONS: Final = (OPTION, *_NEAR, *_ANYWHERE, "speed level 2, no unrolling, no vectorization, code generation 3")
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

    def __init__(self, text: str, isa: Isa, cache: ObjectCache | None = None) -> None:
        """Compile a module, or take it from ``cache`` where it was compiled before."""
        self._text: Final = text
        self._isa: Final[Isa] = isa
        with _lock:
            _initialise()
            machine = _target_machine(isa)
            key = (text, llvmlite.__version__, str(llvm.llvm_version_info), *_target(isa), *_OPTIONS)
            content = self._compile() if cache is None else cache.get("\0".join(key).encode(), self._compile)
            # llvmlite's own memory manager puts code and constants side by side. LLVM's ends the process if they
            # come to lie over 2 GB apart, as they may in a process that has run for long.
            self._engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), machine, use_lmm=True)
            self._engine.add_object_file(llvm.ObjectFileRef.from_data(content))
            self._engine.finalize_object()

    def function(self, name: str, arguments: Sequence[type[ctypes.c_void_p | ctypes.c_int64]]) -> Callable[..., None]:
        """Return an exported function; calls release the GIL."""
        return ctypes.CFUNCTYPE(None, *arguments)(self._engine.get_function_address(name))

    def assembly(self) -> str:
        """Compile once more and return the text of the machine code."""
        return str(_target_machine(self._isa).emit_assembly(_optimised(self._text, self._isa)))

    def _compile(self) -> bytes:
        return bytes(_target_machine(self._isa).emit_object(_optimised(self._text, self._isa)))


def _optimised(text: str, isa: Isa) -> llvm.ModuleRef:
    module = llvm.parse_assembly(text)
    module.verify()
    options = llvm.create_pipeline_tuning_options(speed_level=2)
    options.loop_vectorization = False
    options.slp_vectorization = False
    options.loop_unrolling = False
    builder = llvm.create_pass_builder(_target_machine(isa), options)
    builder.getModulePassManager().run(module, builder)
    return module


def _initialise() -> None:
    if _state["ready"]:
        return
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    llvm.set_option("coproc", OPTION)
    _state["ready"] = True


def _target(isa: Isa) -> tuple[str, str, str]:
    """Return triple, processor and features."""
    triple = str(llvm.get_process_triple())
    if isa == "avx512":
        return triple, host_name(), str(llvm.get_host_cpu_features().flatten()) + ",-prefer-256-bit"
    if isa == "avx2":
        return triple, "haswell", ""
    return triple, "x86-64" if ON_X86 else "generic", ""


def _target_machine(isa: Isa) -> llvm.TargetMachine:
    triple, processor, features = _target(isa)
    target = llvm.Target.from_triple(triple)
    relocation, code_model = _ANYWHERE if isa == "baseline" and ON_X86 else _NEAR
    return target.create_target_machine(cpu=processor, features=features, opt=3, reloc=relocation, codemodel=code_model)
