"""What evaluation sets ask is not in the corpus, however it is dressed."""

import gzip
import json
from pathlib import Path

import pytest
from document_files import build, chinese, english, texts, write_notes

from dunwu.core.errors import DataError
from dunwu.corpus.decontaminate import build_index, contaminated_spans, read_exam_texts, without_paragraphs
from dunwu.corpus.measure import lexemes

QUESTION = "Natalia sold clips to 48 of her friends in April, and then she sold half as many clips in May."
FRAGE = "下列关于光合作用的叙述中，正确的一项是：光反应在叶绿体的类囊体薄膜上进行。"


def spans(text: str, *exam: str) -> list[tuple[int, int]]:
    return contaminated_spans(lexemes(text), build_index(exam))


@pytest.mark.parametrize(
    "copied",
    [
        QUESTION,
        QUESTION.upper(),
        QUESTION.replace(" ", "\n"),
        QUESTION.replace(",", " --").replace(".", "!"),
        "words before, " + " ".join(QUESTION.split()[2:18]) + " words behind",
    ],
)
def test_english_question_is_found(copied: str) -> None:
    text = f"{english(1)}\n\n{copied}\n\n{english(2)}"
    found = spans(text, QUESTION)
    assert found
    assert len(english(1)) <= found[0][0]
    assert found[-1][1] <= len(english(1)) + 4 + len(copied)


def test_chinese_question_is_found() -> None:
    assert spans(chinese(1) + FRAGE.replace("，", "、") + chinese(2), FRAGE)
    assert spans("他写道：“" + FRAGE[5:28] + "”", FRAGE)


def test_common_phrases_are_not_contamination() -> None:
    assert not spans(
        f"{english(1)} Natalia sold clips to her friends in May. {chinese(1)} 下列关于光合作用的叙述中", QUESTION, FRAGE
    )


def test_short_questions_are_counted_not_sought() -> None:
    index = build_index(["What is two and two? Four", QUESTION])
    assert (index.texts, index.too_short) == (2, 1)


def test_only_touched_paragraphs_go() -> None:
    parts = [english(seed, 5) for seed in range(5)]
    parts[2] += " " + QUESTION
    text = "\n\n".join(parts)
    kept = without_paragraphs(text, spans(text, QUESTION))
    assert kept == "\n\n".join(parts[:2] + parts[3:])
    assert without_paragraphs(QUESTION, spans(QUESTION, QUESTION)) == ""


def test_in_a_corpus(tmp_path: Path) -> None:
    write_notes(tmp_path / "in")
    (tmp_path / "in" / "short.txt").write_text(english(100, 10) + "\n\n" + QUESTION)
    (tmp_path / "in" / "long.txt").write_text(english(101, 100) + "\n\n" + QUESTION + "\n\n" + english(102, 100))
    (tmp_path / "exam.csv").write_text(f'question,answer\n"{QUESTION}",72\n')
    for settings in ({"exam_texts": [QUESTION]}, {"decontaminate_files": (str(tmp_path / "exam.csv"),)}):
        build(tmp_path / "in", tmp_path / "out", **settings)
        rows = texts(tmp_path / "out")
        assert "short.txt" not in rows
        assert english(102, 100) in rows["long.txt"]
        assert not any("Natalia" in text for text in rows.values())
        card = json.loads((tmp_path / "out" / "card.json").read_text())
        assert card["dropped"]["decontaminated"]["documents"] == 1
        assert card["decontamination"]["paragraphs_cut"] == 1
    build(tmp_path / "in", tmp_path / "out", exam_texts=[QUESTION], decontaminate=False)
    assert "short.txt" in texts(tmp_path / "out")


def test_exam_files(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(b'{"q": "one", "options": ["two", "three"]}\n'))
    (tmp_path / "b.txt").write_text("four\nfive\n")
    (tmp_path / "c.json").write_text('[{"q": "six"}, {"q": "seven"}]')
    files = [str(tmp_path / name) for name in ("a.jsonl.gz", "b.txt", "c.json")]
    assert list(read_exam_texts(files)) == ["one two three", "four", "five", "six", "seven"]
    with pytest.raises(DataError, match=r"nowhere\.txt does not exist"):
        list(read_exam_texts([str(tmp_path / "nowhere.txt")]))
    (tmp_path / "bad.jsonl").write_text("{")
    with pytest.raises(DataError, match=r"bad\.jsonl cannot be read"):
        list(read_exam_texts([str(tmp_path / "bad.jsonl")]))
    (tmp_path / "x.pdf").write_text("{")
    with pytest.raises(DataError, match=r"x\.pdf is not"):
        list(read_exam_texts([str(tmp_path / "x.pdf")]))


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("cut.jsonl.gz", gzip.compress(b'{"q": "one"}\n' * 99, mtime=0)[:-9], "cannot be read"),
        ("no.txt.gz", b"plain text", "cannot be read"),
        ("deep.json", b"[" * 100_000, "cannot be read"),
        ("seventh.jsonl", b'{"q": "one"}\n' * 6 + b'{"q" "one"}\n', "line 7: Expecting ':' delimiter at column 6"),
    ],
)
def test_a_damaged_exam_file_is_named_with_the_place(tmp_path: Path, name: str, data: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(DataError, match=rf"{name}.*{message}"):
        list(read_exam_texts([str(tmp_path / name)]))
