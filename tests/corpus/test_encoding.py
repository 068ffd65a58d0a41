"""Which encoding a file has, and that no text is lost in reading it."""

import codecs

import pytest
from document_files import chinese, english
from hypothesis import given
from hypothesis import strategies as st

from dunwu.corpus.encoding import decode_blocks, detect_encoding

CHINESE = "今天天气很好，我们去公园散步。\n他说：“明天见！”2024年5月1日"
FRENCH = "Où est la bibliothèque ? L’été dernier, Françoise mangeait des crêpes à Angoulême.\n" * 3


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "gb18030", "utf-32"])
@pytest.mark.parametrize("text", [CHINESE, "他来了", chinese(1), "Mixed 中文 and English 文字。\n" * 20])
def test_chinese_is_read_back(text: str, encoding: str) -> None:
    data = text.encode(encoding)
    found = detect_encoding(data, complete=True)
    assert found is not None
    assert data.decode(found).lstrip("\ufeff") == text


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("text", [CHINESE, english(1), FRENCH])
def test_utf16_needs_no_mark(text: str, encoding: str) -> None:
    assert detect_encoding(text.encode(encoding), complete=True) == encoding


@pytest.mark.parametrize("text", [FRENCH, "Das Mädchen aß Äpfel; daß es schön sei.", "It’s a café – “really”.\n"])
def test_western_text_is_not_taken_for_chinese(text: str) -> None:
    assert detect_encoding(text.encode("cp1252"), complete=True) == "cp1252"


def test_gb18030_with_its_byte_order_mark() -> None:
    data = ("\ufeff" + CHINESE).encode("gb18030")
    assert data.decode(detect_encoding(data, complete=True) or "") == "\ufeff" + CHINESE


def test_gb18030_beyond_two_bytes() -> None:
    text = CHINESE + "龘𠀀😀"
    assert text.encode("gb18030").decode(detect_encoding(text.encode("gb18030"), complete=True) or "") == text


@pytest.mark.parametrize(
    "data",
    [
        b"%PDF-1.7 text follows",
        b"PK\x03\x04 and names",
        bytes(range(256)) * 20,
        b"\x00\x01\x02\x03" * 500,
        b"\x89PNG\r\n\x1a\n",
    ],
)
def test_binary_is_not_text(data: bytes) -> None:
    assert detect_encoding(data, complete=True) is None


def test_character_cut_at_the_end_of_a_sample() -> None:
    data = ("天" * 50).encode()[:-1]
    assert detect_encoding(data) == "utf-8"


@given(st.text(alphabet=st.characters(blacklist_categories=("Cs",), blacklist_characters="\0\ufeff"), max_size=200))
def test_utf8_is_never_changed(text: str) -> None:
    blocks = [text.encode()[place : place + 7] for place in range(0, len(text.encode()), 7)]
    assert "".join(decode_blocks(blocks, "utf-8")) == text


def test_lines_of_several_encodings_in_one_file() -> None:
    lines = ["第一行是统一码，没有问题。", "第二行是国标码，也要读对。", "Third line, plain.", "Où est Françoise ?"]
    encodings = ["utf-8", "gb18030", "ascii", "cp1252"]
    data = b"\n".join(line.encode(encoding) for line, encoding in zip(lines, encodings, strict=True))
    assert "".join(decode_blocks([data], "utf-8")).split("\n") == lines


def test_hopeless_bytes_become_replacement_characters() -> None:
    text = "".join(decode_blocks([b"good line\n\xff\xfe\xfa\xfb\x81\n", codecs.BOM_UTF8 + b"x"], "utf-8"))
    assert text.startswith("good line\n")
    assert "\ufffd" in text


@pytest.mark.parametrize("text", ["这是一段普通的文字，用来写笔记。\n" * 40, "It’s a plain line — with marks.\n" * 40])
@pytest.mark.parametrize("odd", [b"\xff\n", "一行国标文字放在这里看看如何。\n".encode("gb18030"), b"caf\xe9 au lait\n"])
def test_a_broken_line_at_the_start_does_not_lose_the_file(text: str, odd: bytes) -> None:
    data = odd + text.encode()
    assert detect_encoding(data, complete=True) == "utf-8"
    read = "".join(decode_blocks([data], "utf-8"))
    assert read.endswith(text)
    assert read.startswith(("\ufffd", "一行国标文字", "café"))


def test_half_utf8_half_gb18030_keeps_both() -> None:
    notes, old = "今天天气很好，我们去公园散步。\n" * 20, "明天再去看望老朋友，带一些水果。\n" * 20
    data = notes.encode() + old.encode("gb18030")
    assert detect_encoding(data, complete=True) == "utf-8"
    assert "".join(decode_blocks([data], "utf-8")) == notes + old
