"""From a folder to a corpus, end to end."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from document_files import SHARED, build, chinese, english, pdf, texts, web_page, write_notes

from dunwu.core.errors import DataError, DiskError
from dunwu.core.progress import RecordedProgress
from dunwu.core.recipe import CorpusSection, FolderSource, PythonDocsSource, WorldSource
from dunwu.corpus.card import card_markdown
from dunwu.corpus.dedup import signatures
from dunwu.corpus.measure import lexemes
from dunwu.corpus.pipeline import build_corpus
from dunwu.corpus.store import read_documents
from dunwu.corpus.work import SAMPLE_CHARS


def card_of(out: Path) -> dict:
    return json.loads((out / "card.json").read_text("utf-8"))


def split_texts(out: Path) -> tuple[list[str], list[str]]:
    train, heldout = ([d.text for d in read_documents(out, split)] for split in ("train", "heldout"))
    return train, heldout


def sketch(text: str) -> np.ndarray:
    hashes = lexemes(text).hashes
    return signatures(hashes, np.array([0, len(hashes)]))[0]


def reworded(text: str, number: int) -> str:
    """A near-duplicate: one sentence more."""
    return f"{text}\n\nAdded sentence number {number} with some words of its own."


def test_every_document_is_in_one_split_with_its_language(tmp_path: Path) -> None:
    write_notes(tmp_path / "in", 60)
    facts = build(tmp_path / "in", tmp_path / "out")
    train, heldout = split_texts(tmp_path / "out")
    wanted = {(chinese if n % 2 else english)(n, 20) for n in range(60)}
    assert set(train) | set(heldout) == wanted
    assert not set(train) & set(heldout)
    assert facts.train_documents == len(train)
    assert facts.heldout_documents == len(heldout)
    assert facts.train_bytes == sum(len(text.encode()) for text in train)
    assert facts.heldout_bytes == sum(len(text.encode()) for text in heldout)
    languages = {d.source: d.language for d in read_documents(tmp_path / "out", "heldout")}
    assert set(languages.values()) == {"en", "zh"}, "each language is held out"
    assert facts.heldout_unit == "document"


def test_bytes_do_not_depend_on_the_number_of_workers(tmp_path: Path) -> None:
    write_notes(tmp_path / "in", 80, 60)
    rows = [json.dumps({"text": english(1000 + n, 30)}) for n in range(400)]
    (tmp_path / "in" / "rows.jsonl").write_text("\n".join([*rows, "{bad", *rows[:50]]))
    outputs = []
    for workers in (1, 2):
        out = tmp_path / f"out{workers}"
        build(tmp_path / "in", out, workers=workers)
        outputs.append([(out / name).read_bytes() for name in ("train.jsonl.zst", "heldout.jsonl.zst")])
        card = card_of(out)
        card["facts"] = {name: value for name, value in card["facts"].items() if name not in ("seconds", "workers")}
        card["settings"].pop("workers")
        outputs[-1].append(json.dumps(card))
    assert outputs[0] == outputs[1]


def test_the_seed_changes_the_split_only(tmp_path: Path) -> None:
    write_notes(tmp_path / "in", 60)
    splits = []
    for seed in (1, 2):
        build(tmp_path / "in", tmp_path / f"out{seed}", seed=seed)
        splits.append(split_texts(tmp_path / f"out{seed}"))
    assert set(splits[0][0] + splits[0][1]) == set(splits[1][0] + splits[1][1])
    assert set(splits[0][1]) != set(splits[1][1])


@pytest.mark.parametrize("dedup", ["none", "exact", "near"])
@pytest.mark.parametrize("unit", ["auto", "section"])
def test_no_near_duplicate_straddles_the_split(tmp_path: Path, dedup: str, unit: str) -> None:
    (tmp_path / "in").mkdir()
    for number in range(30):
        text = (chinese if number % 3 == 0 else english)(number, 40)
        for copy in range(3):
            name = f"{copy}-{number:02}.txt"
            (tmp_path / "in" / name).write_text(reworded(text, copy) if copy else text, "utf-8")
    build(tmp_path / "in", tmp_path / "out", dedup=dedup, heldout_unit=unit, heldout_fraction=0.2)
    train, heldout = split_texts(tmp_path / "out")
    assert heldout
    kept = np.stack([sketch(text) for text in train])
    for text in heldout:
        assert (kept == sketch(text)).mean(axis=1).max() < 0.8
    assert len(train) + len(heldout) >= (90 if dedup != "near" else 30)
    if dedup == "near" and unit == "auto":
        assert len(train) + len(heldout) == 30


def test_no_passage_of_another_edition_is_held_out(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    book = english(1, 600)
    (tmp_path / "in" / "first.txt").write_text(book, "utf-8")
    (tmp_path / "in" / "second.txt").write_text("\n\n".join((english(2, 133), book, english(3, 133))), "utf-8")
    (tmp_path / "in" / "other.txt").write_text(english(4, 900), "utf-8")
    build(tmp_path / "in", tmp_path / "out", heldout_fraction=0.2, quality=False)
    assert card_of(tmp_path / "out")["split"]["unit"] == "section"
    train, heldout = split_texts(tmp_path / "out")
    assert heldout
    learned = "\n".join(train)
    assert not [part for text in heldout for part in text.split("\n\n") if part in learned]
    assert sum(map(len, train)) > 2 * len(book)


def test_duplicates_are_dropped_and_sampled_by_rule(tmp_path: Path) -> None:
    write_notes(tmp_path / "in", 30)
    for name, text in {"z1.txt": english(0, 20).upper(), "z2.txt": reworded(english(2, 20), 1)}.items():
        (tmp_path / "in" / name).write_text(text)
    build(tmp_path / "in", tmp_path / "out")
    dropped = card_of(tmp_path / "out")["dropped"]
    assert {rule: [sample["source"] for sample in tally["samples"]] for rule, tally in dropped.items()} == {
        "duplicate": ["z1.txt"],
        "near_duplicate": ["z2.txt"],
    }
    assert dropped["near_duplicate"]["samples"][0]["text"] == english(2, 20)[:SAMPLE_CHARS]


def test_only_copies_of_one_note_is_an_error_that_says_so(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for number in range(12):
        (tmp_path / "in" / f"{number}.txt").write_text(english(1, 60))
    with pytest.raises(
        DataError, match=r"of 12 documents read, only .* of one document is left.*duplicate 11 documents"
    ):
        build(tmp_path / "in", tmp_path / "out")


def test_everything_filtered_names_the_rules(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for number in range(5):
        (tmp_path / "in" / f"{number}.txt").write_text("total 12345 67890 12345 " * 50)
    (tmp_path / "in" / "fr.txt").write_text("Il fait très beau aujourd'hui, nous allons au parc avec les enfants.")
    with pytest.raises(DataError, match=r"nothing is left.*few_letters 5 documents .*corpus\.quality=false"):
        build(tmp_path / "in", tmp_path / "out", language_filter=("en", "zh", "und"))
    assert not (tmp_path / "out" / "card.json").exists()


def test_one_tiny_note_is_too_little(tmp_path: Path) -> None:
    (tmp_path / "note.txt").write_text("Only this one sentence, which cannot be held out and learned.")
    with pytest.raises(DataError, match=r"one document is left to learn from and to hold out.*add documents"):
        build(tmp_path / "note.txt", tmp_path / "out")


def test_one_book_is_held_out_by_sections(tmp_path: Path) -> None:
    book = english(1, 12_000)
    (tmp_path / "book.txt").write_text(book)
    facts = build(tmp_path / "book.txt", tmp_path / "out")
    train, heldout = split_texts(tmp_path / "out")
    assert facts.heldout_unit == "section"
    assert len(heldout) >= 10
    assert 0.03 < facts.heldout_bytes / (facts.heldout_bytes + facts.train_bytes) < 0.09
    paragraphs = [part for text in train + heldout for part in text.split("\n\n")]
    assert sorted(paragraphs) == sorted(book.split("\n\n"))
    assert "sections of them are held out" in card_of(tmp_path / "out")["split"]["languages"]["en"]["why"]


def test_parts_of_a_long_document_stay_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dunwu.corpus.readers.text.pieces.__kwdefaults__", {"kind": "prose", "limit": 3000})
    write_notes(tmp_path / "in", 40, 120)
    build(tmp_path / "in", tmp_path / "out")
    sides = [
        {d.source.split("#")[0] for d in read_documents(tmp_path / "out", split)} for split in ("train", "heldout")
    ]
    assert any("#part2" in d.source for d in read_documents(tmp_path / "out", "train"))
    assert sides[1]
    assert not sides[0] & sides[1]


def test_switches(tmp_path: Path) -> None:
    write_notes(tmp_path / "in", 30)
    (tmp_path / "in" / "mail.txt").write_text(english(50) + "\nWrite to jane@example.org today.\nPage 3 of 9\n")
    (tmp_path / "in" / "dump.txt").write_text("total 12345 67890 12345 " * 50)
    build(tmp_path / "in", tmp_path / "out", language_filter=())
    rows = texts(tmp_path / "out")
    assert "[EMAIL]" in rows["mail.txt"]
    assert "Page 3" not in rows["mail.txt"]
    assert "dump.txt" not in rows
    card = card_of(tmp_path / "out")
    assert card["redactions"] == {"email": 1}
    assert card["boilerplate"]["stated_pages"]["documents"] == 1
    build(tmp_path / "in", tmp_path / "out", redact=False, boilerplate=False, quality=False)
    rows = texts(tmp_path / "out")
    assert "jane@example.org" in rows["mail.txt"]
    assert "Page 3 of 9" in rows["mail.txt"]
    assert "dump.txt" in rows
    build(tmp_path / "in", tmp_path / "out", language_filter=("zh",))
    assert {d.language for d in read_documents(tmp_path / "out", "train")} == {"zh"}


def test_a_filter_that_leaves_nothing_says_which_languages_there_are(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for number in range(5):
        (tmp_path / "in" / f"{number}.txt").write_text(english(60))
    with pytest.raises(DataError, match="language_filter does not name: en 5 documents"):
        build(tmp_path / "in", tmp_path / "out", language_filter=("cn",))


@pytest.mark.parametrize("code", ["EN", "english", "中文", "en-US", ""])
def test_a_language_is_named_by_its_code(code: str) -> None:
    with pytest.raises(ValueError, match="ISO 639-1"):
        CorpusSection(sources=(FolderSource(path="x"),), language_filter=(code,))


def test_mixed_formats_and_encodings(tmp_path: Path) -> None:
    pytest.importorskip("pypdfium2")
    docx = pytest.importorskip("docx")
    folder = tmp_path / "in"
    write_notes(folder, 24)
    (folder / "gb.txt").write_bytes(chinese(900).encode("gb18030"))
    (folder / "wide.txt").write_bytes(chinese(901).encode("utf-16"))
    (folder / "page.html").write_text(web_page(english(902)), "utf-8")
    lines = [line for part in english(903, 30).split("\n\n") for line in part.split(". ")]
    (folder / "paper.pdf").write_bytes(pdf([["My Journal", *lines[n : n + 8]] for n in range(0, len(lines), 8)]))
    word = docx.Document()
    for part in english(904).split("\n\n"):
        word.add_paragraph(part)
    word.save(str(folder / "letter.docx"))
    build(folder, tmp_path / "out", workers=2)
    rows = texts(tmp_path / "out")
    assert rows["gb.txt"] == chinese(900)
    assert rows["wide.txt"] == chinese(901)
    assert rows["letter.docx"] == english(904)
    assert english(902).split("\n\n")[0] in rows["page.html"]
    assert "My Journal" not in rows["paper.pdf"]
    assert all(line in rows["paper.pdf"] for line in lines)


def test_card_accounts_for_every_document_and_file(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    write_notes(folder, 40)
    (folder / "copy.txt").write_text(english(0, 20))
    (folder / "dump.txt").write_text("total 12345 67890 12345 " * 50)
    (folder / "tool.exe").write_bytes(b"MZ")
    build(folder, tmp_path / "out")
    card = card_of(tmp_path / "out")
    (source,) = card["sources"]
    assert source["read"]["documents"] == 42
    assert source["read"]["documents"] == source["kept"]["documents"] + sum(
        t["documents"] for t in source["dropped"].values()
    )
    assert len(source["kept"]["samples"]) == 5
    lineage = {row["file"]: row for row in card["lineage"]}
    assert set(lineage) == {path.name for path in folder.glob("*.txt")}
    for name, row in lineage.items():
        data = (folder / name).read_bytes()
        assert row == {"file": name, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    page = card_markdown(card).replace("\\", "")
    for part in ("few_letters", "dump.txt", ".exe", "| zh |", "documents are enough"):
        assert part in page


def test_card_markdown_cannot_be_broken_by_a_document(tmp_path: Path) -> None:
    write_notes(tmp_path / "in", 30)
    (tmp_path / "in" / "evil.txt").write_text(
        "<script>alert(1)</script> [here](javascript:x) | 1 2 3 4 5 6 7 8 9 0 1 2 3 4 " * 20
    )
    build(tmp_path / "in", tmp_path / "out")
    page = card_markdown(card_of(tmp_path / "out"))
    assert "<script>" not in page
    assert "[here](" not in page


def test_samples_of_dropped_documents_are_redacted_too(tmp_path: Path) -> None:
    write_notes(tmp_path / "in", 30)
    (tmp_path / "in" / "dump.txt").write_text("jane@example.org " + "1 2 3 4 5 6 7 8 9 0 " * 100)
    build(tmp_path / "in", tmp_path / "out")
    assert "jane@" not in (tmp_path / "out" / "card.json").read_text()


def test_forms_that_are_all_alike_are_still_split(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    form = english(1, 40).split(" ")
    for number in range(40):
        words = list(form)
        for place in range(number, len(words), 18):  # any two share some 6 of 10 shingles
            words[place] = f"field{number}x{place}"
        (tmp_path / "in" / f"{number}.txt").write_text(" ".join(words))
    facts = build(tmp_path / "in", tmp_path / "out", near_threshold=0.6)
    assert facts.heldout_documents
    assert facts.train_documents > 20


def test_what_a_killed_run_left_is_cleared(tmp_path: Path) -> None:
    write_notes(tmp_path / "in", 30)
    (tmp_path / "out" / ".pool").mkdir(parents=True)
    (tmp_path / "out" / ".pool" / "rows.zst").write_bytes(b"half")
    build(tmp_path / "in", tmp_path / "out")
    assert not (tmp_path / "out" / ".pool").exists()


def test_nothing_but_the_corpus_is_left_behind(tmp_path: Path) -> None:
    write_notes(tmp_path / "in", 30)
    build(tmp_path / "in", tmp_path / "out")
    build(tmp_path / "in", tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"train.jsonl.zst", "heldout.jsonl.zst", "card.json"}


def test_a_file_where_the_folder_should_be_is_a_disk_error(tmp_path: Path) -> None:
    write_notes(tmp_path / "in", 30)
    (tmp_path / "out").write_text("")
    with pytest.raises(DiskError, match="out is not a folder"):
        build(tmp_path / "in", tmp_path / "out")


def test_damaged_corpus_is_named(tmp_path: Path) -> None:
    write_notes(tmp_path / "in", 30)
    build(tmp_path / "in", tmp_path / "out")
    path = tmp_path / "out" / "train.jsonl.zst"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(DataError, match=r"train\.jsonl\.zst is damaged"):
        list(read_documents(tmp_path / "out", "train"))
    with pytest.raises(DataError, match="is not a finished corpus"):
        list(read_documents(tmp_path / "in", "train"))


def test_default_sources_together(tmp_path: Path) -> None:
    write_notes(tmp_path / "in", 10)
    world, docs = WorldSource(size=0.02), PythonDocsSource(max_bytes=60_000)
    section = CorpusSection(sources=(world, docs, FolderSource(path=str(tmp_path / "in"))))
    progress = RecordedProgress()
    facts = build_corpus(section, tmp_path / "out", seed=3, exam_texts=[], progress=progress)
    card = card_of(tmp_path / "out")
    assert [source["name"] for source in card["sources"]] == ["small world", "documentation of Python", "folder in"]
    assert all(source["kept"]["documents"] for source in card["sources"])
    assert sum(source["kept"]["bytes"] for source in card["sources"][1:2]) <= 60_000
    assert any("chosen by the world itself" in note for note in card["split"]["notes"])
    assert facts.heldout_documents > 0
    assert progress.updates


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared data sets are not beside this checkout")
def test_real_novels(tmp_path: Path) -> None:
    facts = build(SHARED / "zh_classic_novels", tmp_path / "out", include=("*.txt.gz",))
    assert facts.bytes_by_language.keys() == {"zh"}
    assert facts.dropped_documents == 0
    assert facts.heldout_documents >= 10
    assert facts.train_bytes + facts.heldout_bytes > 0.99 * 9_331_993
