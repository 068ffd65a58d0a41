"""HTML by construction safe: whatever is not `Html` is text and gets escaped. Every label is given in English and in Chinese."""

import base64
import hashlib
import html
import json
import math
from collections.abc import Iterable, Sequence
from typing import Any

_VOID = {"meta", "br"}


class Html(str):
    """Markup. Only this module and literals make it; text from a model or a document never becomes it."""

    __slots__ = ()


Child = Html | str | None


def el(name: str, *children: Child, **attributes: str | None) -> Html:
    """An element. Children that are not `Html` are escaped, None is left out; `class_` and `data_x` become class and data-x."""
    shown = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{_escape(value)}"'
        for key, value in attributes.items()
        if value is not None
    )
    return Html(f"<{name}{shown}>" if name in _VOID else f"<{name}{shown}>{join(children)}</{name}>")


def join(children: Iterable[Child]) -> Html:
    """Children one after the other, escaped where they are text."""
    return Html("".join(c if isinstance(c, Html) else _escape(c) for c in children if c is not None))


def _escape(text: str) -> str:
    """Text for a page; characters that steer displays are made visible."""
    return html.escape(visible(text))


def visible(text: str) -> str:
    """Text with the characters that steer displays written out."""
    return "".join(_visible(character) for character in text)


def both(en: str | Html, zh: str | Html) -> Html:
    """A label in both languages; the style sheet shows one of them."""
    return join([el("span", en, lang="en"), el("span", zh, lang="zh-Hans")])


def untrusted(text: str) -> Html:
    """What a model or a document says: its line breaks kept, its direction of writing kept from what stands around it."""
    return el("bdi", text)


def _visible(character: str) -> str:
    code = ord(character)
    steers = code < 32 and character not in "\n\t"
    steers = steers or 0x7F <= code < 0xA0 or code in _STEERING or 0xD800 <= code < 0xE000
    return f"⟨{code:02X}⟩" if steers else character


_STEERING = {0x200E, 0x200F, 0x061C, 0x2028, 0x2029, 0xFEFF, *range(0x202A, 0x202F), *range(0x2066, 0x206A)}


def table(
    header: Sequence[Child],
    rows: Iterable[Sequence[Child]],
    *,
    numeric: Iterable[int] = (),
    groups: Sequence[tuple[Child, int]] = (),
) -> Html:
    """A table that scrolls sideways where it must; columns in `numeric` are set flush right in tabular figures.

    `groups`: headings above the header, each with the number of columns that it spans.
    """
    right = set(numeric)

    def cells(name: str, row: Sequence[Child]) -> Html:
        return el("tr", *(el(name, cell, class_="num" if i in right else None) for i, cell in enumerate(row)))

    body = el("tbody", *(cells("td", row) for row in rows))
    above = [el("th", heading, colspan=str(span), class_="group") for heading, span in groups]
    head = el("thead", el("tr", *above) if above else None, cells("th", header))
    return el("div", el("table", head, body), class_="scroll", tabindex="0")


def fold(title: Child, *content: Child) -> Html:
    """Content that waits to be opened."""
    return el("details", el("summary", title), *content)


def code(text: str) -> Html:
    """A command or a file, as typed."""
    return el("pre", el("code", text))


def embed_json(value: Any, identifier: str) -> Html:
    """Data for the page's script. `<` is written so that no text in it can end the element."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    safe = text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
    return Html(f'<script type="application/json" id="{html.escape(identifier)}">{safe}</script>')


def page(*, title: str, style: str, script: str, body: Html) -> str:
    """The whole document. Its policy allows this one style sheet and this one script, by hash, and no request of any kind."""
    policy = (
        f"default-src 'none'; style-src '{_hash(style)}'; script-src '{_hash(script)}'; "
        "base-uri 'none'; form-action 'none'"
    )
    head = el(
        "head",
        Html('<meta charset="utf-8">'),
        Html(f'<meta http-equiv="Content-Security-Policy" content="{html.escape(policy, quote=True)}">'),
        Html('<meta name="viewport" content="width=device-width, initial-scale=1">'),
        Html('<meta name="referrer" content="no-referrer">'),
        Html('<meta name="color-scheme" content="light dark">'),
        el("title", title),
        Html(f"<style>{style}</style>"),
    )
    return f'<!doctype html>\n<html lang="en">{head}<body>{body}<script>{script}</script></body></html>\n'


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode()


# ------------------------------------------------------------------------------------------------------------ figures


def figure(value: float, digits: int = 3) -> str:
    """A number with a fixed number of decimals; an em dash where there is none; a true minus sign."""
    return f"{value:.{digits}f}".replace("-", "−") if math.isfinite(value) else "—"


def percent(value: float, digits: int = 0) -> str:
    """A share as a percentage."""
    return figure(100 * value, digits) + ("%" if math.isfinite(value) else "")


def interval(low: float, high: float, digits: int = 3) -> Html:
    """An interval, or why there is none."""
    if math.isfinite(low) and math.isfinite(high):
        return Html(f"{figure(low, digits)} – {figure(high, digits)}")
    return el("span", both("none", "无"), class_="muted")


def shares(low: float, high: float) -> Html:
    """An interval of shares, as percentages."""
    return Html(f"{100 * low:.0f} – {100 * high:.0f}%")


def p_value(value: float) -> str:
    """A p-value as one reads it."""
    if not math.isfinite(value):
        return "—"
    return "< 0.001" if value < 0.001 else f"{value:.3f}"
