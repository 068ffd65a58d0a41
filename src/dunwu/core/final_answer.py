r"""The final answer of a text that reasons first, and whether two of them are the same value, exactly.

Marks, in this order: the last `\boxed{…}`; the last `####` (GSM8K's); the last "the answer is …" or 答案是; and, where allowed, the
last number of the text. Values are fractions of whole numbers: 0.5, 1/2, \frac{1}{2}, 50\% and 5e-1 are one. What is no number is
compared as text, without what only sets it in type.
"""

import re
import unicodedata
from fractions import Fraction

LONGEST = 400  # characters of a final answer; beyond, it is no value
LARGEST_EXPONENT = 300
_DIGITS = r"(?:\d{1,3}(?:,\d{3})+|\d+)"
_NUMBER = rf"(?:{_DIGITS}(?:\.\d+)?|\.\d+)(?:[eE][+-]?\d{{1,3}}(?![\d.]))?"
_SIGNED = re.compile(rf"(?:(?<![\w.)\]])[-+])?{_NUMBER}")  # 3-2 is two numbers, of which none is below 0
_PHRASE = re.compile(
    r"(?:\banswers?\b(?:\s+(?:is|are|be|was|equals)\b|\s*[:=])|(?:答案|结果)(?:是|为|等于|应为|应该是|[:=]))\s*[:=]?",
    re.IGNORECASE,
)
_SENTENCE_END = re.compile(r"[。！？!?\n;；]|\.(?!\d)|,(?=\s*[A-Za-z\u4e00-\u9fff])")
_BRACE = re.compile(r"\\(?:boxed|fbox)\s*\{|[{}]")
_SET = re.compile(r"\\(?:left|right|displaystyle|limits|quad|qquad|[!,;: ()\[\]])")
_WRAPPED = re.compile(r"\\(?:text|textbf|textit|mathrm|mathbf|mathit|operatorname|mbox|mathsf)\s*\{([^{}]*)\}")
_FRACTION = re.compile(
    r"\\[dtc]?frac\s*(?:\{([^{}]*)\}\s*\{([^{}]*)\}|(\d)\s*(\d)|(\d)\s*\{([^{}]*)\}|\{([^{}]*)\}\s*(\d))"
)
_POWER_OF_TEN = re.compile(
    rf"([-+]?{_NUMBER})\s*(?:\\times|\\cdot|×|\*|x)\s*10\s*(?:\^|\*\*)\s*\{{?([-+]?\d{{1,3}})\}}?"
)
_QUOTIENT = re.compile(rf"([-+]?{_NUMBER})\s*/\s*([-+]?{_NUMBER})")
_MIXED = re.compile(r"([-+]?)(\d+)\s+(\d+)\s*/\s*(\d+)")
_UNIT = re.compile(
    r"(?:\s+|(?<=[\d%}]))(?:[A-Za-z\u4e00-\u9fff][A-Za-z\u4e00-\u9fff ./²³]*|\^\s*\{?[\\a-z]*circ\}?|°C?F?)(?:\^\{?\d\}?)?$"
)
_UNKNOWN = re.compile(r"\d[a-zA-Z]$(?<![mglshLWVANJKC])")  # 3x is no 3, while 3m is three metres
_MONEY = re.compile(r"\\?[$€£¥]|(?:人民币|USD|US\$|RMB)\s*|元$")


def final_answer(text: str, *, last_number: bool = True) -> str | None:
    """What a text gives as its answer, as it writes it; None where it gives none."""
    text = unicodedata.normalize("NFKC", text)
    boxed = _last_boxed(text)
    if boxed is not None:
        return boxed.strip()
    if "####" in text:
        return text.rsplit("####", 1)[1].strip().split("\n", 1)[0].strip()
    if phrases := list(_PHRASE.finditer(text)):
        said = text[phrases[-1].end() :].lstrip(" *\t$")
        return _only_number(_SENTENCE_END.split(said, maxsplit=1)[0].strip(" *$"))
    numbers = _SIGNED.findall(text) if last_number else []
    return numbers[-1] if numbers else None


def same_answer(one: str, other: str) -> bool:
    """Whether two final answers are equal as values, or else as text; lists in brackets item by item."""
    ours, theirs = plain(one), plain(other)
    if ours == theirs and ours:
        return True
    values = value_of(one), value_of(other)
    if values[0] is not None and values[1] is not None:
        return bool(values[0] & values[1])
    items = _items(ours), _items(theirs)
    if items[0] and items[1] and len(items[0]) == len(items[1]) and ours[0] + ours[-1] == theirs[0] + theirs[-1]:
        return all(same_answer(x, y) for x, y in zip(*items, strict=True))
    return False


def value_of(text: str) -> frozenset[Fraction] | None:
    """The number that a text is, as a fraction; a percentage is also a hundredth of it. None where it is none."""
    if len(text) > LONGEST:
        return None
    text = unicodedata.normalize("NFKC", text).strip().strip("$").replace("−", "-").replace("–", "-")
    text = _typeset(text)
    if "=" in text:
        text = text.rsplit("=", 1)[1]
    text = _MONEY.sub("", text).strip().rstrip(". ")
    text = text if _UNKNOWN.search(text) else _UNIT.sub("", text).strip()
    percent = text.endswith("%")
    value = _number(text.rstrip("%\\ ").strip("() "))
    if value is None:
        return None
    return frozenset({value, value / 100}) if percent else frozenset({value})


def plain(text: str) -> str:
    """A final answer without what only sets it in type: spaces, wrappers, signs of money, a full stop; in small letters."""
    text = _typeset(unicodedata.normalize("NFKC", text)).strip().strip("$").rstrip(".。")
    text = re.sub(r"\s+", "", _MONEY.sub("", text)).casefold()
    return text[1:-1] if re.fullmatch(r"\([a-z]\)", text) else text


def _only_number(said: str) -> str:
    """The number of a phrase such as "72 clips in all", where it has just one: who names two has not answered."""
    numbers = _SIGNED.findall(said)
    return numbers[0] if value_of(said) is None and len(numbers) == 1 and not re.search(r"[\\/^=(]", said) else said


def _last_boxed(text: str) -> str | None:
    """What stands in the braces of the box that opens last, of those that close."""
    open_at: list[int | None] = []  # of each open brace: where its box's content begins, None where it is no box's
    best: tuple[int, int] | None = None
    for brace in _BRACE.finditer(text):
        if brace[0] != "}":
            open_at.append(brace.end() if len(brace[0]) > 1 else None)
        elif open_at and (begun := open_at.pop()) is not None and (best is None or begun > best[0]):
            best = begun, brace.start()
    return None if best is None else text[best[0] : best[1]]


def _typeset(text: str) -> str:
    """Without commands that only set type, with fractions written as a quotient."""
    text = text.replace("\\%", "%").replace("\\$", "$").replace("\\{", "{").replace("\\}", "}").replace("{,}", ",")
    text = _WRAPPED.sub(r" \1", _SET.sub("", text))
    for _ in range(3):
        text = _FRACTION.sub(_quotient, text)
    return text.strip()


def _quotient(found: re.Match[str]) -> str:
    above, below = (part.strip() for part in found.groups() if part is not None)
    before = found.string[: found.start()].rstrip()
    gap = " " if before[-1:].isdigit() else ""
    return f"{gap}{above}/{below}" if re.fullmatch(r"[-+]?[\w.]+", above + below) else f"{gap}({above})/({below})"


def _number(text: str) -> Fraction | None:
    if found := _MIXED.fullmatch(text):
        sign, whole, above, below = found.groups()
        value = None if int(below) == 0 else int(whole) + Fraction(int(above), int(below))
        return value if value is None or sign != "-" else -value
    if found := _POWER_OF_TEN.fullmatch(text):
        base, exponent = _plain_number(found[1]), int(found[2])
        return None if base is None or abs(exponent) > LARGEST_EXPONENT else base * Fraction(10) ** exponent
    if found := _QUOTIENT.fullmatch(text):
        above, below = _plain_number(found[1]), _plain_number(found[2])
        return None if above is None or not below else above / below
    return _plain_number(text)


def _plain_number(text: str) -> Fraction | None:
    text = re.sub(r"(?<=\d) (?=\d{3}\b)", "", text)
    if not re.fullmatch(rf"[-+]?\s*{_NUMBER}", text):
        return None
    text = text.replace(",", "").replace(" ", "")
    exponent = re.search(r"[eE]([+-]?\d+)$", text)
    return None if exponent and abs(int(exponent[1])) > LARGEST_EXPONENT else Fraction(text)


def _items(text: str) -> list[str]:
    """The items of a list in brackets or braces, parted by commas that stand in no inner ones."""
    if not 3 <= len(text) <= LONGEST or text[0] not in "([{" or text[-1] not in ")]}":
        return []
    items, depth, start = list[str](), 0, 1
    for at in range(1, len(text) - 1):
        depth += {"(": 1, "[": 1, "{": 1, ")": -1, "]": -1, "}": -1}.get(text[at], 0)
        if text[at] == "," and depth == 0:
            items.append(text[start:at])
            start = at + 1
    return [*items, text[start:-1]] if items else []
