"""Times and sizes: written with their unit, kept as seconds and octets."""

from __future__ import annotations

import re
from typing import NewType

from relaymta.config.problems import described

Duration = NewType("Duration", float)  # seconds, written "30s", "5m", "4h", "5d"
Size = NewType("Size", int)  # octets, written "25MB", "128KiB"


_SECONDS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_OCTETS = {
    "B": 1,
    "kB": 1000,
    "KB": 1000,
    "MB": 1000**2,
    "GB": 1000**3,
    "TB": 1000**4,
    "KiB": 1024,
    "MiB": 1024**2,
    "GiB": 1024**3,
    "TiB": 1024**4,
}
_AMOUNT = re.compile(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)", re.ASCII)


def parse_duration(value: object) -> Duration:
    """Read a time such as "30s", "5m", "4h", "5d", also "250ms" and "2w". Raises ValueError."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        raise ValueError(f'{value} is a bare number; a time needs its unit, such as "{value}s" or "{value}m"')
    if not isinstance(value, str):
        raise ValueError(f'a time such as "30s", "5m", "4h" or "5d" is wanted, not {described(value)}')
    amount = _AMOUNT.fullmatch(value)
    if amount is None:
        raise ValueError(f'"{value}" is not a time; write it as "30s", "5m", "4h" or "5d"')
    number, unit = amount.groups()
    if not unit:
        raise ValueError(f'"{value}" has no unit; write "{value}s" for seconds or "{value}m" for minutes')
    if unit not in _SECONDS:
        meant = f'; did you mean "{number}{unit[0].lower()}"?' if unit[0].lower() in _SECONDS else ""
        raise ValueError(f'"{unit}" is not a unit of time (ms, s, m, h, d, w){meant}')
    return Duration(float(number) * _SECONDS[unit])


def parse_size(value: object) -> Size:
    """Read a size such as "25MB" (millions) or "128KiB" (powers of two), in octets. Raises ValueError."""
    if isinstance(value, int) and not isinstance(value, bool):
        raise ValueError(f'{value} is a bare number; a size needs its unit, such as "{value}B" or "{value}MB"')
    if not isinstance(value, str):
        raise ValueError(f'a size such as "25MB" or "128KiB" is wanted, not {described(value)}')
    amount = _AMOUNT.fullmatch(value)
    if amount is None:
        raise ValueError(f'"{value}" is not a size; write it as "25MB" or "128KiB"')
    number, unit = amount.groups()
    if not unit:
        raise ValueError(f'"{value}" has no unit; write "{value}B" for octets or "{value}MB" for megabytes')
    if unit not in _OCTETS:
        same = [known for known in _OCTETS if known.lower() in (unit.lower(), unit.lower() + "b")]
        meant = f'; did you mean "{number}{same[-1]}"?' if same else ""
        raise ValueError(f'"{unit}" is not a unit of size (B, KB, MB, GB, KiB, MiB, GiB){meant}')
    return Size(int(float(number) * _OCTETS[unit]))


def show_duration(seconds: float) -> str:
    """Write a time as the file would: the largest unit that divides it."""
    if seconds <= 0:
        return "0s"
    for unit in ("d", "h", "m", "s"):
        if seconds % _SECONDS[unit] == 0:
            return f"{int(seconds / _SECONDS[unit])}{unit}"
    return f"{seconds:g}s" if seconds >= 1 else f"{seconds * 1000:g}ms"


def show_size(octets: int) -> str:
    """Write a size as the file would: the largest unit that divides it."""
    for unit in ("TB", "TiB", "GB", "GiB", "MB", "MiB", "KB", "KiB"):
        if octets and octets % _OCTETS[unit] == 0:
            return f"{octets // _OCTETS[unit]}{unit}"
    return f"{octets}B"
