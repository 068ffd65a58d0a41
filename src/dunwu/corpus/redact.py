"""Personal data and secrets, replaced by tags such as `[EMAIL]`. Patterns with their checksums where there are any.

Made to leave ordinary numbers alone: dates, ISBNs, page ranges, amounts. What cannot be told from them (names, street
addresses, numbers without a mark) is not looked for.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dunwu.corpus.measure import ASSIGNS, NUMERAL, TOKEN, marks

_ID_WEIGHTS = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
_ID_CHECKS = "10X98765432"


def valid_chinese_id(digits: str) -> bool:
    """GB 11643-1999: a plausible birth date and the ISO 7064 MOD 11-2 check character."""
    month, day = int(digits[10:12]), int(digits[12:14])
    if not (1 <= month <= 12 and 1 <= day <= 31 and digits[6:8] in ("18", "19", "20")):
        return False
    total = sum(int(digit) * weight for digit, weight in zip(digits[:17], _ID_WEIGHTS, strict=True))
    return _ID_CHECKS[total % 11] == digits[17].upper()


def valid_old_chinese_id(digits: str) -> bool:
    """The 15 digits of before 1999: region, a plausible birth date with a two-digit year, and a serial number."""
    return 1 <= int(digits[8:10]) <= 12 and 1 <= int(digits[10:12]) <= 31


def valid_card(number: str) -> bool:
    """ISO/IEC 7812: 15 to 19 digits of a known issuer's range with a right Luhn check digit."""
    digits = [int(char) for char in number if char.isdigit()]
    if not 15 <= len(digits) <= 19 or digits[0] not in (2, 3, 4, 5, 6) or len(set(digits)) < 2:
        return False
    doubled = sum(sum(divmod(2 * digit, 10)) for digit in digits[-2::-2])
    return (sum(digits[-1::-2]) + doubled) % 10 == 0


@dataclass(frozen=True, slots=True)
class Pattern:
    """A kind of number. `valid`: a check on what matched."""

    kind: str
    pattern: re.Pattern[str]
    valid: Callable[[str], bool] = lambda found: True


TAGS = {
    "private_key": "[PRIVATE_KEY]",
    "secret": "[SECRET]",
    "email": "[EMAIL]",
    "chinese_id": "[ID]",
    "bank_card": "[CARD]",
    "phone": "[PHONE]",
}

# A key to its end; without an end only what looks like one, as a text may also speak of the mark.
_PRIVATE_KEY = re.compile(
    r"-----BEGIN [A-Z ]{0,20}PRIVATE KEY-----(?:"
    r"[A-Za-z0-9+/=\s\\:,.\"'>#*|\-]{0,20000}?-----END [A-Z ]{0,20}PRIVATE KEY-----"
    r"|(?:(?:\s|\\[nr]|[>#*|\"']){0,8}[A-Za-z0-9+/=]{16,})*)"
)
_SECRET = re.compile(
    r"(?<![A-Za-z0-9])(?:"
    r"sk-(?:proj-|ant-|live-|test-)?(?=[A-Za-z0-9_\-]*[0-9])[A-Za-z0-9_\-]{20,}"
    r"|(?:sk|rk|pk)_(?:live|test)_[A-Za-z0-9]{16,}"
    r"|(?:AKIA|ASIA|AROA)[A-Z0-9]{16}"
    r"|gh[pousr]_[A-Za-z0-9]{36,}"
    r"|github_pat_[A-Za-z0-9_]{22,}"
    r"|glpat-[A-Za-z0-9_\-]{20,}"
    r"|hf_[A-Za-z0-9]{30,}"
    r"|xox[baprs]-[A-Za-z0-9\-]{15,}"
    r"|AIza[A-Za-z0-9_\-]{35}"
    r"|LTAI[A-Za-z0-9]{16,24}"
    r"|eyJ[A-Za-z0-9_\-]{17,}\.eyJ[A-Za-z0-9_\-]{8,}\.[A-Za-z0-9_\-]{8,}"
    r")(?![A-Za-z0-9])"
)
# A value in quotes; or without them if it has a letter and a digit, as words of prose have not, and is no piece of a program.
_ASSIGNED_VALUE = re.compile(
    r"[:=：＝]\s{0,2}(?:[\"']([^\s\"']{8,200})[\"']"
    r"|(?=[^\s]{0,40}\d)(?=[^\s]{0,40}[A-Za-z])([A-Za-z0-9!#%&*+\-./?@^_~=]{6,200})(?![A-Za-z0-9(\[{$<'\"]))"
)
_SECRET_NAME = re.compile(
    r"(?i)(?:api[_-]?key|secret[_-]?key|access[_-]?key|access[_-]?token|auth[_-]?token|client[_-]?secret|password|passwd|pwd"
    r"|密码|口令|密钥)[\"']?(?:是|为)?\s{0,3}$"
)
_NAME_ENDS = frozenset("yntdYNTD码令钥是为\"'")  # with blanks, how all that `_SECRET_NAME` matches may end
_EMAIL = re.compile(
    r"(?<![A-Za-z0-9])(?!git@)[A-Za-z0-9][A-Za-z0-9._%+\-]{0,63}@"
    r"(?:[A-Za-z0-9](?:[A-Za-z0-9\-]{0,61}[A-Za-z0-9])?\.){1,8}[A-Za-z]{2,24}(?![A-Za-z0-9])"
)
_FULL_WIDTH = re.compile("[０-９＠]")
_HALF_WIDTH = {code: code - 0xFEE0 for code in (*range(0xFF10, 0xFF1A), *range(0xFF21, 0xFF3B), *range(0xFF41, 0xFF5B))}
_HALF_WIDTH |= {ord(char): ord(char) - 0xFEE0 for char in "＠．－＋（）＿"}
# Those issued before 1999 have no check digit: only where the text says what they are.
_OLD_CHINESE_ID = re.compile(r"身份证[^\d\n]{0,8}?([1-9]\d{14})(?!\d)")
_FEWEST_DIGITS = 7
_NUMBER_REACH = 24  # characters to each side of seven close digits that may belong to the number
_NUMBERS = (
    Pattern("chinese_id", re.compile(r"(?<![0-9A-Za-z])[1-9]\d{16}[\dXx](?![0-9A-Za-z])"), valid_chinese_id),
    Pattern(
        "bank_card",
        re.compile(
            r"(?<![A-Za-z\d_.,\-])(?:\d{15,19}|\d{4}([ \-])\d{4}\1\d{4}\1\d{4}(?:\1\d{1,3})?|\d{4}([ \-])\d{6}\2\d{5})(?![\w\-]|[.,]\d)"
        ),
        valid_card,
    ),
    Pattern(
        "phone",
        re.compile(
            r"(?<![A-Za-z\d_\-+])(?<!\d[.,])(?:(?:\+|00)86[ \-]?)?1[3-9]\d(?:[ \-]?\d{4}){2}(?![A-Za-z\d_\-]|[.,]\d)"  # Chinese mobile
            r"|(?<![A-Za-z\d.,_\-])0\d{2,3}-\d{7,8}(?![A-Za-z\d_\-])"  # Chinese landline
            r"|(?<!\d)[(\uff08]0\d{2,3}[)\uff09] ?\d{7,8}(?![A-Za-z\d_\-]|[.,]\d)"
            r"|(?<![A-Za-z\d_+)])\+[1-9]\d{0,2}[ \-.]?(?:\(\d{1,4}\)[ \-.]?)?\d{1,4}(?:[ \-.]?\d{2,4}){2,4}(?![A-Za-z\d_])"  # E.164
            r"|(?<![\d.,\-])\(\d{3}\) ?\d{3}-\d{4}(?![\d\-])"  # North American
            r"|(?<![\d.,\-])[2-9]\d{2}-[2-9]\d{2}-\d{4}(?![\d\-])"
        ),
    ),
)

Found = tuple[int, int, str]  # start, end, kind


def redact(text: str) -> tuple[str, Counter[str]]:
    """The text with personal data and secrets replaced, and how many of each kind there were."""
    looked_at = text.translate(_HALF_WIDTH) if _FULL_WIDTH.search(text) else text  # of the same length
    seen = marks(looked_at)
    found = [
        *_private_keys(looked_at),
        *_secrets(looked_at, seen),
        *_assigned(looked_at, seen),
        *_emails(looked_at),
        *_old_ids(looked_at),
        *_numbers(looked_at, seen),
    ]
    counts: Counter[str] = Counter()
    parts: list[str] = []
    last = 0
    for start, end, kind in sorted(found):
        if start >= last:
            parts += [text[last:start], TAGS[kind]]
            counts[kind] += 1
            last = end
    return ("".join([*parts, text[last:]]) if parts else text), counts


def _private_keys(text: str) -> Iterator[Found]:
    if "PRIVATE KEY-----" in text:
        yield from ((match.start(), match.end(), "private_key") for match in _PRIVATE_KEY.finditer(text))


def _secrets(text: str, seen: npt.NDArray[np.uint8]) -> Iterator[Found]:
    """Keys in their issuers' formats: all have 20 token characters in a row, which cover four blocks of 4 in a row."""
    four = (seen[: len(seen) // 4 * 4] & np.uint8(TOKEN)).view(np.uint32)
    blocks = four == np.uint32(TOKEN * 0x01010101)
    last = 0
    for block in np.flatnonzero(blocks[:-3] & blocks[1:-2] & blocks[2:-1] & blocks[3:]).tolist():
        start = block * 4
        if start < last:
            continue
        while start > last and seen[start - 1] & TOKEN:
            start -= 1
        end = block * 4 + 16
        while end < len(seen) and (seen[end] & TOKEN or text[end] == "."):
            end += 1
        for match in _SECRET.finditer(text, start, end):
            yield match.start(), match.end(), "secret"
        last = end


def _assigned(text: str, seen: npt.NDArray[np.uint8]) -> Iterator[Found]:
    """Secrets known by the name they are assigned to: `api_key = "…"`; not placeholders and calls."""
    for place in np.flatnonzero(seen & ASSIGNS).tolist():
        before = text[place - 1 : place]
        if before not in _NAME_ENDS and not before.isspace():
            continue
        match = _ASSIGNED_VALUE.match(text, place)
        if match is None or not _SECRET_NAME.search(text[max(0, place - 24) : place]):
            continue
        group = 1 if match.group(1) else 2
        value = match.group(group).rstrip(".!?") if group == 2 else match.group(1)
        if not value.startswith(("[", "<", "{", "$", "%")) and len(set(value)) >= 5:
            yield match.start(group), match.start(group) + len(value), "secret"


def _emails(text: str) -> Iterator[Found]:
    place = text.find("@")
    while place >= 0:
        for match in _EMAIL.finditer(text, max(0, place - 65), min(len(text), place + 260)):
            if match.start() < place < match.end():
                yield match.start(), match.end(), "email"
        place = text.find("@", place + 1)


def _old_ids(text: str) -> Iterator[Found]:
    if "身份证" in text:
        for match in _OLD_CHINESE_ID.finditer(text):
            if valid_old_chinese_id(match.group(1)):
                yield match.start(1), match.end(1), "chinese_id"


def _numbers(text: str, seen: npt.NDArray[np.uint8]) -> Iterator[Found]:
    """Numbers of seven digits and more that are an identity, a card or a telephone; an earlier kind takes precedence."""
    digits = np.flatnonzero(seen & NUMERAL)
    close = digits[: -_FEWEST_DIGITS + 1][digits[_FEWEST_DIGITS - 1 :] - digits[: -_FEWEST_DIGITS + 1] <= 12]
    for left, right in _windows(close, len(text)):
        taken: list[tuple[int, int]] = []
        for pattern in _NUMBERS:
            for match in pattern.pattern.finditer(text, left, right):
                start, end = match.span()
                if pattern.valid(match.group()) and not any(start < other and first < end for first, other in taken):
                    taken.append((start, end))
                    yield start, end, pattern.kind


def _windows(places: npt.NDArray[np.int64], length: int) -> Iterator[tuple[int, int]]:
    """Stretches of text around these places, joined where they touch."""
    if not len(places):
        return
    breaks = np.flatnonzero(np.diff(places) > 2 * _NUMBER_REACH)
    firsts, lasts = places[np.r_[0, breaks + 1]], places[np.r_[breaks, len(places) - 1]]
    for first, last in zip(firsts.tolist(), lasts.tolist(), strict=True):
        yield max(0, first - _NUMBER_REACH), min(length, last + 12 + _NUMBER_REACH)
