"""Boilerplate: what stands in a document but is not its text. Each rule has a name and a source; removals are counted."""

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

_DIGITS = re.compile(r"\d+")
_PAGE_NUMBER = re.compile(
    r"^\W{0,3}(?:page\s+|p\.\s*|第\s*)?(?:\d{1,4}|[ivxlc]{1,7})(?:\s*(?:of|/|,?\s*共)\s*\d{1,4})?(?:\s*页)?\W{0,3}$",
    re.I,
)
_STATED_PAGE = re.compile(
    r"^[ \t\-–—]*(?:page[ \t]+\d{1,4}(?:[ \t]+of[ \t]+\d{1,4})?|第[ \t]*\d{1,4}[ \t]*页(?:[ \t]*[,\uff0c/]?[ \t]*共[ \t]*\d{1,4}[ \t]*页)?)[ \t\-–—]*$",
    re.I | re.M,
)
_GUTENBERG_START = re.compile(
    r"^.{0,20}\*\*\*\s*START OF (?:THE|THIS) PROJECT GUTENBERG E(?:BOOK|TEXT).*?\*\*\*.*$", re.M
)
_GUTENBERG_END = re.compile(
    r"^.{0,20}\*\*\*\s*END OF (?:THE|THIS) PROJECT GUTENBERG E(?:BOOK|TEXT)|^End of (?:the |this )?Project Gutenberg['’]?s? .*$",
    re.M,
)
_NOTICE = re.compile(
    r"""^\W*(?:
      (?:this\ (?:web)?site|we)\ uses?\ cookies\b.{0,200}
    | by\ (?:continuing\ to\ (?:use|browse)|using)\ (?:this|our|the)\ (?:web)?site\b.{0,200}
    | (?:please\ )?(?:enable|turn\ on)\ javascript\b.{0,120} | javascript\ (?:is\ (?:disabled|required)|must\ be\ enabled).{0,120}
    | (?:accept|reject|manage)\ (?:all\ )?cookies
    | (?:copyright\ )?(?:©|\(c\)|copyright)\s.{0,80}all\ rights\ reserved\W* | all\ rights\ reserved
    | (?:home\s?[|·•/-]\s?)?(?:(?:terms\ of\ (?:use|service)|privacy\ policy|cookie\ policy|contact\ us|about\ us|site\ ?map)\s?[|·•/-]?\s?){1,8}
    | (?:share|tweet|pin|like)(?:\ this)?(?:\ (?:on|to|via)\ (?:facebook|twitter|x|linkedin|pinterest|whatsapp|reddit|email))
    | (?:sign\ up|subscribe)\ (?:for|to)\ our\ newsletter\b.{0,80}
    | (?:click|tap)\ here\ to\ .{0,60} | skip\ to\ (?:main\ )?content | back\ to\ top
    | .{0,60}版权所有.{0,60} | .{0,40}ICP[备证].{0,40} | (?:责任编辑|责编)\s*[:\uff1a].{0,20}
    | (?:上一篇|下一篇|上一页|下一页|返回(?:顶部|首页)|分享到|点击(?:关注|下载|查看更多)|相关(?:阅读|推荐))\W*.{0,40}
    | 扫(?:描|一扫).{0,20}二维码.{0,30}
    )\W*$""",
    re.I | re.X,
)
# How such a line may begin; the Chinese ones are found by a character instead, wherever it stands.
_NOTICE_START = re.compile(
    r"\W*(?:©|\(c\)|(?:this|we|by|please|enable|turn|javascript|accept|reject|manage|copyright|all rights|home|terms|privacy"
    r"|cookie|contact|about|site|share|tweet|pin|like|sign|subscribe|click|tap|skip|back)\b)",
    re.I,
).match
_NOTICE_CHARACTERS = "版备证编篇页顶享击阅荐码"
_MAX_NOTICE_CHARS = 300


@dataclass(frozen=True, slots=True)
class Strip:
    """A named rule that takes boilerplate out of a text."""

    name: str
    source: str
    apply: Callable[[str], str]


def strip_boilerplate(text: str) -> tuple[str, Counter[str]]:
    """The text without boilerplate, and the characters that each rule removed. Form feeds become paragraph breaks."""
    removed: Counter[str] = Counter()
    for rule in RULES:
        shorter = rule.apply(text)
        if len(shorter) != len(text):
            removed[rule.name] = len(text) - len(shorter)
        text = shorter
    return text.replace("\f", "\n"), removed


def gutenberg_licence(text: str) -> str:
    """What stands before and after the marks that Project Gutenberg sets around a book, or around each of several."""
    if "PROJECT GUTENBERG" not in text and "Project Gutenberg" not in text:
        return text
    starts = [(match.start(), match.end(), True) for match in _GUTENBERG_START.finditer(text)]
    marks = sorted(starts + [(match.start(), match.end(), False) for match in _GUTENBERG_END.finditer(text)])
    if not marks:
        return text
    kept: list[str] = []
    opened: int | None = None if marks[0][2] else 0  # without a start the text is the middle of a book
    for begin, end, starts_book in marks:
        if opened is not None:
            kept.append(text[opened:begin])
        opened = end if starts_book else None
    if opened is not None:
        kept.append(text[opened:])
    return "\n\n".join(part.strip("\n") for part in kept)


def page_furniture(text: str) -> str:
    """Headers, footers and page numbers: lines at the top or bottom of a page (three each) that come back, but for their
    digits, on three pages and on a fifth of all; bare page numbers there. Pages end with a form feed."""
    if "\f" not in text:
        return text
    pages = [page.split("\n") for page in text.split("\f")]
    edges = [_edges(page) for page in pages]
    seen = Counter(key for page, places in zip(pages, edges, strict=True) for key in {_key(page[i]) for i in places})
    needed = max(3, len(pages) // 5)
    for page, places in zip(pages, edges, strict=True):
        for place in sorted(places, reverse=True):
            if seen[_key(page[place])] >= needed or _PAGE_NUMBER.match(page[place]):
                del page[place]
    return "\f".join("\n".join(page).strip("\n") for page in pages)


def _edges(page: list[str]) -> set[int]:
    """Places of the first and the last three lines with something on them."""
    filled = [place for place, line in enumerate(page) if line.strip()]
    return {*filled[:3], *filled[-3:]} if len(filled) > 6 else {*filled[:1], *filled[-1:]}


def _key(line: str) -> str:
    return _DIGITS.sub("#", line.strip().lower())


def stated_pages(text: str) -> str:
    """Lines that say "Page 3 of 12" or "第3页"; a bare number may be a verse or a list, and stays."""
    if "age " not in text and "AGE " not in text and "页" not in text:
        return text
    return _STATED_PAGE.sub("", text)


def web_notices(text: str) -> str:
    """Lines that are wholly a cookie, copyright or sharing notice, or navigation. C4 drops any line with such words."""
    lines = text.split("\n")
    found = [number for number, line in enumerate(lines) if _NOTICE_START(line)]
    if not text.isascii() and any(char in text for char in _NOTICE_CHARACTERS):
        found += [number for number, line in enumerate(lines) if not line.isascii()]
    notices = {number for number in found if len(lines[number]) <= _MAX_NOTICE_CHARS and _NOTICE.match(lines[number])}
    if not notices:
        return text
    return "\n".join([line for number, line in enumerate(lines) if number not in notices])


RULES: tuple[Strip, ...] = (
    Strip("gutenberg_licence", "the marks Project Gutenberg sets", gutenberg_licence),
    Strip("page_furniture", "own", page_furniture),
    Strip("stated_pages", "own", stated_pages),
    Strip("web_notices", "after C4, arXiv:1910.10683, 2.2", web_notices),
)
