"""Write LLVM IR as text: a thin, typed layer with no knowledge of what is computed.

Decides how values, loops and memory accesses are spelt. Every floating-point operation is emitted as a single IEEE-754
step without fast-math flags, so the compiler may neither fuse nor reorder them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

I16, I32, I64, DOUBLE, POINTER, VOID = "i16", "i32", "i64", "double", "ptr", "void"
CACHE_LINE = 64
"""Bytes of a cache line."""


def vector(lanes: int, element: str) -> str:
    """Return the type of a vector."""
    return f"<{lanes} x {element}>"


@dataclass(frozen=True, slots=True)
class Value:
    """An SSA value, argument or constant, with its LLVM type."""

    text: str
    type: str

    @property
    def typed(self) -> str:
        """Spelling as an operand with type."""
        return f"{self.type} {self.text}"


def integer(number: int, kind: str = I64) -> Value:
    """Return an integer constant, the same in all lanes if ``kind`` is a vector."""
    return Value(_constant(str(number), kind), kind)


def floating(number: float, kind: str) -> Value:
    """Return a floating-point constant, the same in all lanes if ``kind`` is a vector."""
    return Value(_constant(f"{number:.1f}", kind), kind)


def _constant(text: str, kind: str) -> str:
    if not kind.startswith("<"):
        return text
    lanes, element = kind[1:-1].split(" x ")
    return "<" + ", ".join([f"{element} {text}"] * int(lanes)) + ">"


class Function:
    """One function under construction: instructions are appended to its current block."""

    def __init__(self, name: str, parameters: Sequence[tuple[str, str]], *, exported: bool = False) -> None:
        """Start a void function; ``parameters`` are (type, name), pointers never alias each other."""
        self.name = name
        self._exported = exported
        self._parameters = tuple(Value(f"%{label}", kind) for kind, label in parameters)
        self._lines: list[str] = []
        self._names = 0
        self._block = "entry"
        self.declarations: set[str] = set()

    @property
    def arguments(self) -> tuple[Value, ...]:
        """The parameters as values."""
        return self._parameters

    def text(self) -> str:
        """Return the definition; the function returns at the end of its last block."""
        kinds = ", ".join(
            f"{value.type} noalias {value.text}" if value.type == POINTER else value.typed for value in self._parameters
        )
        linkage = "" if self._exported else "internal "
        # Where vectors are moved to the stack none should lie across two cache lines, nor across two pages.
        inlining = "" if self._exported else f" noinline alignstack({CACHE_LINE})"
        body = "\n".join(self._lines)
        # A loop that looks like memset stays a loop: code that calls nothing outside can be loaded anywhere.
        head = f'define {linkage}void @{self.name}({kinds}) nounwind "no-builtins"{inlining}'
        return f"{head} {{\nentry:\n{body}\n  ret void\n}}\n"

    def _emit(self, kind: str, text: str) -> Value:
        self._names += 1
        name = f"%v{self._names}"
        self._lines.append(f"  {name} = {text}")
        return Value(name, kind)

    def _binary(self, operation: str, left: Value, right: Value) -> Value:
        return self._emit(left.type, f"{operation} {left.typed}, {right.text}")

    # ------------------------------------------------------------------ floating point, one rounding each
    def fadd(self, left: Value, right: Value) -> Value:
        """Return ``left + right``."""
        return self._binary("fadd", left, right)

    def fsub(self, left: Value, right: Value) -> Value:
        """Return ``left - right``."""
        return self._binary("fsub", left, right)

    def fmul(self, left: Value, right: Value) -> Value:
        """Return ``left * right``."""
        return self._binary("fmul", left, right)

    def fneg(self, value: Value) -> Value:
        """Return ``-value``, exact."""
        return self._emit(value.type, f"fneg {value.typed}")

    def fma(self, left: Value, right: Value, added: Value) -> Value:
        """Return ``left * right + added``, rounded once."""
        lanes = left.type[1:-1].split(" x ")[0]
        name = f"@llvm.fma.v{lanes}f64"
        self.declarations.add(f"declare {left.type} {name}({left.type}, {left.type}, {left.type})")
        return self._emit(left.type, f"call {left.type} {name}({left.typed}, {right.typed}, {added.typed})")

    def fnma(self, left: Value, right: Value, added: Value) -> Value:
        """Return ``-left * right + added``, rounded once.

        The minus is written at ``right``: at a value that a loop does not change, LLVM would take it out of the loop,
        and the negated copy would hold a register.
        """
        return self.fma(left, self.fneg(right), added)

    def without_integer(self, value: Value) -> Value:
        """Return ``value`` minus the nearest integer, ties to even, exact; only for 512-bit vectors of doubles."""
        name = "@llvm.x86.avx512.mask.reduce.pd.512"
        kind = value.type
        self.declarations.add(f"declare {kind} {name}({kind}, i32, {kind}, i8, i32)")
        return self._emit(kind, f"call {kind} {name}({value.typed}, i32 8, {kind} zeroinitializer, i8 -1, i32 4)")

    # ------------------------------------------------------------------ integers
    def add(self, left: Value, right: Value | int) -> Value:
        """Return ``left + right``, modulo the width."""
        return self._binary("add", left, self._integer(right, left))

    def sub(self, left: Value, right: Value | int) -> Value:
        """Return ``left - right``, modulo the width."""
        return self._binary("sub", left, self._integer(right, left))

    def mul(self, left: Value, right: Value | int) -> Value:
        """Return ``left * right``, modulo the width."""
        return self._binary("mul", left, self._integer(right, left))

    def bit_and(self, left: Value, right: Value | int) -> Value:
        """Return the bitwise and."""
        return self._binary("and", left, self._integer(right, left))

    def bit_or(self, left: Value, right: Value | int) -> Value:
        """Return the bitwise or."""
        return self._binary("or", left, self._integer(right, left))

    def xor(self, left: Value, right: Value | int) -> Value:
        """Return the bitwise exclusive or."""
        return self._binary("xor", left, self._integer(right, left))

    def shl(self, left: Value, right: Value | int) -> Value:
        """Shift left."""
        return self._binary("shl", left, self._integer(right, left))

    def lshr(self, left: Value, right: Value | int) -> Value:
        """Shift right, filling with zeros."""
        return self._binary("lshr", left, self._integer(right, left))

    def ashr(self, left: Value, right: Value | int) -> Value:
        """Shift right, filling with the sign."""
        return self._binary("ashr", left, self._integer(right, left))

    def udiv(self, left: Value, right: Value | int) -> Value:
        """Divide without sign."""
        return self._binary("udiv", left, self._integer(right, left))

    def pair_products(self, left: Value, right: Value, *, native: bool) -> Value:
        """Multiply signed 16-bit lanes and add neighbours, in 32-bit lanes; ``native``: by x86's instruction for it."""
        lanes = int(left.type[1:-1].split(" x ", maxsplit=1)[0])
        kind = vector(lanes // 2, I32)
        if native:
            name = {32: "avx512.pmaddw.d.512", 16: "avx2.pmadd.wd", 8: "sse2.pmadd.wd"}[lanes]
            self.declarations.add(f"declare {kind} @llvm.x86.{name}({left.type}, {left.type})")
            return self._emit(kind, f"call {kind} @llvm.x86.{name}({left.typed}, {right.typed})")
        wide = vector(lanes, I32)
        products = self.mul(self.convert("sext", left, wide), self.convert("sext", right, wide))
        even, odd = (self.shuffle(products, products, range(first, lanes, 2)) for first in (0, 1))
        return self.add(even, odd)

    def compare(self, predicate: str, left: Value, right: Value | int) -> Value:
        """Compare by an LLVM predicate such as ``ult``."""
        right = self._integer(right, left)
        kind = f"{left.type.split(' x ')[0]} x i1>" if left.type.startswith("<") else "i1"
        return self._emit(kind, f"icmp {predicate} {left.typed}, {right.text}")

    def select(self, condition: Value, yes: Value, no: Value) -> Value:
        """Choose without a branch."""
        return self._emit(yes.type, f"select {condition.typed}, {yes.typed}, {no.typed}")

    def convert(self, operation: str, value: Value, kind: str) -> Value:
        """Convert by an LLVM instruction: ``zext``, ``sext``, ``trunc``, ``sitofp``, ``bitcast``."""
        return self._emit(kind, f"{operation} {value.typed} to {kind}")

    @staticmethod
    def _integer(value: Value | int, like: Value) -> Value:
        return integer(value, like.type) if isinstance(value, int) else value

    # ------------------------------------------------------------------ lanes
    def splat(self, value: Value, lanes: int) -> Value:
        """Repeat a scalar in all lanes."""
        kind = vector(lanes, value.type)
        first = self._emit(kind, f"insertelement {kind} poison, {value.typed}, i32 0")
        return self._emit(kind, f"shufflevector {first.typed}, {kind} poison, <{lanes} x i32> zeroinitializer")

    def shuffle(self, left: Value, right: Value, lanes: Sequence[int]) -> Value:
        """Pick lanes of two vectors side by side, as many as are asked for."""
        picked = ", ".join(f"i32 {lane}" for lane in lanes)
        kind = vector(len(lanes), left.type[1:-1].split(" x ")[1])
        return self._emit(kind, f"shufflevector {left.typed}, {right.typed}, <{len(lanes)} x i32> <{picked}>")

    # ------------------------------------------------------------------ memory
    def element(self, pointer: Value, kind: str, index: Value | int) -> Value:
        """Return the address of element ``index`` of an array of ``kind``."""
        index = integer(index) if isinstance(index, int) else index
        return self._emit(POINTER, f"getelementptr {kind}, {pointer.typed}, {index.typed}")

    def load(self, pointer: Value, kind: str, *, align: int) -> Value:
        """Load a scalar or vector."""
        return self._emit(kind, f"load {kind}, {pointer.typed}, align {align}")

    def store(self, value: Value, pointer: Value, *, align: int) -> None:
        """Store a scalar or vector."""
        self._lines.append(f"  store {value.typed}, {pointer.typed}, align {align}")

    def reload(self) -> None:
        """Let LLVM load again what was stored before, where it would else keep it in registers; no instruction."""
        self._lines.append('  fence syncscope("singlethread") acq_rel')

    def fetch_add(self, pointer: Value) -> Value:
        """Add one to a shared 64-bit counter; return what it was."""
        return self._emit(I64, f"atomicrmw add {pointer.typed}, i64 1 monotonic, align 8")

    def prefetch(self, pointer: Value, *, cache: int) -> None:
        """Ask for a line to be brought into the first- or second-level ``cache``; any address will do."""
        self.declarations.add("declare void @llvm.prefetch.p0(ptr, i32, i32, i32)")
        self._lines.append(f"  call void @llvm.prefetch.p0({pointer.typed}, i32 0, i32 {4 - cache}, i32 1)")

    # ------------------------------------------------------------------ control
    def call(self, function: Function, *arguments: Value) -> None:
        """Call a void function of the same module."""
        self._lines.append(f"  call void @{function.name}({', '.join(value.typed for value in arguments)})")

    def when(self, condition: Value, body: Callable[[], None]) -> None:
        """Run ``body`` only if the condition holds."""
        inside, after = self._label("then"), self._label("after")
        self._lines.append(f"  br {condition.typed}, label %{inside}, label %{after}")
        self._start(inside)
        body()
        self._lines.append(f"  br label %{after}")
        self._start(after)

    def loop(self, count: Value | int, body: Callable[[Value], None], *, start: Value | int = 0, step: int = 1) -> None:
        """Run ``body(i)`` for every ``step``-th ``i`` from ``start`` to ``count - 1``."""

        def without_state(index: Value, _state: tuple[Value, ...]) -> tuple[Value, ...]:
            body(index)
            return ()

        self.loop_with_state(count, (), without_state, start=start, step=step)

    def loop_with_state(
        self,
        count: Value | int,
        initial: Sequence[Value],
        body: Callable[[Value, tuple[Value, ...]], Sequence[Value]],
        *,
        start: Value | int = 0,
        step: int = 1,
    ) -> tuple[Value, ...]:
        """Run ``body(i, state)``, which returns the next state; gives the last state.

        The loop runs at least once when it has a state.
        """
        start = integer(start) if isinstance(start, int) else start
        count = integer(count) if isinstance(count, int) else count
        head, latch, after = self._label("head"), self._label("latch"), self._label("after")
        before = self._block
        if initial:
            self._lines.append(f"  br label %{head}")
        else:
            enough = self.compare("ult", start, count)
            self._lines.append(f"  br {enough.typed}, label %{head}, label %{after}")
        self._start(head)
        index, following = Value(f"%{head}.i", I64), Value(f"%{head}.next", I64)
        self._lines.append(f"  {index.text} = phi i64 [ {start.text}, %{before} ], [ {following.text}, %{latch} ]")
        state = tuple(Value(f"%{head}.s{number}", value.type) for number, value in enumerate(initial))
        place = len(self._lines)
        self._lines.extend([""] * len(state))
        advanced = body(index, state)
        for number, (value, first, last) in enumerate(zip(state, initial, advanced, strict=True)):
            self._lines[place + number] = (
                f"  {value.text} = phi {value.type} [ {first.text}, %{before} ], [ {last.text}, %{latch} ]"
            )
        self._lines.append(f"  br label %{latch}")
        self._start(latch)
        self._lines.append(f"  {following.text} = add i64 {index.text}, {step}")
        more = self.compare("ult", following, count)
        self._lines.append(f"  br {more.typed}, label %{head}, label %{after}")
        self._start(after)
        return tuple(advanced)

    def _label(self, kind: str) -> str:
        self._names += 1
        return f"{kind}{self._names}"

    def _start(self, label: str) -> None:
        self._lines.append(f"{label}:")
        self._block = label


def module(functions: Sequence[Function]) -> str:
    """Return the text of a module of these functions."""
    declarations = sorted({line for function in functions for line in function.declarations})
    return "\n".join([*declarations, *(function.text() for function in functions)])
