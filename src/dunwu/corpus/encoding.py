"""Which encoding are these bytes in? UTF-8, UTF-16, UTF-32, GB18030, Big5, Windows-1252, or none: binary.

Decided by what decodes *and* reads like text: GB18030 accepts almost any bytes, so it must also give characters that
Chinese uses. Own rules, because general detectors judge short Chinese notes wrongly.
"""

import codecs
from collections.abc import Iterable, Iterator

SAMPLE_BYTES = 1 << 16
_BOMS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
    ("\ufeff".encode("gb18030"), "gb18030"),
)
_MAGIC = (b"%PDF-", b"PK\x03\x04", b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"\x7fELF", b"\x1f\x8b", b"\x28\xb5\x2f\xfd")
_TEXT_CONTROLS = frozenset(b"\t\n\r\f\x1b\x08")
_CONTROLS = bytes(byte for byte in range(32) if byte not in _TEXT_CONTROLS)
_MAX_CONTROL_SHARE = 0.003
_MIN_PLAUSIBLE = 0.85
_MIN_WHOLE_LINES = 0.2  # of the bytes in lines that are not ASCII


def detect_encoding(sample: bytes, *, complete: bool = False) -> str | None:
    """The Python codec that reads `sample` as text, or None for binary data.

    `sample` is the start of a file (some 64 kB are enough); `complete` says that nothing follows it, so that a
    character cut off at the end counts as an error.
    """
    for mark, name in _BOMS:
        if sample.startswith(mark):
            return name
    if sample.startswith(_MAGIC):
        return None
    if wide := _bare_utf16(sample):
        return wide
    if len(sample) - len(sample.translate(None, _CONTROLS)) > _MAX_CONTROL_SHARE * len(sample):
        return None
    if _decodes(sample, "utf-8", complete) is not None or _mostly_utf8(sample):
        return "utf-8"
    return _legacy(sample, complete)


def _mostly_utf8(sample: bytes) -> bool:
    """UTF-8 with a few broken bytes or lines of another encoding, which `decode_blocks` mends line by line.

    By chance, text of another encoding gives few whole characters of UTF-8, and whole lines only of a word or two.
    """
    text = sample.decode("utf-8", "replace")
    broken = text.count("\ufffd")
    if sum(char > "\x7f" for char in text) - broken > 4 * broken:
        return True
    lines = [line for line in sample.splitlines() if not line.isascii()]
    whole = sum(len(line) for line in lines if _decodes(line, "utf-8", True) is not None)
    return whole > _MIN_WHOLE_LINES * sum(map(len, lines))


def _decodes(sample: bytes, encoding: str, complete: bool) -> str | None:
    """The text, or None where the bytes are not of this encoding; a cut last character is forgiven unless complete."""
    try:
        return codecs.getincrementaldecoder(encoding)("strict").decode(sample, complete)
    except UnicodeDecodeError:
        return None


def _bare_utf16(sample: bytes) -> str | None:
    """UTF-16 without a byte order mark: ASCII in it leaves zeros at odd or even places; Chinese needs a plausible text."""
    if len(sample) < 4 or (b"\0" not in sample and len(sample) % 2 and len(sample) < SAMPLE_BYTES):
        return None
    even = sample[: len(sample) // 2 * 2]
    zeros_high, zeros_low = even[1::2].count(0), even[0::2].count(0)
    if not zeros_high and not zeros_low:
        return None  # two-byte text of any length has a line end, a space or a digit
    candidates = ("utf-16-le", "utf-16-be") if zeros_high >= zeros_low else ("utf-16-be", "utf-16-le")
    for name in candidates:
        text = _decodes(even, name, False)
        if text and _readable_share(text) >= 0.95 and "\0" not in text:
            return name
    return None


def _readable_share(text: str) -> float:
    """Share of characters that ordinary text uses: ASCII and Latin, general and CJK punctuation, kana, Han, full width."""
    good = sum(
        1
        for char in text
        if " " <= char <= "~"
        or char in "\t\n\r\f\ufeff"
        or "\u00a0" <= char <= "\u024f"
        or "\u0370" <= char <= "\u04ff"
        or "\u2010" <= char <= "\u2044"
        or "\u3000" <= char <= "\u30ff"
        or "\u4e00" <= char <= "\u9fa5"
        or "\uac00" <= char <= "\ud7a3"
        or "\uff01" <= char <= "\uff5e"
    )
    return good / max(1, len(text))


def _legacy(sample: bytes, complete: bool) -> str | None:
    """GB18030, Big5 or Windows-1252, whichever reads like text; None when none does."""
    best_name, best_share = None, _MIN_PLAUSIBLE
    for name, common in (("gb18030", _common_gb), ("big5", _common_big5)):
        text = _decodes(sample, name, complete)
        share = common(text) if text is not None else 0.0
        if share > best_share:
            best_name, best_share = name, share
    western = _western_share(sample)
    if best_name is not None and not (western > 0.95 and best_share < 0.98):
        return best_name
    return "cp1252" if western >= _MIN_PLAUSIBLE else best_name


def _common_gb(text: str) -> float:
    """Share of the non-ASCII characters that are everyday Chinese: the first level of GB 2312, or its punctuation."""
    return _lead_share(text, "gb18030", range(0xB0, 0xD8), range(0xA1, 0xA4))


def _common_big5(text: str) -> float:
    """The same for the frequent level of Big5; the comparison favours GB18030 by a hair, as files in it are likelier."""
    return _lead_share(text, "big5", range(0xA4, 0xC7), range(0xA1, 0xA4)) - 0.01


def _lead_share(text: str, encoding: str, letters: range, marks: range) -> float:
    wide = [char for char in text if char > "\x7f"]
    if not wide:
        return 0.0
    encoded = [char.encode(encoding) for char in wide]
    hanzi = sum(1 for code in encoded if len(code) == 2 and code[0] in letters and code.decode(encoding) >= "\u3400")
    other = sum(1 for code in encoded if len(code) == 2 and code[0] in marks)
    return (hanzi + other) / len(wide) if hanzi >= other or hanzi > 2 else 0.0


def _western_share(sample: bytes) -> float:
    """How far the bytes above 127 look like accented letters or typographic marks inside Latin text."""
    try:
        text = sample.decode("cp1252")
    except UnicodeDecodeError:
        return 0.0
    high = [index for index, char in enumerate(text) if char > "\x7f"]
    if not high or len(high) > 0.3 * len(text):
        return 0.0
    good = 0
    for index in high:
        char = text[index]
        around = text[max(0, index - 1) : index] + text[index + 1 : index + 2]
        beside_ascii = any(other < "\x80" for other in around) or not around
        good += beside_ascii and (char.isalpha() or char in "‘’“”–—…•€£§©®°«»¿¡\u00a0·")
    return good / len(high)


def decode_blocks(blocks: Iterable[bytes], encoding: str) -> Iterator[str]:
    """Decode a stream of blocks, never failing. Where UTF-8 breaks off, each broken line is read by its own encoding.

    A file pasted together from several encodings so keeps all its lines; what fits none becomes U+FFFD.
    """
    if encoding not in ("utf-8", "utf-8-sig"):
        decoder = codecs.getincrementaldecoder(encoding)("replace")
        for block in blocks:
            yield decoder.decode(block)
        yield decoder.decode(b"", True)
        return
    rest = b""
    first = True
    for block in blocks:
        data = rest + block
        if first and data.startswith(codecs.BOM_UTF8):
            data = data[3:]
        first = False
        cut = _complete_until(data)
        rest = data[cut:]
        yield _decode_utf8(data[:cut])
    yield _decode_utf8(rest)


def _complete_until(data: bytes) -> int:
    """Where to cut so that no line, or failing that no UTF-8 character, is split."""
    line_end = data.rfind(b"\n") + 1
    if line_end:
        return line_end
    for back in range(1, min(4, len(data)) + 1):
        byte = data[-back]
        if byte >= 0xC0:  # a lead byte: the character may go on in the next block
            return len(data) - back
        if byte < 0x80:
            break
    return len(data)


def _decode_utf8(data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return "".join(map(_decode_line, data.splitlines(keepends=True)))


def _decode_line(line: bytes) -> str:
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError:
        encoding = _legacy(line, complete=True)
        return line.decode(encoding or "utf-8", "replace")
