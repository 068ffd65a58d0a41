"""Personal data and secrets, replaced by tags such as `[EMAIL]`. Patterns with their checksums where there are any.

Made to leave ordinary numbers alone: dates, ISBNs, page ranges, amounts. What cannot be told from them (names, street
addresses, numbers without a mark) is not looked for.
"""

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

_ID_WEIGHTS = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
_ID_CHECKS = "10X98765432"


def valid_chinese_id(digits: str) -> bool:
    """GB 11643-1999: a plausible birth date and the ISO 7064 MOD 11-2 check character."""
    month, day = int(digits[10:12]), int(digits[12:14])
    if not (1 <= month <= 12 and 1 <= day <= 31 and digits[6:8] in ("18", "19", "20")):
        return False
    total = sum(int(digit) * weight for digit, weight in zip(digits[:17], _ID_WEIGHTS, strict=True))
    return _ID_CHECKS[total % 11] == digits[17].upper()


def valid_card(number: str) -> bool:
    """ISO/IEC 7812: 13 to 19 digits of a known issuer's range with a right Luhn check digit."""
    digits = [int(char) for char in number if char.isdigit()]
    if not 13 <= len(digits) <= 19 or digits[0] not in (2, 3, 4, 5, 6) or len(set(digits)) < 3:
        return False
    doubled = sum(sum(divmod(2 * digit, 10)) for digit in digits[-2::-2])
    return (sum(digits[-1::-2]) + doubled) % 10 == 0


@dataclass(frozen=True, slots=True)
class Pattern:
    """A kind of personal data. `hint`: looked for first, as it is quick; `valid`: a check on what matched."""

    kind: str
    tag: str
    hint: Callable[[str], bool]
    pattern: re.Pattern[str]
    valid: Callable[[str], bool] = lambda found: True


def _has(*parts: str) -> Callable[[str], bool]:
    return lambda text: any(part in text for part in parts)


_DIGIT_RUN = re.compile(r"\d[\d \-.()]{5,}\d")
_TOKEN = re.compile(r"[A-Za-z0-9_\-]{20,}")


def _digit_run(text: str) -> bool:
    return _DIGIT_RUN.search(text) is not None


_SECRETS = (
    r"sk-(?:proj-|ant-|live-|test-)?[A-Za-z0-9_\-]{20,}"
    r"|(?:sk|rk|pk)_(?:live|test)_[A-Za-z0-9]{16,}"
    r"|(?:AKIA|ASIA|AROA)[A-Z0-9]{16}"
    r"|gh[pousr]_[A-Za-z0-9]{36,}"
    r"|github_pat_[A-Za-z0-9_]{22,}"
    r"|glpat-[A-Za-z0-9_\-]{20,}"
    r"|hf_[A-Za-z0-9]{30,}"
    r"|xox[baprs]-[A-Za-z0-9\-]{10,}"
    r"|AIza[A-Za-z0-9_\-]{35}"
    r"|LTAI[A-Za-z0-9]{12,24}"
    r"|eyJ[A-Za-z0-9_\-]{8,}\.eyJ[A-Za-z0-9_\-]{8,}\.[A-Za-z0-9_\-]{8,}"
)
_SECRET_STARTS = (
    *("sk-", "sk_", "rk_", "pk_", "AKIA", "ASIA", "AROA", "ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_"),
    *("glpat-", "hf_", "xox", "AIza", "LTAI", "eyJ"),
)
_ASSIGNED = (
    r"(?i:\b(?:api[_-]?key|secret[_-]?key|access[_-]?token|auth[_-]?token|client[_-]?secret|password|passwd|pwd)\b"
    r"[\"']?\s*[:=]\s*[\"'])([^\s\"']{8,})(?=[\"'])"
)

PATTERNS: tuple[Pattern, ...] = (
    Pattern(
        "private_key",
        "[PRIVATE_KEY]",
        _has("PRIVATE KEY-----"),
        re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.S),
    ),
    Pattern("secret", "[SECRET]", _has(*_SECRET_STARTS), re.compile(rf"(?<![A-Za-z0-9])(?:{_SECRETS})(?![A-Za-z0-9])")),
    Pattern(
        "email",
        "[EMAIL]",
        _has("@"),
        re.compile(
            r"(?<![A-Za-z0-9._%+\-])[A-Za-z0-9][A-Za-z0-9._%+\-]{0,63}@"
            r"(?:[A-Za-z0-9](?:[A-Za-z0-9\-]{0,61}[A-Za-z0-9])?\.){1,8}[A-Za-z]{2,24}(?![A-Za-z0-9])"
        ),
    ),
    Pattern(
        "chinese_id",
        "[ID]",
        _digit_run,
        re.compile(r"(?<![0-9A-Za-z])[1-9]\d{16}[\dXx](?![0-9A-Za-z])"),
        valid_chinese_id,
    ),
    Pattern(
        "bank_card",
        "[CARD]",
        _digit_run,
        re.compile(r"(?<![\d.,\-])\d(?:[ \-]?\d){12,18}(?![\d]|[.,\-]\d)"),
        valid_card,
    ),
    Pattern(
        "phone",
        "[PHONE]",
        _digit_run,
        re.compile(
            r"(?<![\d.,\-+])(?:(?:\+|00)86[ \-]?)?1[3-9]\d(?:[ \-]?\d{4}){2}(?![\d]|[.,\-]\d)"  # Chinese mobile
            r"|(?<![\d.,\-])0\d{2,3}-\d{7,8}(?![\d\-])"  # Chinese landline
            r"|(?<![\d+])\+[1-9]\d{0,2}[ \-.]?(?:\(\d{1,4}\)[ \-.]?)?\d{1,4}(?:[ \-.]?\d{2,4}){2,4}(?!\d)"  # E.164
            r"|(?<![\d.,\-])\(\d{3}\) ?\d{3}-\d{4}(?![\d\-])"  # North American
            r"|(?<![\d.,\-])[2-9]\d{2}-[2-9]\d{2}-\d{4}(?![\d\-])"
        ),
    ),
)
_ASSIGNED_PATTERN = re.compile(_ASSIGNED)
_ASSIGNED_HINTS = (
    "key",
    "token",
    "secret",
    "passw",
    "pwd",
    "Key",
    "Token",
    "Secret",
    "Passw",
    "KEY",
    "TOKEN",
    "SECRET",
    "PASSW",
)


def redact(text: str) -> tuple[str, Counter[str]]:
    """The text with personal data and secrets replaced, and how many of each kind there were."""
    counts: Counter[str] = Counter()
    for pattern in PATTERNS:
        if pattern.hint(text):
            text = _replace(text, pattern, counts)
    if any(hint in text for hint in _ASSIGNED_HINTS):
        text = _replace_assigned(text, counts)
    return text, counts


def _replace(text: str, pattern: Pattern, counts: Counter[str]) -> str:
    def tag(match: re.Match[str]) -> str:
        if not pattern.valid(match.group()):
            return match.group()
        counts[pattern.kind] += 1
        return pattern.tag

    return pattern.pattern.sub(tag, text)


def _replace_assigned(text: str, counts: Counter[str]) -> str:
    """Secrets known by the name they are assigned to: `api_key = "…"`."""

    def tag(match: re.Match[str]) -> str:
        value = match.group(1)
        if value.startswith(("[", "<", "{", "$", "%")) or len(set(value)) < 5:
            return match.group()
        counts["secret"] += 1
        return match.group().removesuffix(value) + "[SECRET]"

    return _ASSIGNED_PATTERN.sub(tag, text)
