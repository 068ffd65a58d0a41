"""Normalising: the same text is the same bytes, whatever wrote it."""

import re
import unicodedata

from dunwu.corpus.measure import UNSEEN, marks

_CONTROL_BYTES = bytes([*range(9), 0x0B, *range(0x0E, 0x20), 0x7F])
# Controls, zero width and direction marks, lone surrogates. Joiners (U+200C, U+200D) stay: emoji, Persian and Indic scripts need them.
_UNSEEN = re.compile(
    "[\x00-\x08\x0b\x0e-\x1f\x7f-\x84\x86-\x9f\u00ad\u200b\u200e\u200f\u202a-\u202e\u2060\u2066-\u2069\ud800-\udfff\ufeff\ufffe\uffff]"
)
_BLANKS = " \t\u3000"
_EMPTY_LINES = re.compile(r"\n{4,}")
_OTHER_LINE_ENDS = re.compile("[\u0085\u2028\u2029]")
# A UTF-8 lead byte shown as Windows-1252, and what follows it.
_MOJIBAKE = re.compile(
    "[\u00c2-\u00f4][\u0080-\u00bf\u0152\u0153\u0160\u0161\u0178\u017d\u017e\u0192\u02c6\u02dc\u2013-\u2122\u20ac]"
)


def normalise(text: str) -> str:
    """Unix line ends, Unicode NFC, no control or zero-width characters, no blanks at line ends, at most two empty lines.

    Form feeds stay: they mark pages, which `boilerplate` reads and removes. UTF-8 that was once read as Windows-1252
    ("donâ€™t") is mended where the whole line converts back.
    """
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    text = _clean_ascii(text) if text.isascii() else _clean_unicode(text)
    if " \n" in text or "\t\n" in text or "\u3000\n" in text or text[-1:] in _BLANKS:
        text = "\n".join([line.rstrip(_BLANKS) for line in text.split("\n")])
    if "\n\n\n\n" in text:
        text = _EMPTY_LINES.sub("\n\n\n", text)
    return text.strip("\n")


def _clean_ascii(text: str) -> str:
    data = text.encode()
    cleaned = data.translate(None, _CONTROL_BYTES)
    return text if len(cleaned) == len(data) else cleaned.decode()


def _clean_unicode(text: str) -> str:
    if not unicodedata.is_normalized("NFC", text):
        text = unicodedata.normalize("NFC", text)
    if any(mark in text for mark in "\u0085\u2028\u2029"):
        text = _OTHER_LINE_ENDS.sub("\n", text)
    if any(mark in text for mark in ("\u00c2", "\u00c3", "\u00e2\u20ac", "\u00e4\u00b8", "\u00ef\u00bc")):
        text = "\n".join(map(_mend, text.split("\n")))
    if (marks(text) & UNSEEN).any():
        text = _UNSEEN.sub("", text)
    return text.replace("\u00a0", " ")


def _mend(line: str) -> str:
    """A line of UTF-8 read as Windows-1252, read again; any other line as it is."""
    if not _MOJIBAKE.search(line):
        return line
    data = bytearray()
    for char in line:
        try:
            data += char.encode("cp1252")
        except UnicodeEncodeError:
            if ord(char) > 0xFF:
                return line
            data.append(ord(char))
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return line
