"""Emit what surrounds keyswitch and bootstrap in a level: linear forms before, the modulus switch between.

Decides how both run over rows of ciphertexts; the operations are exact integers, those of ``coproc.executors.lwe``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from coproc.executors.cpu.emitter import I16, I64, Function, Value, integer, vector
from coproc.executors.cpu.step_kernel import define

if TYPE_CHECKING:
    from coproc.executors.cpu.machine import Machine

TORUS_BITS = 64


def emit_level(machine: Machine, polynomial_size: int, *, centred: bool) -> list[Function]:
    """Return ``combine`` and ``switch``, both exported; ``centred`` asks for the centred-mean modulus switch."""
    functions: list[Function] = []
    _combine(functions, machine, polynomial_size)
    _switch(functions, (2 * polynomial_size).bit_length() - 1, centred=centred)
    return functions


def _combine(functions: list[Function], machine: Machine, words: int) -> None:
    """Write linear forms of ciphertexts.

    ``ciphertexts`` (S, N+1) u64; form ``i`` has the terms from ``offsets[i]`` on, each with a row and a coefficient,
    and a constant that is added to the body, all i64; ``out`` (F, N+1) u64.
    """
    f = define(
        functions,
        "combine",
        "p:ciphertexts p:offsets p:rows p:coefficients p:constants p:out i:begin i:end",
        exported=True,
    )
    ciphertexts, offsets, rows, coefficients, constants, out, begin, end = f.arguments
    kind = vector(machine.lanes, I64)

    def word(pointer: Value, index: Value) -> Value:
        return f.load(f.element(pointer, I64, index), I64, align=8)

    def on_form(form: Value) -> None:
        target = f.element(out, I64, f.mul(form, words + 1))
        body = f.element(target, I64, words)
        f.loop(
            words // machine.lanes,
            lambda place: f.store(integer(0, kind), f.element(target, I64, f.mul(place, machine.lanes)), align=8),
        )
        f.store(word(constants, form), body, align=8)

        def on_term(term: Value) -> None:
            source = f.element(ciphertexts, I64, f.mul(word(rows, term), words + 1))
            coefficient = word(coefficients, term)
            factors = f.splat(coefficient, machine.lanes)

            def on_words(place: Value) -> None:
                at = f.mul(place, machine.lanes)
                address = f.element(target, I64, at)
                own = f.load(f.element(source, I64, at), kind, align=8)
                f.store(f.add(f.load(address, kind, align=8), f.mul(own, factors)), address, align=8)

            f.loop(words // machine.lanes, on_words)
            own = f.mul(f.load(f.element(source, I64, words), I64, align=8), coefficient)
            f.store(f.add(f.load(body, I64, align=8), own), body, align=8)

        f.loop(word(offsets, f.add(form, 1)), on_term, start=word(offsets, form))

    f.loop(end, on_form, start=begin)


def _switch(functions: list[Function], bits: int, *, centred: bool) -> None:
    """Round small ciphertexts to ``bits`` bits: ``small`` rows of ``stride`` u64 words to ``out`` (F, n+1) u16."""
    f = define(functions, "switch", "p:small p:out i:dimension i:stride i:begin i:end", exported=True)
    small, out, dimension, stride, begin, end = f.arguments

    def rounded(word: Value) -> Value:
        return f.lshr(f.add(f.lshr(word, TORUS_BITS - 1 - bits), 1), 1)

    def store(value: Value, target: Value, index: Value) -> None:
        case = f.convert("trunc", f.bit_and(value, (1 << bits) - 1), I16)
        f.store(case, f.element(target, I16, index), align=2)

    def halved(value: Value) -> Value:
        """Divide by two, towards zero."""
        return f.ashr(f.sub(value, f.ashr(value, TORUS_BITS - 1)), 1)

    def on_ciphertext(number: Value) -> None:
        source = f.element(small, I64, f.mul(number, stride))
        target = f.element(out, I16, f.mul(number, f.add(dimension, 1)))

        def on_word(index: Value, state: tuple[Value, ...]) -> tuple[Value, ...]:
            word = f.load(f.element(source, I64, index), I64, align=8)
            case = rounded(word)
            store(case, target, index)
            error = f.sub(f.shl(case, TORUS_BITS - bits), word)
            half = halved(error)
            return f.add(state[0], half), f.add(state[1], f.sub(f.shl(half, 1), error))

        halves, lost = f.loop_with_state(dimension, (integer(0), integer(0)), on_word)
        body = f.load(f.element(source, I64, dimension), I64, align=8)
        if centred:
            body = f.add(body, f.sub(halves, f.add(halved(lost), 1 << (TORUS_BITS - 1 - bits))))
        store(rounded(body), target, dimension)

    f.loop(end, on_ciphertext, start=begin)
