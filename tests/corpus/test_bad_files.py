"""What is broken, hostile or missing is named, costs bounded memory, and does not stop the rest."""

import gzip
import io
import json
import os
import resource
import subprocess
import sys
import tracemalloc
import zipfile
from pathlib import Path

import pytest
import zstandard
from document_files import build, english, epub, pdf, texts, write_notes

from dunwu.core.errors import DataError, MissingExtraError
from dunwu.core.records import Document
from dunwu.corpus import readers
from dunwu.corpus.pipeline import _batches
from dunwu.corpus.readers import Problem, SourceFile, read_file
from dunwu.corpus.readers.files import MAX_RATIO, RATIO_FROM_BYTES


def only_problem(path: Path) -> str:
    found = list(read_file(SourceFile(path, path.name)))
    assert found
    assert isinstance(found[-1], Problem)
    assert found[-1].source.startswith(path.name)
    return found[-1].reason


def test_path_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere does not exist; give the path"):
        build(tmp_path / "nowhere", tmp_path / "out")


def test_empty_folder(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"no files; put documents there, of kinds \.txt"):
        build(tmp_path / "empty", tmp_path / "out")


def test_folder_of_other_kinds(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.exe").write_bytes(b"MZ")
    with pytest.raises(DataError, match=r"only files of other kinds \(\.exe\)"):
        build(tmp_path / "in", tmp_path / "out")


def test_bad_files_are_named_and_the_rest_is_kept(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    write_notes(folder)
    (folder / "picture.txt").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 10)
    (folder / "broken.pdf").write_bytes(b"%PDF-1.4 and then nothing")
    (folder / "gone.txt").symlink_to(folder / "nowhere")
    (folder / "tool.exe").write_bytes(b"MZ")
    facts = build(folder, tmp_path / "out")
    card = json.loads((tmp_path / "out" / "card.json").read_text())
    reasons = {problem["source"]: problem["reason"] for problem in card["problems"]["first"]}
    assert set(reasons) == {"picture.txt", "broken.pdf", "gone.txt"}
    assert "binary" in reasons["picture.txt"]
    assert "PDF" in reasons["broken.pdf"]
    assert "cannot be opened" in reasons["gone.txt"]
    assert card["sources"][0]["skipped_files"] == {".exe": 1}
    assert facts.train_documents + facts.heldout_documents >= 30


def test_bad_rows_can_be_refused(tmp_path: Path) -> None:
    write_notes(tmp_path / "in")
    rows = ['{"text": "a good row of text for the corpus"}'] * 6 + ["{bad", '{"text": "the last good row of text"}']
    (tmp_path / "in" / "rows.jsonl").write_text("\n".join(rows))
    with pytest.raises(DataError, match=r"rows\.jsonl:7: not valid JSON.*bad_rows=drop"):
        build(tmp_path / "in", tmp_path / "out", bad_rows="refuse")
    assert not list((tmp_path / "out").glob(".pool*"))
    rows[6:7] = ["{bad"] * 90
    (tmp_path / "in" / "rows.jsonl").write_text("\n".join(rows))
    (tmp_path / "in" / "z.txt").write_bytes(bytes(range(256)))
    build(tmp_path / "in", tmp_path / "out", bad_rows="drop")
    problems = json.loads((tmp_path / "out" / "card.json").read_text())["problems"]
    assert problems["by_file"] == {"rows.jsonl": 90, "z.txt": 1}
    assert {row["source"] for row in problems["first"]} >= {"rows.jsonl:7", "z.txt"}
    assert any(source.startswith("rows.jsonl#97") for source in texts(tmp_path / "out"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_unreadable_file(tmp_path: Path) -> None:
    path = tmp_path / "secret.txt"
    path.write_text("x")
    path.chmod(0)
    assert "cannot be opened: Permission denied" in only_problem(path)


def test_folder_that_cannot_be_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("open", "closed"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "note.txt").write_text("A note.")
    scandir = os.scandir

    def refusing(path: str) -> object:  # permissions do not bind the superuser, who may run this test
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    with pytest.raises(DataError, match=r"closed cannot be listed \(Permission denied\).*exclude=closed/\*"):
        readers.list_files(tmp_path, ("**/*",), ())
    (left,) = readers.list_files(tmp_path, ("**/*",), ("closed/*",))
    assert left.source == "open/note.txt"


def test_file_that_is_a_folder(tmp_path: Path) -> None:
    (tmp_path / "folder.txt").mkdir()
    assert "is not a regular file" in only_problem(tmp_path / "folder.txt")


def test_pipe_does_not_block(tmp_path: Path) -> None:
    write_notes(tmp_path / "in")
    os.mkfifo(tmp_path / "in" / "pipe.txt")
    build(tmp_path / "in", tmp_path / "out")
    assert json.loads((tmp_path / "out" / "card.json").read_text())["problems"]["count"] == 1


def test_lone_surrogates_in_text_and_names_do_not_stop_a_corpus(tmp_path: Path) -> None:
    write_notes(tmp_path / "in")
    rows = ['{"text": "half a pair \\ud83d of an emoji, and then some more words"}', '{"text": "\\udc00"}']
    (tmp_path / "in" / "rows.jsonl").write_text("\n".join(rows))
    (tmp_path / "in" / os.fsdecode(b"name-\xff.txt")).write_text(english(77))
    build(tmp_path / "in", tmp_path / "out")
    assert texts(tmp_path / "out")["name-\\udcff.txt"] == english(77)
    assert texts(tmp_path / "out")["rows.jsonl#1"] == "half a pair  of an emoji, and then some more words"


@pytest.mark.parametrize("extension", [".txt.gz", ".txt.zst", ".docx", ".epub", ".pdf", ".json", ".ipynb", ".parquet"])
def test_rubbish_in_every_format(tmp_path: Path, extension: str) -> None:
    path = tmp_path / f"rubbish{extension}"
    path.write_bytes(b"\x07this is not what its name says" * 40)
    assert only_problem(path)


@pytest.mark.parametrize("extension", [".txt.gz", ".txt.zst"])
def test_packed_file_cut_short(tmp_path: Path, extension: str) -> None:
    data = english(1, 2000).encode()
    packed = gzip.compress(data) if extension.endswith("gz") else zstandard.compress(data)
    path = tmp_path / f"short{extension}"
    path.write_bytes(packed[: len(packed) // 2])
    assert "cut short" in only_problem(path)


@pytest.mark.parametrize("extension", [".gz", ".zst"])
def test_compression_bomb(tmp_path: Path, extension: str) -> None:
    path = tmp_path / f"bomb.txt{extension}"
    block = b"a" * (1 << 20)
    count = (RATIO_FROM_BYTES >> 20) * 3
    if extension == ".gz":
        with gzip.open(path, "wb") as file:
            for _ in range(count):
                file.write(block)
    else:
        with path.open("wb") as raw, zstandard.ZstdCompressor().stream_writer(raw) as file:
            for _ in range(count):
                file.write(block)
    assert path.stat().st_size * MAX_RATIO < count << 20
    assert "looks like a bomb" in only_problem(path)


@pytest.mark.parametrize("extension", [".docx", ".epub"])
def test_zip_bomb(tmp_path: Path, extension: str) -> None:
    path = tmp_path / f"bomb{extension}"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(10):
            with archive.open(f"word/part{number}.xml", "w") as part:
                for _ in range(10):
                    part.write(b" " * (1 << 20))
    assert "looks like a bomb" in only_problem(path)


def test_zip_that_lies_about_its_sizes(tmp_path: Path) -> None:
    data = bytearray(epub([english(1)]))
    name = data.rfind(b"OEBPS/c0.xhtml")  # in the central directory, whose record starts 46 bytes before
    data[name - 46 + 24 : name - 46 + 28] = (10).to_bytes(4, "little")
    path = tmp_path / "liar.epub"
    path.write_bytes(bytes(data))
    assert only_problem(path)


def test_missing_package_is_named_before_any_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_notes(tmp_path / "in")
    (tmp_path / "in" / "z.pdf").write_bytes(b"%PDF-")
    find = readers.importlib.util.find_spec
    monkeypatch.setattr(readers.importlib.util, "find_spec", lambda name: None if name == "pypdfium2" else find(name))
    with pytest.raises(MissingExtraError, match=r"reading \.pdf files needs .*pip install 'dunwu\[data\]'"):
        build(tmp_path / "in", tmp_path / "out")


_MEASURE = """
import resource, sys
from pathlib import Path
from dunwu.corpus.readers import SourceFile, read_file
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
total = sum(len(part.text) for part in read_file(SourceFile(Path(sys.argv[1]), "line.txt")))
print(total, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.parametrize("megabytes", [30, pytest.param(1024, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", ["line.txt", "line.jsonl"])
def test_one_endless_line_takes_bounded_memory(tmp_path: Path, megabytes: int, name: str) -> None:
    path = tmp_path / name
    with path.open("wb") as file:
        if name.endswith("jsonl"):
            file.write(b'{"text": "fine"}\n')
        for _ in range(megabytes):
            file.write(b"word " * ((1 << 20) // 5) + b"words")
    code = _MEASURE if name.endswith("txt") else _MEASURE.replace("len(part.text)", "len(getattr(part, 'text', ''))")
    made = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    total, grown = map(int, made.stdout.split())
    if name.endswith("txt"):
        assert total == path.stat().st_size
        assert grown < 25_000 * (resource.getpagesize() // 4096), "kilobytes"
    else:
        assert grown < 500_000
    path.unlink()


def test_a_line_too_long_for_a_row_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers.tables, "MAX_ROW_CHARS", 1000)
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "first"}\n{"text": "' + "x" * 5000 + '"}\n{"text": "last"}\n')
    found = list(read_file(SourceFile(path, "rows.jsonl")))
    assert [part.text for part in found if isinstance(part, Document)] == ["first", "last"]
    assert [part.source for part in found if isinstance(part, Problem)] == ["rows.jsonl:2"]


def test_an_endless_line_of_a_table_is_refused_before_it_is_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readers.tables, "MAX_ROW_CHARS", 1 << 20)
    path = tmp_path / "rows.csv"
    path.write_bytes(b"text,n\n" + b"word " * (4 << 20))
    tracemalloc.start()
    reason = only_problem(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert "has a line longer than 1,048,576 characters" in reason
    assert peak < 12 << 20


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json"])
def test_a_number_of_thousands_of_digits_is_a_problem(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_text('{"text": "a", "n": ' + "7" * 5000 + "}\n")
    assert "not valid JSON: Exceeds the limit" in only_problem(path)


def test_bad_rows_without_number_are_handled_in_bounded_batches(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"body_of_text": 1}\n' * 20_000)
    batches = list(_batches(read_file(SourceFile(path, path.name)), 0, 1))
    assert sum(len(batch.documents) for batch in batches) == 20_000
    assert max(len(batch.documents) for batch in batches) <= 5_000


def test_a_damaged_chapter_does_not_lose_the_book(tmp_path: Path) -> None:
    data = epub(["First chapter.", "Second chapter.", "Third chapter."])
    path = tmp_path / "book.epub"
    with zipfile.ZipFile(io.BytesIO(data)) as whole, zipfile.ZipFile(path, "w") as cut:
        for part in whole.infolist():
            cut.writestr(part.filename, b"" if part.filename.endswith("c1.xhtml") else whole.read(part))
    problem, book = read_file(SourceFile(path, path.name))
    assert isinstance(problem, Problem)
    assert problem.source == "book.epub:OEBPS/c1.xhtml"
    assert isinstance(book, Document)
    assert "First chapter." in book.text
    assert "Third chapter." in book.text


def test_a_pdf_with_a_page_that_cannot_be_read_keeps_the_others(tmp_path: Path) -> None:
    path = tmp_path / "book.pdf"
    whole = pdf([["the first page"], ["the second"], ["the third"]])
    path.write_bytes(whole.replace(b"7 0 obj\n<< /Type /Page ", b"7 0 obj\n<< /Type /Pagx "))
    problem, document = read_file(SourceFile(path, path.name))
    assert isinstance(problem, Problem)
    assert isinstance(document, Document)
    assert (problem.source, document.text.split("\f")) == ("book.pdf:page 2", ["the first page", "", "the third"])


def test_a_bad_row_of_a_table_is_named_by_its_line(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text('text,n\n"two\nlines",1\nfine,2\nbroken,3,4\n')
    assert [part.source for part in read_file(SourceFile(path, path.name)) if isinstance(part, Problem)] == [
        "rows.csv:5"
    ]
