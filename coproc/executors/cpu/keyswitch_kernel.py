"""Emit the keyswitch: gadget digits, then a blocked product with the key in exact integers modulo 2^64.

Decides the number format of the product and its blocks. A word of the key is cut into four signed parts of 16 bits,
``w = sum of part[p] * 2^(16 p)``, and digits are signed words of 16 bits as well, so that one instruction multiplies
two rows at once and adds both products in 32 bits. Sums are widened to 64 bits before they could overflow.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from coproc.executors.cpu.emitter import I16, I32, I64, POINTER, Function, Value, integer, vector

if TYPE_CHECKING:
    from coproc.executors.cpu.machine import Machine

PARTS: Final = 4
"""Signed parts of 16 bits in a word of the key."""
PART_BITS: Final = 16
BIAS: Final = 0x8000_8000_8000_8000
"""Adding it, then flipping the same bits, turns the four parts of a word into signed ones."""
LINE: Final = 32
"""Parts in a cache line."""
MOST_ROWS: Final = 256
"""Rows of the key in a block: its columns of these rows stay in the first-level cache while all ciphertexts pass."""


@dataclass(frozen=True, slots=True)
class KeyswitchTile:
    """Block of the product: ``ciphertexts`` times ``columns`` sums are held in registers over ``rows`` of the key."""

    columns: int
    ciphertexts: int
    rows: int

    @staticmethod
    def of(machine: Machine, base_log: int) -> KeyswitchTile:
        """Return the block for a machine and base; ``base_log`` is at most 15."""
        # rows * 2^(base_log-1) * 2^15 stays below 2^31
        return KeyswitchTile(
            columns=2 * machine.lanes,
            ciphertexts=4 if machine.lanes == 8 else 2,
            rows=min(MOST_ROWS, 1 << (16 - base_log)),
        )


def emit_keyswitch(machine: Machine, tile: KeyswitchTile, base_log: int, level: int) -> list[Function]:
    """Return ``keyswitch_key``, ``keyswitch_digits`` and ``keyswitch_tiles``, all exported."""
    return [_key(tile), _digits(tile, base_log, level), _tiles(machine, tile)]


def _key(tile: KeyswitchTile) -> Function:
    """Bring a range of tiles of the key into the order of the product.

    ``source`` (rows, width) u64 to ``out`` (tiles, rows/2, parts, columns, 2) i16, which holds zeros before.
    """
    names = [(POINTER, "source"), (POINTER, "out")]
    f = Function("keyswitch_key", [*names, (I64, "begin"), (I64, "end"), (I64, "rows"), (I64, "width")], exported=True)
    source, out, begin, end, rows, width = f.arguments
    words = PARTS * tile.columns

    def on_tile(number: Value) -> None:
        first = f.mul(number, tile.columns)
        left = f.sub(width, first)
        count = f.select(f.compare("ult", left, tile.columns), left, integer(tile.columns))

        def on_row(row: Value) -> None:
            start = f.element(source, I64, f.add(f.mul(row, width), first))
            pair = f.mul(f.add(f.mul(number, rows), f.bit_and(row, -2)), words)
            target = f.element(out, I16, f.add(pair, f.bit_and(row, 1)))

            def on_column(column: Value) -> None:
                word = f.load(f.element(start, I64, column), I64, align=8)
                parts = f.xor(f.add(word, BIAS), BIAS)
                for part in range(PARTS):
                    place = f.shl(f.add(column, part * tile.columns), 1)
                    value = f.convert("trunc", f.lshr(parts, PART_BITS * part), I16)
                    f.store(value, f.element(target, I16, place), align=2)

            f.loop(count, on_column)

        f.loop(rows, on_row)

    f.loop(end, on_tile, start=begin)
    return f


def _digits(tile: KeyswitchTile, base_log: int, level: int) -> Function:
    """Decompose ``count`` ciphertexts.

    ``ciphertexts`` (count, words+1) u64 to ``digits`` (groups, words*level/2, tile.ciphertexts, 2) i16, least
    significant digit first.
    """
    f = Function(
        "keyswitch_digits",
        [(POINTER, "ciphertexts"), (POINTER, "digits"), (I64, "words"), (I64, "count")],
        exported=True,
    )
    ciphertexts, digits, words, count = f.arguments
    bits = base_log * level

    def on_ciphertext(number: Value) -> None:
        source = f.element(ciphertexts, I64, f.mul(number, f.add(words, 1)))
        group, slot = f.udiv(number, tile.ciphertexts), f.bit_and(number, tile.ciphertexts - 1)
        target = f.add(f.mul(f.mul(group, words), level * tile.ciphertexts), f.shl(slot, 1))

        def on_word(index: Value) -> None:
            word = f.load(f.element(source, I64, index), I64, align=8)
            state = f.lshr(f.add(f.lshr(word, 63 - bits), 1), 1)
            state = f.bit_and(state, (1 << bits) - 1)
            for number_of_digit in range(level):
                digit = f.bit_and(state, (1 << base_log) - 1)
                state = f.lshr(state, base_log)
                carry = f.lshr(f.bit_and(f.bit_or(f.sub(digit, 1), state), digit), base_log - 1)
                state = f.add(state, carry)
                signed = f.convert("trunc", f.sub(digit, f.shl(carry, base_log)), I16)
                row = f.add(f.mul(index, level), number_of_digit)
                place = f.add(f.mul(f.bit_and(row, -2), tile.ciphertexts), f.bit_and(row, 1))
                f.store(signed, f.element(digits, I16, f.add(target, place)), align=2)

        f.loop(words, on_word)

    f.loop(count, on_ciphertext)
    return f


def _tiles(machine: Machine, tile: KeyswitchTile) -> Function:
    """Subtract ``digits * key`` from ``sums`` for a range of tiles.

    ``key`` and ``digits`` as above, ``sums`` (groups, ciphertexts, tiles, columns) u64; ``rows`` is a multiple of those
    of a block.
    """
    names = [(POINTER, "key"), (POINTER, "digits"), (POINTER, "sums")]
    counts = [(I64, "begin"), (I64, "end"), (I64, "tiles"), (I64, "groups"), (I64, "rows")]
    f = Function("keyswitch_tiles", [*names, *counts], exported=True)
    key, digits, sums, begin, end, tiles, groups, rows = f.arguments
    narrow, wide = vector(tile.columns, I32), vector(tile.columns, I64)
    halves, pairs = vector(2 * tile.columns, I16), tile.rows // 2
    row_words = 2 * PARTS * tile.columns
    lines_of_pair = row_words // LINE
    lines = f.udiv(f.add(groups, lines_of_pair - 1), groups)

    def on_tile(number: Value) -> None:
        def on_block(block: Value) -> None:
            first_pair = f.mul(block, pairs)
            key_rows = f.element(key, I16, f.mul(f.add(f.mul(number, f.lshr(rows, 1)), first_pair), row_words))

            def on_group(group: Value) -> None:
                digit_pair = f.add(f.mul(group, f.lshr(rows, 1)), first_pair)
                digit_rows = f.element(digits, I32, f.mul(digit_pair, tile.ciphertexts))

                # each of the first groups fetches its share of the next block from memory
                share = f.mul(group, lines)
                own = f.select(f.compare("ult", share, lines_of_pair), lines, integer(0))
                ahead = f.element(key_rows, I16, f.mul(f.add(f.mul(share, pairs), lines_of_pair * pairs), LINE))

                def on_pair(pair: Value, state: tuple[Value, ...]) -> list[Value]:
                    source = f.element(key_rows, I16, f.mul(pair, row_words))
                    first = f.mul(pair, lines)
                    f.loop(
                        own,
                        lambda line: f.prefetch(f.element(ahead, I16, f.mul(f.add(first, line), LINE)), cache=2),
                    )
                    parts = [
                        f.load(f.element(source, I16, 2 * tile.columns * part), halves, align=4 * tile.columns)
                        for part in range(PARTS)
                    ]
                    result: list[Value] = []
                    for ciphertext in range(tile.ciphertexts):
                        at = f.element(digit_rows, I32, f.add(f.mul(pair, tile.ciphertexts), ciphertext))
                        both = f.splat(f.load(at, I32, align=4), tile.columns)
                        digit = f.convert("bitcast", both, halves)
                        for part in range(PARTS):
                            total = state[PARTS * ciphertext + part]
                            result.append(f.add(total, f.pair_products(parts[part], digit, native=machine.pairs)))
                    return result

                zeros = [integer(0, narrow)] * (PARTS * tile.ciphertexts)
                totals = f.loop_with_state(pairs, zeros, on_pair)
                for ciphertext in range(tile.ciphertexts):
                    row = f.add(f.mul(group, tile.ciphertexts), ciphertext)
                    place = f.element(sums, I64, f.mul(f.add(f.mul(row, tiles), number), tile.columns))
                    value = f.load(place, wide, align=8)
                    for part in range(PARTS):
                        total = f.convert("sext", totals[PARTS * ciphertext + part], wide)
                        value = f.sub(value, f.shl(total, PART_BITS * part))
                    f.store(value, place, align=8)

            f.loop(groups, on_group)

        f.loop(f.udiv(rows, tile.rows), on_block)

    f.loop(end, on_tile, start=begin)
    return f
