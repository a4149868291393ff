"""ARITHMETIC.md once more, one scalar at a time, with fused steps in exact rationals.

Slow and independent of the kernel; it follows the text of the document and nothing else.
"""

from __future__ import annotations

import struct
from decimal import Decimal, localcontext
from fractions import Fraction

Twiddles = list[tuple[float, float]]
Spectrum = list[complex]


def fma(a: float, b: float, c: float) -> float:
    """Return ``a*b + c`` rounded once: the division of two integers is correctly rounded."""
    return float(Fraction(a) * Fraction(b) + Fraction(c))


def forward(polynomial: list[float], w: Twiddles) -> Spectrum:
    """Transform."""
    half = len(polynomial) // 2
    z = [complex(polynomial[j], polynomial[j + half]) for j in range(half)]
    for level in range(half.bit_length() - 1):
        size = half >> level
        for block in range(1 << level):
            w_re, w_im = w[(1 << level) + block]
            for j in range(block * size, block * size + size // 2):
                a, b = z[j], z[j + size // 2]
                p_re = fma(-w_im, b.imag, fma(w_re, b.real, a.real))
                p_im = fma(w_im, b.real, fma(w_re, b.imag, a.imag))
                z[j] = complex(p_re, p_im)
                z[j + size // 2] = complex(fma(2.0, a.real, -p_re), fma(2.0, a.imag, -p_im))
    return z


def inverse(z: Spectrum, w: Twiddles) -> list[float]:
    """Transform back, without the factor."""
    z, half = list(z), len(z)
    for level in reversed(range(half.bit_length() - 1)):
        size = half >> level
        for block in range(1 << level):
            w_re, w_im = w[(1 << level) + block]
            for j in range(block * size, block * size + size // 2):
                a, b = z[j], z[j + size // 2]
                d_re, d_im = a.real - b.real, a.imag - b.imag
                z[j] = complex(a.real + b.real, a.imag + b.imag)
                z[j + size // 2] = complex(fma(w_im, d_im, w_re * d_re), fma(-w_im, d_re, w_re * d_im))
    return [x.real for x in z] + [x.imag for x in z]


def times_monomial(words: list[int], power: int) -> list[int]:
    """Multiply by a power of X modulo ``X^N + 1`` and 2^32."""
    size = len(words)
    result = [0] * size
    for j, word in enumerate(words):
        at = (j + power) % (2 * size)
        result[at % size] = word if at < size else -word % (1 << 32)
    return result


def blind_rotation(
    polynomial: list[int], switched: list[int], key: list[list[list[list[int]]]], base_log: int, w: Twiddles
) -> list[list[int]]:
    """Return mask and body; ``key[i][r][c]`` are lists of 64-bit words."""
    size = len(polynomial)
    acc = [[0] * size, times_monomial(polynomial, -switched[-1])]
    for power, ggsw in zip(switched[:-1], key, strict=True):
        spectra = [[forward([_turns(x, size) for x in column], w) for column in row] for row in ggsw]
        x0, x1 = (
            forward([_digit(b - a, base_log) for a, b in zip(p, times_monomial(p, power), strict=True)], w) for p in acc
        )
        for c in (0, 1):
            z: Spectrum = []
            for p, q, k0, k1 in zip(x0, x1, spectra[0][c], spectra[1][c], strict=True):
                re = fma(-p.imag, k0.imag, p.real * k0.real)
                re = fma(-q.imag, k1.imag, fma(q.real, k1.real, re))
                im = fma(p.imag, k0.real, p.real * k0.imag)
                im = fma(q.imag, k1.real, fma(q.real, k1.imag, im))
                z.append(complex(re, im))
            acc[c] = [(word + _torus(t)) % (1 << 32) for word, t in zip(acc[c], inverse(z, w), strict=True)]
    return acc


def extract(acc: list[list[int]], coefficient: int, added: int) -> list[int]:
    """Return an LWE ciphertext of 64-bit words."""
    mask, body = acc
    size = len(body)
    words = [mask[coefficient - j] if j <= coefficient else -mask[size + coefficient - j] for j in range(size)]
    return [(word << 32) % (1 << 64) for word in words] + [((body[coefficient] << 32) + added) % (1 << 64)]


def nearest_cosine(numerator: int, denominator_log2: int) -> float:
    """Return ``cos(2*pi * numerator / 2^denominator_log2)`` by its power series with 60 digits."""
    with localcontext() as context:
        context.prec = 60
        pi = Decimal("3.14159265358979323846264338327950288419716939937510582097494459")
        x = 2 * pi * numerator / (1 << denominator_log2)
        total, term, k = Decimal(0), Decimal(1), 0
        while abs(term) > Decimal("1e-55"):
            total += term
            k += 2
            term = -term * x * x / (k * (k - 1))
        return float(total)


def _turns(word: int, size: int) -> float:
    signed = word - (1 << 64) if word >> 63 else word
    return float(signed) * 2.0**-64 / (size // 2)


def _digit(change: int, base_log: int) -> float:
    word = (change + (1 << (31 - base_log))) % (1 << 32)
    return float((word - (1 << 32) if word >> 31 else word) >> (32 - base_log))


def _torus(t: float) -> int:
    rounding = 1.5 * 2.0**52
    fraction = t - ((t + rounding) - rounding)
    (bits,) = struct.unpack("<Q", struct.pack("<d", fraction + 1.5 * 2.0**20))
    return int(bits) % (1 << 32)
