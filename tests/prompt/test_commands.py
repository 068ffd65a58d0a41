"""`dunwu make`, with scripted models behind a URL and a real one of random weights; and what is said where it cannot be done."""

import json
import os
import re
import shlex
import signal
import threading
from pathlib import Path

import pytest

from dunwu.cli import app, run
from dunwu.core.errors import PartnerError
from dunwu.core.recipe import SftFileSource
from dunwu.corpus.instructions import InstructionReader
from tests.chat.conftest import make_home

from .endpoint import endpoint
from .oracle import Oracle, as_json, write_world
from .partners import PARTNERS, SEEDS, TASKS

PAGE = Path(__file__).parents[2] / "docs" / "making_data.md"


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A working folder with documents and tasks."""
    write_world(tmp_path / "my-pdfs", "en", pages=16)
    (tmp_path / "tasks.jsonl").write_text("\n".join(map(json.dumps, SEEDS)), "utf-8")
    (tmp_path / "mine.jsonl").write_text("\n".join(map(json.dumps, TASKS)), "utf-8")
    (tmp_path / "exam.jsonl").write_text(
        json.dumps({"question": "Where is the house of Anna, and who lives beside her now? " * 2})
    )
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def served():
    scripts = {"large": Oracle("en").say, "lying": Oracle("en", lies=0.4).say, **PARTNERS}
    scripts |= {"broken": lambda messages: PartnerError("no", transient=False), "empty": lambda messages: ""}
    with endpoint(**{name.replace("-", "_"): script for name, script in scripts.items()}) as server:
        yield server


def rows_of(file):
    return [json.loads(line) for line in Path(file).read_text("utf-8").splitlines()]


def test_documents_become_rows_and_the_command_goes_on(place, served, capsys, monkeypatch):
    monkeypatch.setenv("MY_KEY", "sesame")
    words = ["make", "qa", "my-pdfs", "--with", "lying", "--url", served.url, "--key-env", "MY_KEY", "--rows", "4"]
    assert run(words) == 0
    said = capsys.readouterr().out
    assert "my-pdfs: " in said
    assert "4 of 4 rows; all that were wanted" in said
    assert "not_in_passage" in said
    assert served.keys == {"Bearer sesame"}
    first = rows_of("made.jsonl")
    assert len(first) == 4
    asked = served.asked
    assert run(words) == 0
    assert served.asked == asked  # not even whether it holds a schema
    assert "(0 of them new)" in capsys.readouterr().out
    assert run([*words[:-1], "1k"]) == 0
    assert rows_of("made.jsonl")[:4] == first
    assert len(rows_of("made.jsonl")) > 14
    assert served.asked > asked
    assert run([*words, "--pairs", "2"]) == 2
    assert "pairs: 3 → 2" in capsys.readouterr().err
    assert run([*words, "--pairs", "2", "--anew"]) == 0


@pytest.mark.parametrize(
    ("words", "model"),
    [
        (["self-instruct", "tasks.jsonl"], "self_instruct"),
        (["unnatural", "tasks.jsonl", "--paraphrases", "1"], "unnatural"),
        (["evolve", "mine.jsonl", "--generations", "3"], "evolve"),
    ],
)
def test_the_other_ways(place, served, words, model):
    assert run(["make", *words, "--with", model, "--url", served.url, "--rows", "12", "--out", "out/made.jsonl"]) == 0
    rows = rows_of("out/made.jsonl")
    assert 8 <= len(rows) <= 12
    assert {row["provenance"]["model"] for row in rows} == {"scripted"}
    assert len(list(InstructionReader(SftFileSource(path="out/made.jsonl", bad_rows="refuse")))) == len(rows)


def test_an_endpoint_that_holds_schemas_is_asked_with_them(place, capsys):
    with endpoint(schemas=True, large=Oracle("en", form=as_json).say) as server:
        assert run(["make", "qa", "my-pdfs", "--with", "large", "--url", server.url, "--rows", "5"]) == 0
    head = json.loads((place / "made.jsonl.making" / "journal.jsonl").read_text("utf-8").splitlines()[0])["head"]
    assert head["structured"] is True


def test_evaluation_files_keep_passages_out(place, served, capsys):
    text = (place / "my-pdfs" / "004.txt").read_text("utf-8")
    (place / "exam.jsonl").write_text(json.dumps({"text": text}))
    words = ["make", "qa", "my-pdfs", "--with", "large", "--url", served.url, "--decontaminate", "exam.jsonl"]
    assert run(words) == 0
    assert "decontaminated_passage 1" in capsys.readouterr().out
    assert "004.txt" not in {row["provenance"]["document"] for row in rows_of("made.jsonl")}


def test_budgets_and_ends_are_said(place, served, capsys):
    words = ["make", "qa", "my-pdfs", "--with", "large", "--url", served.url]
    assert run([*words, "--budget-tokens", "4k"]) == 0
    assert "stopped by the budget of 4,000 tokens" in capsys.readouterr().out
    assert run([*words, "--price", "0.5,1.5", "--budget-cost", "0.006"]) == 0
    said = capsys.readouterr().out
    assert "stopped by the budget of 0.006" in said
    assert run(words) == 0
    assert "every document was asked about" in capsys.readouterr().out


def test_ctrl_c_saves_what_there_is(place, served, capsys):
    def once_there_is_some():
        while served.asked < 12:
            pass
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=once_there_is_some, daemon=True).start()
    words = ["make", "qa", "my-pdfs", "--with", "large", "--url", served.url, "--at-a-time", "1"]
    assert run(words) == 130
    told = capsys.readouterr()
    assert "stopped by Ctrl-C; " in told.err
    assert "the same command goes on" in told.err
    assert run(words) == 0


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--rows", "0"], "rows=0 makes nothing"),
        (["--rows", "many"], "'many' is not a number; write it as 500"),
        (["--budget-tokens", "0"], "a budget of 0 for tokens asks nothing"),
        (["--budget-tokens", "50"], "no row was made: 0 of 500 rows; stopped by the budget of 50 tokens"),
        (["--budget-time", "soon"], "not a duration"),
        (["--budget-cost", "1"], "needs a price"),
        (["--price", "cheap"], "--price 'cheap' must be two numbers"),
        (["--similar", "7"], "similar=7.0 is a ROUGE-L"),
        (["--at-a-time", "0"], "ask at least 1 at a time"),
        (["--decontaminate", "none.jsonl"], "none.jsonl does not exist"),
        (["--out", "my-pdfs"], "it is a folder"),
        (["--out", "/proc/made.jsonl"], "cannot write /proc/made.jsonl"),
        (["--out", "mine.jsonl"], "exists, and was not made by this command"),
        (["--with", "empty"], "unreadable_reply"),
        (["--with", "broken"], "400"),
        (["--language", "zh"], "none of 16 files gave a passage"),
        (["--url", "localhost"], "must begin with http"),
    ],
)
def test_what_cannot_be_done_is_said_with_exit_code_2(place, served, capsys, words, says):
    given = ["make", "qa", "my-pdfs", *(["--with", "large"] if "--with" not in words else []), *words]
    if "--url" not in words:
        given += ["--url", served.url]
    before = (place / "mine.jsonl").read_bytes()
    assert run(given) == 2
    said = capsys.readouterr().err
    assert says in said
    assert "Traceback" not in said
    assert (place / "mine.jsonl").read_bytes() == before


def test_documents_that_cannot_be_read_are_said(place, served, capsys):
    words = ["--with", "large", "--url", served.url]
    (place / "empty").mkdir()
    assert run(["make", "qa", "empty", *words]) == 2
    assert "empty holds no document that can be read; readable are .txt" in capsys.readouterr().err
    assert run(["make", "qa", "nowhere", *words]) == 2
    assert "nowhere does not exist" in capsys.readouterr().err
    (place / "bad").mkdir()
    (place / "bad" / "broken.pdf").write_bytes(b"%PDF-1.4 and no more")
    (place / "bad" / "photo.txt").write_bytes(bytes(range(256)) * 40)
    (place / "bad" / "blank.txt").write_text("\n")
    assert run(["make", "qa", "bad", *words]) == 2
    said = capsys.readouterr().err
    assert "none of 3 files gave a passage to ask about (unreadable 2, empty 1)" in said
    assert "broken.pdf: is not a readable PDF" in said
    assert served.asked == 0
    (place / "bad" / "good.txt").write_text((place / "my-pdfs" / "003.txt").read_text("utf-8"), "utf-8")
    assert run(["make", "qa", "bad", *words]) == 0  # the rest is used, and what was left out is said
    assert "left out: unreadable 2, empty 1" in capsys.readouterr().out


def test_duplicates_alone_make_one_passage(place, served, capsys):
    (place / "same").mkdir()
    for number in range(5):
        (place / "same" / f"{number}.txt").write_text((place / "my-pdfs" / "003.txt").read_text("utf-8"), "utf-8")
    assert run(["make", "qa", "same", "--with", "large", "--url", served.url]) == 0
    said = capsys.readouterr().out
    assert "same: 1 passages of 5 documents (en)" in said
    assert "duplicate_passage 4" in said


def test_a_model_of_this_machine_is_asked_for_real_and_its_noise_is_dropped(place, capsys):
    """Random weights say nothing that can be kept. Every part runs but the endpoint's."""
    make_home(place / "home", context=2048, facts={"instruction_tuned": True, "name": "kitten"})
    words = ["make", "qa", "my-pdfs", "--with", "home", "--max-tokens", "24", "--budget-tokens", "20k", "--no-json"]
    assert run(words) == 2
    said = capsys.readouterr().err
    assert "no row was made: 0 of 500 rows" in said
    assert "unreadable_reply" in said
    journal = [
        json.loads(line) for line in (place / "made.jsonl.making" / "journal.jsonl").read_text("utf-8").splitlines()
    ]
    assert journal[0]["head"]["model"].startswith("kitten@")
    answers = len(journal) - 1
    assert answers > 3
    assert run(words) == 2
    assert len((place / "made.jsonl.making" / "journal.jsonl").read_text("utf-8").splitlines()) == answers + 1


def test_a_model_that_continues_texts_is_refused(place, capsys):
    make_home(place / "base", context=512, facts={"instruction_tuned": False})
    assert run(["make", "self-instruct", "tasks.jsonl", "--with", "base"]) == 2
    assert "was not tuned to answer" in capsys.readouterr().err


def test_the_examples_of_the_page_run(place, served, capsys):
    blocks = re.findall(r"^```sh\n(.*?)^```", PAGE.read_text("utf-8"), re.M | re.S)
    lines = [line.partition(" #")[0] for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    commands = [shlex.split(line)[1:] for line in lines if line.startswith("dunwu ")]
    made = [words for words in commands if words[0] == "make"]
    assert {words[1] for words in made} == {"qa", "self-instruct", "unnatural", "evolve"}
    for words in commands:
        app.parse_args(words, exit_on_error=False, print_error=False)
    for number, words in enumerate(made):
        model = {"qa": "large"}.get(words[1], words[1].replace("-", "_"))
        changed = {"--with": model, "--url": served.url, "--rows": "10", "--out": f"{number}.jsonl"}
        kept = [word for place, word in enumerate(words) if word not in changed and words[place - 1] not in changed]
        assert run([*kept, *(word for option in changed.items() for word in option)]) == 0, words
        assert rows_of(f"{number}.jsonl")
