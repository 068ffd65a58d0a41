"""Every format gives its text, and no more than its text."""

import gzip
import json
from pathlib import Path

import pytest
import zstandard
from document_files import chinese, english, epub, pdf, web_page

from dunwu.core.records import Document
from dunwu.corpus.readers import READERS, Problem, SourceFile, list_files, read_file
from dunwu.corpus.readers.text import pieces

ENGLISH, CHINESE = english(3, 10), chinese(4, 10)


def read(path: Path, text_key: str = "auto") -> list[str]:
    found = list(read_file(SourceFile(path, path.name), text_key))
    assert all(isinstance(part, Document) for part in found), found
    return [part.text for part in found if isinstance(part, Document)]


def problems(path: Path, text_key: str = "auto") -> list[Problem]:
    return [part for part in read_file(SourceFile(path, path.name), text_key) if isinstance(part, Problem)]


@pytest.mark.parametrize("extension", [".txt", ".md", ".rst", ".py"])
@pytest.mark.parametrize("packing", ["", ".gz", ".zst"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "gb18030"])
def test_plain_text_in_every_packing_and_encoding(tmp_path: Path, extension: str, packing: str, encoding: str) -> None:
    data = CHINESE.encode(encoding)
    data = gzip.compress(data) if packing == ".gz" else zstandard.compress(data) if packing == ".zst" else data
    path = tmp_path / f"note{extension}{packing}"
    path.write_bytes(data)
    assert [text.lstrip("\ufeff") for text in read(path)] == [CHINESE]


def test_every_promised_format_has_a_reader() -> None:
    promised = [
        ".txt",
        ".md",
        ".rst",
        ".html",
        ".pdf",
        ".docx",
        ".epub",
        ".ipynb",
        ".json",
        ".jsonl",
        ".csv",
        ".parquet",
        ".py",
    ]
    assert set(promised) <= set(READERS)


def test_web_page_loses_its_menu_and_notices(tmp_path: Path) -> None:
    pytest.importorskip("trafilatura")
    (tmp_path / "page.html").write_text(web_page(ENGLISH), "utf-8")
    (text,) = read(tmp_path / "page.html")
    for paragraph in ENGLISH.split("\n\n"):
        assert paragraph in text
    for noise in ("Shop", "hidden", "color:red", "All rights reserved"):
        assert noise not in text


def test_short_web_note_is_kept(tmp_path: Path) -> None:
    pytest.importorskip("trafilatura")
    (tmp_path / "note.html").write_bytes("<html><body><p>明天下午三点开会。</p></body></html>".encode("gb18030"))
    assert "明天下午三点开会。" in read(tmp_path / "note.html")[0]


def test_pdf_pages_are_apart(tmp_path: Path) -> None:
    pytest.importorskip("pypdfium2")
    (tmp_path / "report.pdf").write_bytes(pdf([["First page here.", "It has two lines."], ["Second page here."]]))
    (text,) = read(tmp_path / "report.pdf")
    first, second = text.split("\f")
    assert first.split("\n")[:2] == ["First page here.", "It has two lines."]
    assert second.strip() == "Second page here."


def test_scanned_pdf_says_so(tmp_path: Path) -> None:
    pytest.importorskip("pypdfium2")
    (tmp_path / "scan.pdf").write_bytes(pdf([[], []]))
    (problem,) = problems(tmp_path / "scan.pdf")
    assert "no text layer" in problem.reason


def test_word_document_keeps_order_of_text_and_tables(tmp_path: Path) -> None:
    docx = pytest.importorskip("docx")
    document = docx.Document()
    document.add_heading("计划", level=2)
    document.add_paragraph("Before the table.")
    table = document.add_table(rows=1, cols=2)
    table.rows[0].cells[0].text, table.rows[0].cells[1].text = "甲", "乙"
    document.add_paragraph("After the table.")
    document.save(str(tmp_path / "plan.docx"))
    assert read(tmp_path / "plan.docx") == ["## 计划\n\nBefore the table.\n\n甲\t乙\n\nAfter the table."]


def test_docx_insertions_and_content_controls_are_read(tmp_path: Path) -> None:
    docx = pytest.importorskip("docx")
    from docx.oxml import parse_xml
    from docx.oxml.ns import nsdecls

    names = nsdecls("w")
    document = docx.Document()
    paragraph = document.add_paragraph("We meet on ")
    paragraph._p.append(parse_xml(f"<w:del {names}><w:r><w:delText>Monday</w:delText></w:r></w:del>"))
    paragraph._p.append(parse_xml(f"<w:ins {names}><w:r><w:t>Tuesday</w:t></w:r></w:ins>"))
    box = f"<w:sdt {names}><w:sdtContent><w:p><w:r><w:t>姓名：李明</w:t></w:r></w:p></w:sdtContent></w:sdt>"
    document.element.body.insert(1, parse_xml(box))
    document.save(str(tmp_path / "form.docx"))
    assert read(tmp_path / "form.docx") == ["We meet on Tuesday\n\n姓名：李明"]


def test_epub_follows_its_spine(tmp_path: Path) -> None:
    pytest.importorskip("lxml")
    (tmp_path / "book.epub").write_bytes(epub([ENGLISH, CHINESE]))
    (text,) = read(tmp_path / "book.epub")
    assert text.index("Chapter 1") < text.index(ENGLISH[:30]) < text.index("Chapter 2") < text.index(CHINESE[:10])


def test_notebook_gives_prose_and_code_without_outputs(tmp_path: Path) -> None:
    cells = [
        {"cell_type": "markdown", "source": ["# Title\n", "Some words."]},
        {"cell_type": "code", "source": "x = 1\nprint(x)", "outputs": [{"text": ["SECRET OUTPUT"]}]},
        {"cell_type": "code", "source": [], "outputs": []},
    ]
    (tmp_path / "work.ipynb").write_text(json.dumps({"cells": cells}))
    assert read(tmp_path / "work.ipynb") == ["# Title\nSome words.\n\n```python\nx = 1\nprint(x)\n```"]


def test_rows_of_jsonl_are_documents_with_their_line_in_the_name(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "one"}\n\n{"id": 5, "content": "two"}\n"three"\n', "utf-8")
    found = [part for part in read_file(SourceFile(path, "rows.jsonl")) if isinstance(part, Document)]
    assert [(part.source, part.text) for part in found] == [
        ("rows.jsonl#1", "one"),
        ("rows.jsonl#3", "two"),
        ("rows.jsonl#4", "three"),
    ]


def test_a_bad_line_is_named_and_the_rest_is_read(tmp_path: Path) -> None:
    lines = [json.dumps({"text": f"row {number}"}) for number in range(1, 11)]
    lines[6] = '{"text": "cut of'
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    found = list(read_file(SourceFile(tmp_path / "rows.jsonl", "rows.jsonl")))
    assert [part.text for part in found if isinstance(part, Document)] == [f"row {n}" for n in range(1, 11) if n != 7]
    (problem,) = [part for part in found if isinstance(part, Problem)]
    assert problem.source == "rows.jsonl:7"
    assert "not valid JSON" in problem.reason


def test_text_key_is_obeyed_and_its_absence_named(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"text": "wrong", "story": "right"}\n{"text": "wrong"}\n')
    assert [problem.source for problem in problems(tmp_path / "rows.jsonl", "story")] == ["rows.jsonl:2"]
    (tmp_path / "rows.csv").write_text("id,text,story\n1,wrong,right\n")
    assert read(tmp_path / "rows.csv", "story") == ["right"]
    assert "no column 'novel'; its columns are id, text, story" in problems(tmp_path / "rows.csv", "novel")[0].reason


@pytest.mark.parametrize(
    "value", [[{"text": "a"}, {"text": "b"}], {"rows": [{"text": "a"}, {"text": "b"}]}, ["a", "b"]]
)
def test_json_rows_in_their_usual_shapes(tmp_path: Path, value: object) -> None:
    (tmp_path / "rows.json").write_text(json.dumps(value))
    assert read(tmp_path / "rows.json") == ["a", "b"]


def test_csv_with_quotes_line_ends_and_gb18030(tmp_path: Path) -> None:
    rows = '编号,正文\r\n1,"第一行\n第二行，带""引号"""\r\n2,普通\r\n'
    (tmp_path / "rows.csv").write_bytes(rows.encode("gb18030"))
    assert read(tmp_path / "rows.csv") == ['第一行\n第二行，带"引号"', "普通"]


def test_csv_without_a_usual_name_takes_the_longest_column(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text(f"a,b\n1,{'long words ' * 5}\n2,{'more words ' * 5}\n")
    assert [text.strip() for text in read(tmp_path / "rows.csv")] == [
        ("long words " * 5).strip(),
        ("more words " * 5).strip(),
    ]


def test_parquet_rows(tmp_path: Path) -> None:
    duckdb = pytest.importorskip("duckdb")
    path = tmp_path / "rows.parquet"
    duckdb.sql(f"COPY (SELECT i AS id, '正文 ' || i AS text FROM range(600) t(i)) TO '{path}' (FORMAT parquet)")
    assert read(path) == [f"正文 {number}" for number in range(600)]


def test_pieces_lose_nothing_and_end_at_paragraphs() -> None:
    text = english(9, 200)
    parts = list(pieces([text[i : i + 700] for i in range(0, len(text), 700)], "book.txt", limit=2000))
    assert "".join(part.text for part in parts) == text
    assert all(len(part.text) <= 2000 and part.meta["group"] == "book.txt" for part in parts)
    assert all(part.text.endswith("\n\n") for part in parts[:-1])


def test_a_circle_of_links_ends(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "note.txt").write_text("hello")
    (tmp_path / "inner" / "up").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "broken.txt").symlink_to(tmp_path / "nowhere.txt")
    assert [file.source for file in list_files(tmp_path, ("**/*",), ())] == ["broken.txt", "inner/note.txt"]


def test_include_and_exclude(tmp_path: Path) -> None:
    for name in ("a.txt", "b.md", "drafts/c.txt", ".hidden/d.txt", ".e.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    assert [file.source for file in list_files(tmp_path, ("**/*.txt",), ("drafts/*",))] == ["a.txt"]
    assert [file.source for file in list_files(tmp_path, ("**/*",), ())] == ["a.txt", "b.md", "drafts/c.txt"]
