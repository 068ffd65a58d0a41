"""The examples of docs/curves.md, run on notes with planted repeats: what was planted is found."""

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest

from dunwu.cli import run
from dunwu.core.files import read_json
from tests.build.place import new_place

PAGE = (Path(__file__).parent.parent / "docs" / "curves.md").read_text("utf-8")
SMALL = (
    "pretrain.tokens=80000 pretrain.batch_tokens=1024 pretrain.max_epochs=99 model.num_hidden_layers=2 model.hidden_size=64 "
    "model.context_length=128 tokenizer.vocab_size=300 corpus.dedup=none corpus.quality=false corpus.boilerplate=false "
    "corpus.redact=false evaluate.baselines=false evaluate.heldout_bytes=1000 corpus.heldout_fraction=0.2"
)
FEW = ["--passages", "64", "--sequences", "4", "--texts", "16", "--prompt-tokens", "16", "--continuation-tokens", "16"]
COPIES = 8


def notes(folder: Path) -> None:
    """Notes of random letters: some stand there once, some eight times. Nothing but memory can tell how one goes on."""
    folder.mkdir()
    generator = np.random.default_rng(0)
    for number in range(48):
        text = "".join(map(chr, generator.integers(97, 123, 280)))
        for copy in range(COPIES if number % 6 == 0 else 1):
            (folder / f"{number:02d}-{copy}.txt").write_text(text, "utf-8")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    pytest.importorskip("matplotlib")
    with new_place(tmp_path_factory) as place:
        notes(place / "notes")
        (commands,) = re.findall(r"^```sh\n(.*?)^```", PAGE, re.M | re.S)
        build, curves = (shlex.split(line)[1:] for line in commands.splitlines())
        assert run([*build, *SMALL.split()]) == 0
        assert run([*curves, *FEW]) == 0
        yield place


def test_the_page_and_its_files_are_there(place):
    names = {path.name for path in (place / "curves").iterdir()}
    for name in ("induction", "memorised", "repeats"):
        assert {f"{name}.svg", f"{name}.csv"} <= names
    assert {"index.html", "experiment.json", "measured"} <= names
    snapshots = list((place / "builds" / "notes" / "stages").glob("pretrain-*/snapshots/step-*"))
    assert 8 <= len(snapshots) <= 12  # the earliest places may lie within one step
    assert len(list((place / "curves" / "measured").iterdir())) == len(snapshots) + 1


def test_what_was_planted_is_found(place):
    (run_,) = read_json(place / "curves" / "experiment.json")["facts"]["runs"]
    points = run_["points"]
    assert [point["tokens"] for point in points] == sorted({point["tokens"] for point in points})
    first, last = points[0], points[-1]
    assert first["memorised"]["learned"]["value"] == last["memorised"]["heldout"]["value"] == 0.0
    once, often = last["repeats"][0], last["repeats"][-1]
    assert often["least"] > 4 * once["most"]
    assert often["difference"]["high"] < -0.2  # letters that stand there eight times cost less
    at_start = {(one["least"], one["most"]): one["nats"]["value"] for one in first["repeats"]}
    assert max(at_start.values()) - min(at_start.values()) < 0.5  # and did not before they were learned


def test_measuring_goes_on_from_what_is_there_and_says_the_same(place, capsys, monkeypatch):
    before = read_json(place / "curves" / "experiment.json")["facts"]
    monkeypatch.setattr("dunwu.lab.curves.measuring.measure_point", None)  # nothing is measured again
    capsys.readouterr()
    assert run(["lab", "curves", "builds/notes", "--out", "curves", "--json", *FEW]) == 0
    assert json.loads(capsys.readouterr().out) == before


def test_a_person_is_told(place, capsys):
    assert run(["lab", "curves", "builds/notes", "--out", "curves", *FEW]) == 0
    said = capsys.readouterr().out
    assert "in-context score" in said
    assert re.search(r"training passages [\d.]+% \[[\d.]+%, [\d.]+%\] are continued word for word", said)
    assert re.search(r"passages learned from \d+ to \d+ times cost -\d\.\d+ \[-", said)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "no home given"),
        (["notes"], "not the home of a build"),
        (["builds/notes", "--prompt-tokens", "200"], "the context of notes is 128"),
        (["builds/notes", "--passages", "3"], "passages=3 is too few; give 8 at least"),
        (["builds/notes", "--seed", "-1"], "seed"),
    ],
)
def test_what_cannot_be_measured_is_said_in_a_line(place, capsys, words, says):
    assert run(["lab", "curves", *words]) == 2
    assert says in capsys.readouterr().err
