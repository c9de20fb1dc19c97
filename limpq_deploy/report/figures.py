"""Numbers as people read them; plain text out."""

import math

from limpq_deploy.calibration.numbers.formats import FP8, width_name

MINUS = "\N{MINUS SIGN}"


def count(number: int) -> str:
    return f"{number:,}"


def giga(number: int) -> str:
    """An exact count with four significant digits and the prefix that fits (powers of 1000): "1.234 G"."""
    for prefix, unit in (("T", 10**12), ("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if number >= unit:
            return f"{digits(number / unit)} {prefix}"
    return str(number)


def digits(value: float) -> str:
    """Four significant digits from 1 upwards and three below, without an exponent from 0.00001 to 99,999."""
    if value == 0:
        return "0"
    if not 1e-5 <= abs(value) < 1e5:
        return f"{value:.3g}"
    magnitude = math.floor(math.log10(abs(value)))
    return f"{value:,.{max(0, 3 - magnitude if magnitude >= 0 else 2 - magnitude)}f}"


def binary_size(num_bytes: float) -> str:
    """Bytes in B, KiB or MiB (2^10, 2^20)."""
    if num_bytes >= 2**20:
        return f"{digits(num_bytes / 2**20)} MiB"
    if num_bytes >= 2**10:
        return f"{digits(num_bytes / 2**10)} KiB"
    return f"{num_bytes:.0f} B"


def milliseconds(value: float) -> str:
    return f"{digits(value)} ms"


def percent(share: float, places: int = 2) -> str:
    """A share of 1 in percent; one that would be rounded to nothing is given per million, or per 10^9."""
    if 0 < share < 0.5 * 10 ** -(places + 2):
        return f"{1e6 * share:.2g} per million" if share >= 1e-7 else f"{1e9 * share:.2g} per billion"
    return f"{100 * share:.{places}f} %"


def signed(value: float, places: int = 2) -> str:
    """With its sign (a true minus), none where it is rounded to zero."""
    if not round(value, places):
        return f"{0:.{places}f}"
    return f"{value:+.{places}f}".replace("-", MINUS)


def plural(number: int, one: str, many: str | None = None) -> str:
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def width(bits: int) -> str:
    """A width of weights or activations as "4 bit", or "fp8"."""
    return width_name(bits) if bits == FP8 else f"{bits} bit"


def bits(pair: tuple[int, int]) -> str:
    """(weight, activation) bits as "w4 a4", or "fp8"."""
    return "fp8" if pair == (FP8, FP8) else f"w{pair[0]} a{pair[1]}"
