"""What a model wrote → what was asked of it, whatever it wrote around it: JSON that is whole or half, lists, labels, yes and no.

Nothing here raises: what cannot be read is not in the result.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Record = Mapping[str, str]

_THOUGHT = re.compile(r"<think>.*?(?:</think>|\Z)", re.S | re.I)
_FENCE = re.compile(r"\A```\w*\n(.*?)\n?```\Z", re.S)
_PAGE = re.compile(r"\s*(?:<\?xml[^>]*>\s*)?<(?:!doctype html|html[\s>])", re.I)
_NUMBERED = re.compile(
    r"^[ \t>*#]*(?:"
    r"(?:task|instruction|question|任务|指令|问题)[ \t]*\d{1,3}[ \t]*[.:：、)）]?"
    r"|\(?\d{1,3}[ \t]*[.:)](?=[ \t*])|[（(]?\d{1,3}[、．：）]"
    r")[ \t*]*",
    re.I | re.M,
)
_DOTTED = re.compile(r"^[ \t>]*[-*•][ \t]+", re.M)
_QUOTES = {'"': '"', "'": "'", "“": "”", "「": "」", "『": "』", "‘": "’", "`": "`"}
_TRAILING_COMMA = re.compile(r",(\s*[}\]])")
_YES = re.compile(
    r"\W*(?:yes|true|supported|equal|correct|是的?(?!否)|对(?!不起|于)|支持|能|可以|相同|相等)(?![a-z])", re.I
)
_NO = re.compile(r"\W*(?:no|not|false|unsupported|wrong|incorrect|否|不|没有|无法|错)(?![a-z])", re.I)
_DEEPEST = 8
_MOST_BROKEN = 200  # objects that end nowhere; each is read to the end of the text


def cleaned(text: str) -> str:
    """An answer without what reasoning models think aloud, and without a fence around the whole."""
    text = _THOUGHT.sub("", text).strip()
    fenced = _FENCE.match(text)
    return fenced[1].strip() if fenced else text


def is_page(text: str) -> bool:
    """Whether this is a web page: what proxies and login walls answer with."""
    return bool(_PAGE.match(text))


def unquoted(text: str) -> str:
    """Without the quotation marks and the bold marks around the whole."""
    text = text.strip()
    while len(text) > 1 and _QUOTES.get(text[0]) == text[-1] and text[0] not in text[1:-1]:
        text = text[1:-1].strip()
    return text[2:-2].strip() if len(text) > 4 and text.startswith("**") and text.endswith("**") else text


def objects(text: str, keys: Sequence[str]) -> list[Record]:
    """All objects in `text` that have all these keys, with their values as text; in a list, nested, fenced, or before a place
    where the JSON breaks off."""
    found: list[Record] = []
    for value in _values(text):
        found.extend(_with_keys(value, keys, _DEEPEST))
    return found


def _values(text: str) -> Iterator[Any]:
    decode = json.JSONDecoder(strict=False).raw_decode
    text = _TRAILING_COMMA.sub(r"\1", text)
    at, broken = text.find("{"), 0
    while at >= 0 and broken < _MOST_BROKEN:
        try:
            value, end = decode(text, at)
            yield value
        except (ValueError, RecursionError):
            end, broken = at + 1, broken + 1  # the outer one is broken; those within may be whole
        at = text.find("{", end)


def _with_keys(value: Any, keys: Sequence[str], depth: int) -> Iterator[Record]:
    if depth == 0:
        return
    if isinstance(value, dict):
        texts = {str(key).strip().lower(): _text(inner) for key, inner in value.items()}
        if all(texts.get(key) is not None for key in keys):
            yield {key: str(texts[key]) for key in keys}
            return
        value = list(value.values())
    if isinstance(value, list):
        for inner in value:
            yield from _with_keys(inner, keys, depth - 1)


def _text(value: Any) -> str | None:
    match value:
        case str():
            return value.strip()
        case bool():
            return "yes" if value else "no"
        case int() | float():
            return str(value)
        case None:
            return ""
        case _:
            return None


def strings(text: str, key: str) -> list[str]:
    """The texts in the first list under `key` of any object in `text`; those that are complete, where the list breaks off."""
    for value in _values(text):
        if isinstance(value, dict) and isinstance(value.get(key), list):
            return [one.strip() for one in value[key] if isinstance(one, str)]
    opened = re.search(rf'"{re.escape(key)}"\s*:\s*\[', text)
    if opened is None:
        return []
    found: list[str] = []
    decode, at = json.JSONDecoder(strict=False).raw_decode, opened.end()
    while (at := text.find('"', at)) >= 0:
        try:
            value, at = decode(text, at)
        except ValueError:
            break
        found.append(str(value).strip())
    return found


def items(text: str) -> list[str]:
    """The entries of a numbered or dotted list, of any number of lines each; nothing where there is no list."""
    starts = list(_NUMBERED.finditer(text)) or list(_DOTTED.finditer(text))
    found = [unquoted(part.strip()) for _, part in _parts(text, starts)]
    return [one for one in found if one]


def _parts(text: str, marks: Sequence[re.Match[str]]) -> Iterator[tuple[re.Match[str], str]]:
    """Each mark, and what stands between it and the next."""
    for place, mark in enumerate(marks):
        yield mark, text[mark.end() : marks[place + 1].start() if place + 1 < len(marks) else len(text)]


def labelled(text: str, labels: Mapping[str, Sequence[str]]) -> list[Record]:
    """Records written as `Label: text`, one label after another, again and again. `labels`: of each field, how it may be written.

    A new record begins where the first field comes again. Records that lack a field are left out.
    """
    names = {label.lower(): field for field, written in labels.items() for label in written}
    alternatives = "|".join(re.escape(name) for name in sorted(names, key=len, reverse=True))
    marks = list(
        re.finditer(
            rf"^[ \t>*#\-]*(?:\d{{1,3}}[.)、][ \t]*)?[*]*({alternatives})[ \t]*\d{{0,3}}[*]*[ \t]*[:：][*]*",
            text,
            re.I | re.M,
        )
    )
    first = next(iter(labels))
    records: list[dict[str, str]] = []
    for mark, part in _parts(text, marks):
        field = names[mark[1].lower()]
        if field == first or not records:
            records.append({})
        records[-1].setdefault(field, part.strip().rstrip("-*#= \n").strip())
    return [record for record in records if all(field in record for field in labels)]


def yes_or_no(text: str) -> bool | None:
    """A verdict; None where there is none. A JSON object's `verdict` counts first, then the first word, then the last line."""
    for record in objects(text, ["verdict"]):
        return _verdict(record["verdict"])
    lines = [line for line in text.splitlines() if line.strip()]
    for line in (*lines[:1], *lines[-1:]):
        if (
            verdict := _verdict(re.sub(r"^\W*(?:answer|verdict|回答|答案|判断|结论)\W*", "", line, flags=re.I))
        ) is not None:
            return verdict
    return None


def _verdict(text: str) -> bool | None:
    if _NO.match(text):
        return False
    return True if _YES.match(text) else None
