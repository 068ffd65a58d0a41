"""A run that was stopped anywhere ends with the rows of one that was not, and asks for nothing twice."""

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from dunwu.chat.scripted import ScriptedChat
from dunwu.core.errors import DataError, DiskError, PartnerError
from dunwu.core.progress import RecordedProgress
from dunwu.prompt.making.asking import Budget
from dunwu.prompt.making.documents import FromDocuments
from dunwu.prompt.making.evolve import Evolve
from dunwu.prompt.making.how import How, Maker
from dunwu.prompt.making.passages import read_passages
from dunwu.prompt.making.run import Wanted, make_data
from dunwu.prompt.making.seeds import read_seeds
from dunwu.prompt.making.self_instruct import SelfInstruct
from dunwu.prompt.making.unnatural import Unnatural

from .oracle import Oracle, write_world
from .partners import SEEDS, TASKS, partner

ROOT = Path(__file__).parents[2]
METHODS = ["qa", "self-instruct", "unnatural", "evolve"]


def maker_of(method: str, folder: Path) -> tuple[Maker, How, ScriptedChat]:
    """A method with something to work on in `folder`, and a partner that always says the same."""
    how = How(language="en")
    if method == "qa":
        if not (folder / "docs").exists():
            write_world(folder / "docs", "en", pages=20)
        return FromDocuments(passages=read_passages(folder / "docs"), how=how), how, Oracle("en", lies=0.3).chat()
    rows = TASKS[:12] if method == "evolve" else SEEDS
    (folder / "seeds.jsonl").write_text("\n".join(map(json.dumps, rows)), "utf-8")
    seeds = read_seeds(folder / "seeds.jsonl", at_least=1)
    made = {"self-instruct": SelfInstruct, "unnatural": Unnatural, "evolve": Evolve}[method](seeds=seeds, how=how)
    return made, how, partner(method)


def make(method: str, folder: Path, out: Path, **changes):
    maker, how, chat = maker_of(method, folder)
    wanted = replace(Wanted(out=out, rows=40, model=chat.name), **changes)
    return make_data(maker, how, chat, wanted), chat


@pytest.fixture(scope="module", params=METHODS)
def whole(request, tmp_path_factory):
    """An uninterrupted run: its method, its folder, its rows, and how much it asked."""
    folder = tmp_path_factory.mktemp(request.param)
    summary, chat = make(request.param, folder, folder / "made.jsonl")
    assert summary.rows >= 9
    return request.param, folder, (folder / "made.jsonl").read_bytes(), len(chat.asked)


def test_a_kill_at_any_byte_of_the_journal_changes_nothing(whole, tmp_path):
    method, folder, rows, asked = whole
    journal = (folder / "made.jsonl.making" / "journal.jsonl").read_bytes()
    ends = [place + 1 for place, byte in enumerate(journal) if byte == ord("\n")]
    for number, cut in enumerate([9, ends[0], ends[3] - 1, ends[len(ends) // 2], len(journal)]):
        out = tmp_path / f"{number}.jsonl"
        out.with_name(out.name + ".making").mkdir()
        (tmp_path / f"{number}.jsonl.making" / "journal.jsonl").write_bytes(journal[:cut])
        summary, chat = make(method, folder, out)
        assert out.read_bytes() == rows
        kept = sum(end <= cut for end in ends)  # the head, and answers
        assert len(chat.asked) == summary.asked == asked - max(0, kept - 1)


def test_killed_for_real_and_run_again(whole, tmp_path):
    method, folder, rows, asked = whole
    if method not in ("qa", "evolve"):
        pytest.skip(
            "a process for each of two methods is enough: the others differ in nothing that a signal could meet"
        )
    out = tmp_path / "made.jsonl"
    program = [sys.executable, "-m", "tests.prompt.killed", method, str(folder), str(out), "7"]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}"}
    dead = subprocess.run(program, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert dead.returncode == -signal.SIGKILL, dead.stderr
    _, chat = make(method, folder, out)
    assert out.read_bytes() == rows
    assert len(chat.asked) == asked - 7


def test_many_at_a_time_make_the_same_rows(whole, tmp_path):
    method, folder, rows, _ = whole
    make(method, folder, tmp_path / "made.jsonl", at_a_time=6)
    assert (tmp_path / "made.jsonl").read_bytes() == rows


def test_a_budget_that_is_raised_goes_on_to_the_same_rows(whole, tmp_path):
    method, folder, rows, asked = whole
    out, total = tmp_path / "made.jsonl", 0
    for tokens in (1500, 6000, 9000):
        summary, chat = make(method, folder, out, budget=Budget(tokens=tokens))
        total += len(chat.asked)
        assert summary.spent.tokens <= tokens
    _, chat = make(method, folder, out, budget=Budget(tokens=2000))  # less again: what is there stays
    assert chat.asked == []
    assert out.read_bytes() == b"" or rows.startswith(out.read_bytes())
    _, chat = make(method, folder, out)
    assert out.read_bytes() == rows
    assert total + len(chat.asked) == asked


def test_more_rows_follow_those_that_are_there(whole, tmp_path):
    method, folder, rows, asked = whole
    out = tmp_path / "made.jsonl"
    summary, first = make(method, folder, out, rows=5)
    assert summary.rows == 5
    assert rows.startswith(out.read_bytes())
    assert out.read_bytes().count(b"\n") == 5
    _, second = make(method, folder, out)
    assert out.read_bytes() == rows
    assert len(first.asked) + len(second.asked) == asked


def test_a_partner_that_breaks_off_leaves_the_rows_that_there_are(whole, tmp_path):
    method, folder, rows, asked = whole
    maker, how, chat = maker_of(method, folder)
    say, out = chat.script, tmp_path / "made.jsonl"

    def breaking(messages):
        return say(messages) if len(tired.asked) < asked * 3 // 4 else PartnerError("gone home", transient=True)

    tired = ScriptedChat(breaking, name=chat.name)
    with pytest.raises(PartnerError, match="gone home"):
        make_data(maker, how, tired, Wanted(out=out, rows=40, model=chat.name))
    assert out.read_bytes()
    assert rows.startswith(out.read_bytes())
    make(method, folder, out)
    assert out.read_bytes() == rows


def test_other_settings_are_refused_and_anew_uses_the_answers_that_fit(tmp_path):
    out = tmp_path / "made.jsonl"
    make("qa", tmp_path, out)
    before = out.read_bytes()
    with pytest.raises(DataError, match=r"was begun with other settings \(similar: 0.9 → 0.8\).*--anew"):
        make("qa", tmp_path, out, similar=0.8)
    assert out.read_bytes() == before
    _, chat = make("qa", tmp_path, out, similar=0.8, anew=True)
    assert chat.asked == []  # the same questions, judged otherwise
    assert (tmp_path / "made.jsonl.making" / "before.jsonl").read_bytes() == before
    write_world(tmp_path / "docs", "en", pages=22)  # two documents more
    with pytest.raises(DataError, match="passages: "):
        make("qa", tmp_path, out, similar=0.8)


def test_rows_that_were_edited_are_put_aside(tmp_path):
    out = tmp_path / "made.jsonl"
    make("qa", tmp_path, out, rows=6)
    rows = out.read_bytes().splitlines(keepends=True)
    out.write_bytes(b"".join(rows[:2] + rows[3:]))  # one was thrown out by hand
    maker, how, chat = maker_of("qa", tmp_path)
    progress = RecordedProgress()
    make_data(maker, how, chat, Wanted(out=out, rows=8, model=chat.name), progress=progress)
    assert out.read_bytes().startswith(b"".join(rows))
    assert (tmp_path / "made.jsonl.making" / "before.jsonl").read_bytes() == b"".join(rows[:2] + rows[3:])
    assert any("was changed since it was made" in note for note in progress.notes)


def test_a_file_of_somebody_elses_is_not_written_over(tmp_path):
    out = tmp_path / "made.jsonl"
    out.write_text("mine")
    for anew in (False, True):
        with pytest.raises(DataError, match="exists, and was not made by this command"):
            make("evolve", tmp_path, out, anew=anew)
    assert out.read_text() == "mine"
    (tmp_path / "folder").mkdir()
    with pytest.raises(DiskError, match="is a folder"):
        make("evolve", tmp_path, tmp_path / "folder")


def test_a_folder_that_cannot_be_written_is_found_out_before_anything_is_asked(tmp_path):
    maker, how, chat = maker_of("evolve", tmp_path)
    with pytest.raises(DiskError, match="cannot write"):
        make_data(maker, how, chat, Wanted(out=Path("/proc/made.jsonl"), rows=1, model="m"))
    assert chat.asked == []


def test_a_stop_is_obeyed_and_progress_is_told(tmp_path):
    maker, how, chat = maker_of("self-instruct", tmp_path)
    progress, wanted = RecordedProgress(), Wanted(out=tmp_path / "made.jsonl", rows=40, model=chat.name)
    summary = make_data(maker, how, chat, wanted, progress=progress, stopping=lambda: len(chat.asked) >= 60)
    assert summary.ended == "stopped by the signal to stop"
    assert len(chat.asked) == 60
    assert 0 < summary.rows < 40
    done, total, shown = progress.updates[-1]
    assert (done, total) == (summary.rows, 40)
    assert set(shown) == {"rows", "dropped", "answers", "tokens"}
    kept = json.loads((tmp_path / "made.jsonl.making" / "summary.json").read_text())
    assert kept["rows"] == summary.rows
    assert kept["dropped"].keys() <= kept["reasons"].keys()
    assert kept["samples"].keys() == kept["dropped"].keys()


def test_damage_in_the_journal_costs_only_what_it_held(tmp_path):
    make("qa", tmp_path, tmp_path / "made.jsonl")
    rows = (tmp_path / "made.jsonl").read_bytes()
    journal = tmp_path / "made.jsonl.making" / "journal.jsonl"
    lines = journal.read_bytes().split(b"\n")
    lines[4] = lines[4][:-9] + b"xxxxxxxxx"
    journal.write_bytes(b"\n".join(lines))
    shutil.copy(tmp_path / "made.jsonl", tmp_path / "copy")
    summary, chat = make("qa", tmp_path, tmp_path / "made.jsonl")
    assert len(chat.asked) == summary.asked == 1
    assert (tmp_path / "made.jsonl").read_bytes() == rows
