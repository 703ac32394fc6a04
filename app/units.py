"""Numbers as people read them: bytes, counts, shares and times."""

_BYTE_UNITS = ("B", "kB", "MB", "GB", "TB")
_COUNT_UNITS = ("", " k", " M", " B", " T")


def size(count: float) -> str:
    """Bytes in powers of 1000, three digits: 999 B, 4.20 MB, 21.3 GB."""
    return _scaled(count, _BYTE_UNITS, " ")


def quantity(count: float) -> str:
    """A count of parameters: 512, 3.10 M, 46.7 B."""
    return _scaled(count, _COUNT_UNITS, "")


def _scaled(count: float, units: tuple[str, ...], gap: str) -> str:
    if count < 999.5:
        return f"{count:.0f}{gap}{units[0]}"
    step = 0
    while count >= 999.5 and step < len(units) - 1:
        count /= 1000
        step += 1
    digits = 2 if count < 9.995 else 1 if count < 99.95 else 0
    return f"{count:.{digits}f}{gap}{units[step]}"


def share(fraction: float) -> str:
    """A fraction of 0 to 1 in per cent: 0 %, 4.2 %, 31 %."""
    percent = 100 * fraction
    return f"{percent:.1f} %" if 0 < percent < 9.95 else f"{percent:.0f} %"


def speed(per_second: float) -> str:
    """Tokens in a second: 0.8, 42.5, 1,234."""
    return f"{per_second:.1f}" if per_second < 999.95 else f"{per_second:,.0f}"


def clock(seconds: float) -> str:
    """A length of time: 0:07, 12:40, 1:02:03."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
