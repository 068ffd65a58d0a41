"""Durations, bytes and counts, read from and written for people."""

import math
import re

from dunwu.core.errors import RecipeError

_SECONDS = {
    "s": 1.0,
    "sec": 1.0,
    "second": 1.0,
    "seconds": 1.0,
    "秒": 1.0,
    "m": 60.0,
    "min": 60.0,
    "mins": 60.0,
    "minute": 60.0,
    "minutes": 60.0,
    "分钟": 60.0,
    "h": 3600.0,
    "hour": 3600.0,
    "hours": 3600.0,
    "小时": 3600.0,
    "d": 86400.0,
    "day": 86400.0,
    "days": 86400.0,
    "天": 86400.0,
}
_BYTES = {
    "b": 1,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "tb": 10**12,
    "kib": 2**10,
    "mib": 2**20,
    "gib": 2**30,
    "tib": 2**40,
}
_COUNTS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "万": 10**4}
_PART = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([a-z]+|秒|分钟|小时|天)\s*", re.IGNORECASE)


def parse_duration(text: str) -> float:
    """Seconds of a duration such as `90s`, `5min`, `1.5h` or `1h30min`. Raises RecipeError; zero is allowed here."""
    at, seconds = 0, 0.0
    while match := _PART.match(text, at):
        unit = _SECONDS.get(match[2].lower())
        if unit is None:
            break
        seconds += float(match[1]) * unit
        at = match.end()
    if at == 0 or at < len(text):
        raise RecipeError(f"{text!r} is not a duration; write a number with its unit, such as 90s, 5min, 1h30min or 2d")
    return seconds


def parse_bytes(text: str) -> int:
    """Bytes of a size such as `500MB`, `24GB` (powers of ten) or `8GiB` (powers of two). Raises RecipeError."""
    match = _PART.fullmatch(text)
    unit = _BYTES.get(match[2].lower()) if match else None
    if match is None or unit is None:
        raise RecipeError(f"{text!r} is not a size in bytes; write a number with its unit, such as 500MB, 24GB or 8GiB")
    return int(float(match[1]) * unit)


def parse_count(text: str) -> int:
    """A whole number such as `500`, `200k`, `1.5M` or `20_000`. Raises RecipeError."""
    match = re.fullmatch(r"\s*(\d[\d_,]*(?:\.\d+)?)\s*([kmg万]?)\s*", text, re.IGNORECASE)
    if match is None:
        raise RecipeError(f"{text!r} is not a number; write it as 500, 200k or 1.5M")
    return round(float(re.sub("[_,]", "", match[1])) * _COUNTS[match[2].lower()])


def format_duration(seconds: float) -> str:
    """`0.4 s`, `38 s`, `5 min 20 s`, `3 h 05 min`, `2 d 4 h`."""
    if not math.isfinite(seconds):
        return "unknown"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    minutes = round(seconds / 60)
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    hours = round(seconds / 3600)
    return f"{hours // 24} d {hours % 24} h"


def format_bytes(size: float) -> str:
    """Powers of ten with three figures: `812 B`, `26.1 MB`, `1.20 GB`."""
    return f"{size:.0f} B" if abs(size) < 1000 else _scaled(size, (" kB", " MB", " GB", " TB", " PB"))


def format_count(count: float) -> str:
    """Powers of ten with three figures: `950`, `4.10k`, `12.3M`, `1.20G`, and `3.1e18` above."""
    if abs(count) >= 1e15:
        return f"{count:.2e}"
    return f"{count:.0f}" if abs(count) < 1000 else _scaled(count, ("k", "M", "G", "T"))


def _scaled(value: float, units: tuple[str, ...]) -> str:
    for unit in units[:-1]:
        value /= 1000
        if abs(value) < 999.5:
            return f"{value:.3g}{unit}" if abs(value) >= 100 else f"{_three(value)}{unit}"
    return f"{_three(value / 1000)}{units[-1]}"


def _three(value: float) -> str:
    return f"{value:.2f}" if abs(value) < 9.995 else f"{value:.1f}" if abs(value) < 99.95 else f"{value:.0f}"
