"""How numbers are written, so that columns of them can be read. None, NaN and what is no number are a dash."""

from typing import Any

NONE = "–"
MINUS = "\u2212"


def number(value: Any) -> float | None:
    """The value as a float where it is a number that something could have measured: finite, and below 1e100."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) < 1e100:
        return None
    return float(value)


def points(value: Any, signed: bool = False) -> str:
    """A metric, of which 1 is perfect, in points of a hundred: 0.8437 -> 84.4."""
    value = number(value)
    if value is None:
        return NONE
    text = f"{abs(value) * 100:.1f}"
    return (MINUS if value < 0 and float(text) else "+" if signed else "") + text


def plain(value: Any, signed: bool = False) -> str:
    """A number as it is, to three decimals, or to three digits where it is small or large: 1.482, 0.00031, 12300."""
    value = number(value)
    if value is None:
        return NONE
    text = f"{abs(value):.3f}" if 0.1 <= abs(value) < 1000 or not value else f"{abs(value):#.3g}".rstrip(".")
    return (MINUS if value < 0 else "+" if signed else "") + text


def thousandths(value: Any, signed: bool = False) -> str:
    """A difference of numbers that are shown to three decimals: -0.0534 -> −0.053."""
    value = number(value)
    if value is None or abs(value) >= 1000:
        return plain(value, signed)
    text = f"{abs(value):.3f}"
    return (MINUS if value < 0 and float(text) else "+" if signed else "") + text


def whole(value: Any) -> str:
    """1172 -> 1,172."""
    value = number(value)
    return NONE if value is None else f"{value:,.0f}".replace("-", MINUS)


def count(value: Any, digits: int | None = None) -> str:
    """22700000 -> 22.7 M; FLOPs run to E (10^18) and beyond. To one decimal, or to so many digits."""
    value = number(value)
    if value is None:
        return NONE
    if abs(value) >= 1e24:
        return f"{value:.1e}"
    for power, unit in ((21, "Z"), (18, "E"), (15, "P"), (12, "T"), (9, "G"), (6, "M"), (3, "k")):
        if abs(value) >= 0.99995 * 10**power:
            scaled = value / 10**power
            decimals = 1 if digits is None else max(0, digits - len(f"{abs(scaled):.0f}"))
            return f"{scaled:.{decimals}f}\u00a0{unit}"
    return f"{value:.0f}"


def duration(seconds: Any) -> str:
    """75 -> 1 min 15 s."""
    seconds = number(seconds)
    if seconds is None:
        return NONE
    if seconds < 9.95:
        return f"{seconds:.1f}\u00a0s"
    whole = round(seconds)
    for size, unit, smaller_size, smaller in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= size:
            return f"{whole // size}\u00a0{unit} {whole % size // smaller_size}\u00a0{smaller}".replace(" ", "\u00a0")
    return f"{whole}\u00a0s"


def probability(p: Any) -> str:
    """0.031 -> p = 0.03; below a thousandth only that."""
    p = number(p)
    if p is None:
        return ""
    return "p\u00a0<\u00a00.001" if p < 0.001 else f"p\u00a0=\u00a0{p:.3f}"


def rate(value: Any) -> str:
    """3e-05 -> 3e-5."""
    value = number(value)
    if value is None:
        return NONE
    mantissa, _, exponent = f"{value:.2e}".partition("e")
    return f"{float(mantissa):g}e{int(exponent)}".replace("-", MINUS) if value else "0"
