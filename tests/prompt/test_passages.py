"""Passages of documents of every kind: where they stand, what is left out, and why."""

from itertools import pairwise

import pytest

from dunwu.core.errors import DataError
from dunwu.corpus.decontaminate import build_index
from dunwu.prompt.making.passages import read_passages
from tests.corpus.document_files import chinese, english, epub, pdf, web_page

pytest.importorskip("pypdfium2")
pytest.importorskip("trafilatura")


def lines(text: str) -> list[str]:
    return [part for line in text.splitlines() for part in (line[:90], line[90:]) if part.strip()]


def test_passages_of_a_pdf_say_their_page(tmp_path):
    pages = [english(number, sentences=12) for number in range(5)]
    (tmp_path / "report.pdf").write_bytes(
        pdf([["Yearly report", *lines(page), f"Page {n}"] for n, page in enumerate(pages, 1)])
    )
    found = read_passages(tmp_path, chars=500)
    assert len(found.passages) >= 5
    assert {passage.page for passage in found.passages} >= {1, 3, 5}
    for passage in found.passages:
        opening = " ".join(passage.text.split()[:5])
        assert opening in " ".join(pages[passage.page - 1].split())
        assert "Yearly report" not in passage.text  # what stands on every page is no text
    again = read_passages(tmp_path, chars=500)
    assert again.passages == found.passages
    assert read_passages(tmp_path, chars=500, seed=1).passages != found.passages


def test_documents_of_other_kinds_are_read_and_the_main_language_is_kept(tmp_path):
    (tmp_path / "a.html").write_text(web_page(english(1)), "utf-8")
    (tmp_path / "b.epub").write_bytes(epub([english(2), english(3)]))
    (tmp_path / "c.txt").write_bytes(chinese(4, sentences=12).encode("gb18030"))
    found = read_passages(tmp_path, chars=600)
    assert found.language == "en"
    assert {passage.document.partition("#")[0] for passage in found.passages} == {"a.html", "b.epub"}
    assert all(passage.page == 0 for passage in found.passages)
    assert found.dropped["other_language_passage"] >= 1
    assert not any("cookies" in passage.text for passage in found.passages)
    asked = read_passages(tmp_path, chars=600, language="zh")
    assert {passage.document for passage in asked.passages} == {"c.txt"}


def test_places_are_those_of_the_cleaned_text(tmp_path):
    text = english(5, sentences=60)
    (tmp_path / "a.txt").write_text(text, "utf-8")
    found = read_passages(tmp_path, chars=400)
    assert len(found.passages) > 5
    assert all(text[passage.start : passage.end] == passage.text for passage in found.passages)
    ordered = sorted(found.passages, key=lambda passage: passage.start)
    assert all(one.end <= other.start for one, other in pairwise(ordered))


def test_personal_data_are_taken_out_unless_wanted(tmp_path):
    (tmp_path / "a.txt").write_text(
        f"{english(6, sentences=6)} Write to anna.petrova@example.com for the rest of it.", "utf-8"
    )
    assert "anna.petrova" not in read_passages(tmp_path).passages[0].text
    assert "anna.petrova@example.com" in read_passages(tmp_path, redacted=False).passages[0].text


def test_what_is_in_evaluation_files_is_left_out(tmp_path):
    (tmp_path / "a.txt").write_text(english(7, sentences=10), "utf-8")
    (tmp_path / "b.txt").write_text(english(8, sentences=10), "utf-8")
    found = read_passages(tmp_path, exam=build_index([english(8, sentences=10)]))
    assert [passage.document for passage in found.passages] == ["a.txt"]
    assert found.dropped == {"decontaminated_passage": 1}
    with pytest.raises(DataError, match="decontaminated_passage 2"):
        read_passages(tmp_path, exam=build_index([english(7, sentences=10), english(8, sentences=10)]))


def test_a_folder_of_nothing_readable_is_said(tmp_path):
    (tmp_path / "a.xyz").write_text("x")
    with pytest.raises(DataError, match="holds no document that can be read"):
        read_passages(tmp_path)
    (tmp_path / "scan.pdf").write_bytes(pdf([[], []]))
    with pytest.raises(DataError, match="no text layer on its 2 pages"):
        read_passages(tmp_path)
