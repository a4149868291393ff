"""Emit the keyswitch: gadget digits, then a tiled product with the key in exact integers modulo 2^64.

Decides tile sizes for each vector width. Digits are biased by half the base, so that no product has a sign; the
executor takes the bias off again with the sums of the key's columns.
"""

from __future__ import annotations

from dataclasses import dataclass

from coproc.executors.cpu.emitter import I64, POINTER, Function, Value, integer, vector


@dataclass(frozen=True, slots=True)
class KeyswitchTile:
    """Block of the product held in registers: ``ciphertexts`` times ``columns``."""

    lanes: int
    vectors: int
    ciphertexts: int

    @property
    def columns(self) -> int:
        """Columns of the key in one tile."""
        return self.lanes * self.vectors


TILES = {8: KeyswitchTile(8, 3, 8), 4: KeyswitchTile(4, 2, 4), 2: KeyswitchTile(2, 2, 2)}
"""By number of lanes: as many accumulators as the registers hold."""

ROWS_AT_ONCE = 1024
"""Rows of the key that stay in the second-level cache while all ciphertexts pass."""


def emit_keyswitch(tile: KeyswitchTile, base_log: int, level: int, *, native_multiply: bool) -> list[Function]:
    """Return ``keyswitch_digits`` and ``keyswitch_tiles``, both exported.

    ``native_multiply``: the machine multiplies 64-bit lanes; otherwise the digit's zero upper half saves a product.
    """
    return [_digits(tile, base_log, level), _tiles(tile, native_multiply=native_multiply)]


def _digits(tile: KeyswitchTile, base_log: int, level: int) -> Function:
    """Decompose ``count`` ciphertexts.

    ``ciphertexts`` (count, words+1) u64 to ``digits`` (groups, words*level, tile.ciphertexts) i64, least significant
    digit first, biased.
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
        target = f.add(f.mul(f.mul(group, words), level * tile.ciphertexts), slot)

        def on_word(index: Value) -> None:
            word = f.load(f.element(source, I64, index), I64, align=8)
            state = f.lshr(f.add(f.lshr(word, 63 - bits), 1), 1)
            state = f.bit_and(state, (1 << bits) - 1)
            for number_of_digit in range(level):
                digit = f.bit_and(state, (1 << base_log) - 1)
                state = f.lshr(state, base_log)
                carry = f.lshr(f.bit_and(f.bit_or(f.sub(digit, 1), state), digit), base_log - 1)
                state = f.add(state, carry)
                biased = f.add(f.sub(digit, f.shl(carry, base_log)), 1 << (base_log - 1))
                row = f.add(f.mul(index, level), number_of_digit)
                f.store(biased, f.element(digits, I64, f.add(target, f.mul(row, tile.ciphertexts))), align=8)

        f.loop(words, on_word)

    f.loop(count, on_ciphertext)
    return f


def _tiles(tile: KeyswitchTile, *, native_multiply: bool) -> Function:
    """Add ``digits * key`` to ``sums`` for a range of tiles.

    ``key`` (tiles, rows, columns) u64, ``digits`` (groups, rows, ciphertexts) i64, ``sums`` (tiles, groups,
    ciphertexts, columns) u64; ``rows`` is a multiple of the rows taken at once.
    """
    names = [(POINTER, "key"), (POINTER, "digits"), (POINTER, "sums")]
    counts = [(I64, "begin"), (I64, "end"), (I64, "groups"), (I64, "rows"), (I64, "at_once")]
    f = Function("keyswitch_tiles", [*names, *counts], exported=True)
    key, digits, sums, begin, end, groups, rows, at_once = f.arguments
    words = vector(tile.lanes, I64)
    cells = tile.ciphertexts * tile.columns

    def on_tile(number: Value) -> None:
        def on_rows(chunk: Value) -> None:
            first_row = f.mul(chunk, at_once)
            key_rows = f.element(key, I64, f.mul(f.add(f.mul(number, rows), first_row), tile.columns))

            def on_group(group: Value) -> None:
                digit_row = f.add(f.mul(group, rows), first_row)
                digit_rows = f.element(digits, I64, f.mul(digit_row, tile.ciphertexts))
                target = f.element(sums, I64, f.mul(f.add(f.mul(number, groups), group), cells))
                places = [f.element(target, I64, tile.lanes * v) for v in range(cells // tile.lanes)]
                initial = [f.load(place, words, align=8) for place in places]

                def on_row(row: Value, state: tuple[Value, ...]) -> list[Value]:
                    source = f.element(key_rows, I64, f.mul(row, tile.columns))
                    columns = [
                        f.load(f.element(source, I64, tile.lanes * v), words, align=8) for v in range(tile.vectors)
                    ]
                    result: list[Value] = []
                    for ciphertext in range(tile.ciphertexts):
                        at = f.add(f.mul(row, tile.ciphertexts), ciphertext)
                        digit = f.splat(f.load(f.element(digit_rows, I64, at), I64, align=8), tile.lanes)
                        if not native_multiply:
                            digit = f.bit_and(digit, integer(0xFFFF_FFFF, words))
                        for v, column in enumerate(columns):
                            result.append(f.add(state[ciphertext * tile.vectors + v], f.mul(column, digit)))
                    return result

                final = f.loop_with_state(at_once, initial, on_row)
                for place, value in zip(places, final, strict=True):
                    f.store(value, place, align=8)

            f.loop(groups, on_group)

        f.loop(f.udiv(rows, at_once), on_rows)

    f.loop(end, on_tile, start=begin)
    return f
