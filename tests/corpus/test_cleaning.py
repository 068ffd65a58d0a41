"""Normalising, boilerplate and language: what goes, and what must stay."""

import pytest
from document_files import chinese, english
from hypothesis import given
from hypothesis import strategies as st

from dunwu.corpus.boilerplate import strip_boilerplate
from dunwu.corpus.clean import normalise
from dunwu.corpus.language import identify


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("a\r\nb\rc\n", "a\nb\nc"),
        ("e\u0301t\u00e9", "été"),
        ("zero\u200bwidth\ufeff soft\u00adhyphen \u202eturned", "zerowidth softhyphen turned"),
        ("bell\x07 and\x00 null\x1b[0m", "bell and null[0m"),
        ("line one  \nline two\t\n全角　\nend ", "line one\nline two\n全角\nend"),
        ("a\n\n\n\n\n\nb", "a\n\n\nb"),
        ("a\u2028b\u0085c", "a\nb\nc"),
        ("donâ€™t panic, itâ€™s cafÃ©", "don’t panic, it’s café"),
        ("no\u00a0break", "no break"),
        ("half \ud83d pair", "half  pair"),
        ("family 👨‍👩‍👧 می‌خواهم", "family 👨‍👩‍👧 می‌خواهم"),
        ("Âme and Ã as they are", "Âme and Ã as they are"),
        ("    indented code\n\tby tabs", "    indented code\n\tby tabs"),
    ],
)
def test_normalise(raw: str, clean: str) -> None:
    assert normalise(raw) == clean


@given(st.text(max_size=300))
def test_normalising_twice_changes_nothing_more(text: str) -> None:
    once = normalise(text)
    assert normalise(once) == once


def test_gutenberg_licence_goes() -> None:
    book = english(1)
    text = (
        "The Project Gutenberg eBook of Something\n\nThis eBook is for the use of anyone anywhere\n\n"
        f"*** START OF THE PROJECT GUTENBERG EBOOK SOMETHING ***\n\n{book}\n\n"
        "*** END OF THE PROJECT GUTENBERG EBOOK SOMETHING ***\n\nUpdated editions will replace the previous one"
    )
    stripped, removed = strip_boilerplate(text)
    assert stripped == book
    assert set(removed) == {"gutenberg_licence"}


def test_each_of_several_gutenberg_books_stays() -> None:
    books = [english(seed) for seed in range(3)]
    marked = [
        f"Header\n*** START OF THE PROJECT GUTENBERG EBOOK {n} ***\n\n{book}\n\n"
        f"End of the Project Gutenberg EBook of {n}\n\n*** END OF THE PROJECT GUTENBERG EBOOK {n} ***\nLicence\n"
        for n, book in enumerate(books)
    ]
    assert strip_boilerplate("".join(marked))[0] == "\n\n".join(books)
    middle = marked[0].split("***\n", 1)[1]  # a long file is read in pieces, and one may begin inside a book
    assert strip_boilerplate(middle + marked[1])[0] == "\n\n".join(books[:2])


def test_text_about_gutenberg_stays() -> None:
    text = english(1) + "\n\nI read it on Project Gutenberg, where it is free.\n\n" + english(2)
    assert strip_boilerplate(text) == (text, {})


def test_headers_footers_and_numbers_of_pages_go() -> None:
    bodies = [english(seed, 12) for seed in range(6)]
    pages = [
        f"ANNUAL REPORT 2023\nCompany Ltd\n{body}\nConfidential\nPage {n} of 6" for n, body in enumerate(bodies, 1)
    ]
    stripped, removed = strip_boilerplate("\f".join(pages))
    for noise in ("ANNUAL REPORT", "Company Ltd", "Confidential", "Page "):
        assert noise not in stripped
    assert all(paragraph in stripped for body in bodies for paragraph in body.split("\n\n"))
    assert set(removed) == {"page_furniture"}


def test_pages_without_furniture_keep_every_line() -> None:
    bodies = [english(seed, 12) for seed in range(6)]
    stripped, _ = strip_boilerplate("\f".join(bodies))
    assert stripped.split() == " ".join(bodies).split()


@pytest.mark.parametrize(
    "line",
    [
        "We use cookies to give you the best experience. Accept all.",
        "© 2021 Example Ltd. All rights reserved.",
        "Privacy Policy | Terms of Use | Contact us",
        "Share on Facebook",
        "Skip to main content",
        "版权所有 © 2020 某某网",
        "京ICP备12345678号",
        "责任编辑：张三",
        "上一篇：春天的故事",
        "扫描下方二维码关注我们",
    ],
)
def test_notices_go(line: str) -> None:
    text = f"{english(1)}\n{line}\n{chinese(1)}"
    stripped, removed = strip_boilerplate(text)
    assert stripped == f"{english(1)}\n{chinese(1)}"
    assert set(removed) == {"web_notices"}


@pytest.mark.parametrize(
    "line",
    [
        "Cookies are small pieces of dough; this recipe makes twelve cookies and takes an hour.",
        "About us there is little to say, he wrote.",
        "-------",
        "* * *",
        "Home",
        "12",
        "She liked this house, and shared the garden with her sister.",
        "编辑部的故事很有名。",
        "他点击了下载按钮，然后等了一个小时。",
        "第三页上写着他的名字。",
    ],
)
def test_lines_of_text_stay(line: str) -> None:
    text = f"{english(1)}\n{line}\n{chinese(1)}"
    assert strip_boilerplate(text)[0] == text


@pytest.mark.parametrize("line", ["Page 3 of 12", "- page 7 -", "第 3 页", "第3页 共12页"])
def test_stated_page_numbers_go(line: str) -> None:
    assert line not in strip_boilerplate(f"{english(1)}\n{line}\n{chinese(1)}")[0]


@pytest.mark.parametrize(
    ("text", "language"),
    [
        (english(1), "en"),
        ("The cat sat on the mat and looked at me.", "en"),
        (chinese(1), "zh"),
        ("买菜：两斤苹果", "zh"),
        ("在 Python 里用 pandas.DataFrame.groupby() 之前，先检查列名。", "zh"),
        ("今日はとても良い天気ですね。公園へ行きましょう。", "ja"),
        ("오늘은 날씨가 정말 좋네요. 공원에 갑시다.", "ko"),
        ("Das Wetter ist heute sehr schön, wir gehen zusammen in den Park und essen ein Eis.", "de"),
        ("Il fait très beau aujourd'hui, nous allons au parc avec les enfants de la voisine.", "fr"),
        ("Сегодня очень хорошая погода, и мы идём в парк.", "ru"),
        ("12 34 56 !!! ---", "und"),
        ("", "und"),
    ],
)
def test_language(text: str, language: str) -> None:
    assert identify(text) == language
