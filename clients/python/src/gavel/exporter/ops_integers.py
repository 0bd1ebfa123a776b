"""Integer division, powers and bits, exactly: f32 holds whole numbers up to 2^24 only, and ids and timestamps lie far above."""

from .bounds import F32_WHOLE, bounds
from .canonical import operator
from .errors import ExportError
from .ops_elementwise import binary, binary_compare, negative, unary, where

DIGIT = 16  # bits of a digit: whole numbers of so many bits, shifted, are exact in f32
POWER_MAX = 8


def number(c, value):
    """The integer that a Value is, None if it is computed or there are several."""
    value = c.as_value(value)
    return int(value.term.array.reshape(())) if value.constant and value.term.array.size == 1 and value.row is None else None


def small(c, value):
    low, high = bounds(c.graph, value.term)
    return -F32_WHOLE < low and high < F32_WHOLE


def floor_divided(c, x, y):
    """x // y of integers, rounded down."""
    if small(c, x) and small(c, y):
        return c.to_kind(unary(c, "floor", binary(c, "div", x, y, "f")), "i")
    by = number(c, y)
    if not by:
        raise ExportError(
            "a division of integers that may be too large for f32, by a computed one",
            "clamp both to fewer than 2^24, or divide as floats: x.float() / y",
        )
    if by < 0:
        return floor_divided(c, negative(c, x), c.as_value(-by))
    multiple = binary(c, "sub", x, binary(c, "mod", x, by))
    twos = (by & -by).bit_length() - 1
    odd = by >> twos
    if twos:
        multiple = shifted(c, multiple, twos)
    return multiple if odd == 1 else binary(c, "mul", multiple, signed(pow(odd, -1, 1 << 64)))


def shifted(c, x, bits):
    """x / 2^bits for multiples of 2^bits: digit by digit, each exact in f32. (A multiple of an odd number divides exactly by a product with
    its inverse of 64 bits.)"""
    total, below = None, None
    for end in range(DIGIT, 64 + 1, DIGIT):
        upto = binary(c, "mod", x, 1 << end) if end < 64 else x
        digit = upto if below is None else binary(c, "sub", upto, below)
        below = upto
        if end <= bits:
            continue
        part = c.to_kind(binary(c, "mul", c.to_kind(digit, "f"), 2.0**-bits), "i")
        total = part if total is None else binary(c, "add", total, part)
    return total


def signed(x):
    return x - (1 << 64) if x >= 1 << 63 else x


def truncated(c, x, y):
    """x / y of integers, rounded towards zero."""
    by = number(c, y)
    if by is not None and by < 0:
        return negative(c, truncated(c, x, c.as_value(-by)))
    if by is None and bounds(c.graph, c.as_value(y).term)[0] < 0:
        raise ExportError("a truncating division by an integer that may be negative", 'use rounding_mode="floor"')
    return where(c, binary_compare(c, "lt", x, 0), negative(c, floor_divided(c, negative(c, x), y)), floor_divided(c, x, y))


def raised(c, base, exponent):
    """base ** exponent of integers."""
    times = number(c, exponent)
    if times is None or not 0 <= times <= POWER_MAX:
        raise ExportError("a power of integers with a computed or large exponent", f"use exponents from 0 to {POWER_MAX}, or floats")
    out = None
    for _ in range(times):
        out = base if out is None else binary(c, "mul", out, base)
    return binary(c, "add", binary(c, "mul", base, 0), 1) if out is None else out


def masked(c, x, y):
    """x & y where one is 2^n - 1: the rest of a division."""
    for value, other in ((x, y), (y, x)):
        mask = number(c, other)
        if mask is not None and mask >= 0 and mask & (mask + 1) == 0 and mask < (1 << 62):
            return binary(c, "mod", value, mask + 1)
    return None


@operator("bitwise_left_shift", "bitwise_right_shift", "__lshift__", "__rshift__")
def shift(c, node, a):
    x, bits = c.as_value(a["self"]), number(c, a["other"])
    if x.kind == "f" or bits is None or not 0 <= bits < 62:
        raise ExportError("a shift by a computed number of bits", "shift by a fixed number from 0 to 61, or multiply and divide")
    if "left" in node.op or "lshift" in node.op:
        return binary(c, "mul", x, 1 << bits)
    return floor_divided(c, x, c.as_value(1 << bits))
