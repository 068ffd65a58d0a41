"""`dunwu eval` and `dunwu compare`: from a task file to figures with intervals and pages, and what is refused."""

import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from dunwu.chat.local import LocalChat
from dunwu.chat.local_text import LocalText
from dunwu.cli import run
from dunwu.cli.evaluating_options import Evaluating
from dunwu.cli.evaluating_partner import find_model, opened
from dunwu.core.deltas import LoraSpec
from dunwu.delta.registry import attach
from dunwu.delta.storing import save_delta
from dunwu.evaluate.outcome import read_outcome, read_samples
from dunwu.model.hub import load_model
from tests.chat.conftest import make_home
from tests.chat.fake_completions import fake_completions, logprob
from tests.chat.fake_openai import fake_openai
from tests.delta.helpers import shake

SUMS = """
name: sums
output: choice
input: "{{q}}"
choices: "{{options}}"
right: "{{key}}"
group: "{{text}}"
subject: "{{kind}}"
shots: {count: 1, split: dev}
source: {files: {test: test.jsonl, dev: dev.jsonl}}
metrics: [acc, acc_norm]
"""
WRITTEN = """
name: written
input: "{{q}}"
target: "{{a}}"
max_tokens: 5
source: {files: {test: test.jsonl}}
metrics: [{name: exact, score: {kind: exact, answer: target}}]
"""


def row(at):
    return {
        "q": f"a cat sat {at} and {at}?",
        "options": ["cat", "a cat", "sat"],
        "key": at % 3,
        "a": "Hello 你好" if at % 2 else "no",
        "text": f"t{at // 3}",
        "kind": "猫" if at % 2 else "cat",
    }


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("place")
    patch = pytest.MonkeyPatch()
    patch.setattr("dunwu.evaluate.identity.user_cache_folder", lambda: folder / "cache")
    patch.chdir(folder)
    for name, places in (("test", range(24)), ("dev", range(100, 104))):
        Path(f"{name}.jsonl").write_text("\n".join(json.dumps(row(at)) for at in places), "utf-8")
    Path("sums.yaml").write_text(SUMS)
    Path("written.yaml").write_text(WRITTEN)
    for name, tuned in (("kitten", True), ("base", False)):
        Path(name).mkdir()
        make_home(Path(name), context=96, facts={"name": name, "instruction_tuned": tuned})
    yield folder
    patch.undo()


def said(capsys, *words):
    """What a command prints; it ends well."""
    code = run([str(word) for word in words])
    told = capsys.readouterr()
    assert code == 0, told.err
    return told.out


def refused(capsys, *words):
    """Why a command ended with 2."""
    code = run([str(word) for word in words])
    told = capsys.readouterr()
    assert code == 2, told.out + told.err
    return " ".join(told.err.split())


def test_choices_and_written_answers_are_measured_and_kept(place, capsys):
    told = said(capsys, "eval", "kitten", "--tasks", "sums.yaml,written.yaml", "--out", "first")
    assert "sums: 24 questions in 8 groups, by likelihood, 1 demonstration" in told
    assert "written: 24 questions, by chat" in told
    outcome = read_outcome(Path("first"))
    acc, norm = outcome.tasks[0].figures
    assert (acc.score.name, norm.score.name) == ("acc", "acc_norm")
    assert acc.score.low < acc.score.value < acc.score.high
    assert (acc.score.n, acc.score.chance) == (24, pytest.approx(1 / 3))
    assert set(outcome.tasks[0].subjects) == {"cat", "猫"}
    samples = [sample for sample in read_samples(Path("first")) if sample.task == "sums"]
    assert sum(sample.values["acc"] for sample in samples) / 24 == pytest.approx(acc.score.value)
    for sample in samples:
        assert sample.answers[0].logprobs.index(max(sample.answers[0].logprobs)) == sample.answers[0].chosen
    page = Path("first/report.html").read_text("utf-8")
    assert "a cat sat 0 and 0?" in page
    assert "95% 区间" in page


def test_choices_are_calibrated_against_questions_without_content(place, capsys):
    """What is said of a choice after "N/A" is taken out: by hand from the model's own likelihoods."""
    said(capsys, "eval", "kitten", "--tasks", "sums.yaml", "--shots", "0", "--out", "uncalibrated")
    said(
        capsys,
        "eval",
        "kitten",
        "--tasks",
        "sums.yaml",
        "--shots",
        "0",
        "--calibrate",
        "contextual",
        "--out",
        "calibrated",
    )
    text = LocalText(LocalChat.load("kitten/model" if Path("kitten/model").is_dir() else "kitten").generator)
    free = [text.likelihoods([(one, f" {choice}") for choice in row(0)["options"]]) for one in ("N/A", "[MASK]", "")]
    shares = np.mean([_softmax([one.logprob for one in told]) for told in free], axis=0)
    plain, calibrated = (
        [one.answers[0] for one in read_samples(Path(name))] for name in ("uncalibrated", "calibrated")
    )
    for before, after in zip(plain, calibrated, strict=True):
        expected = _softmax(np.array(before.logprobs[:3]) - np.log(shares))
        assert np.exp(after.logprobs[:3]) == pytest.approx(expected, rel=1e-4)
    assert "by chat; leave it out" in refused(
        capsys, "eval", "kitten", "--tasks", "written.yaml", "--calibrate", "domain", "--out", "no"
    )


@pytest.mark.parametrize("solver", ["chat", "cot", "self-consistency:n=2"])
def test_demonstrations_that_a_conversation_lost_are_told_through_strategies_too(place, capsys, solver):
    Path("shown.yaml").write_text(
        WRITTEN.replace("name: written", "name: shown").replace(
            "{test: test.jsonl}", "{test: test.jsonl, dev: dev.jsonl}"
        )
        + "shots: {count: 4, split: dev}\n"
    )
    out = f"shown-{solver.partition(':')[0]}"
    told = said(capsys, "eval", "kitten", "--tasks", "shown.yaml", "--solver", solver, "--limit", "3", "--out", out)
    samples = list(read_samples(Path(out)))
    assert [sample.shots for sample in samples] == [4] * 3
    assert all(sample.cut > 0 for sample in samples)
    assert "3 questions lost a beginning, so many of their first messages: " in told
    lost_all = all(sample.cut >= 8 for sample in samples)
    assert ("No question was read with a demonstration" in told) == lost_all


def test_an_endpoint_has_as_long_as_is_given():
    given = Evaluating(tasks=("sums.yaml",), url="http://127.0.0.1:1/v1", timeout="7s")
    with opened(find_model("someone", given), given) as partner:
        assert partner.text.endpoint.timeout_s == 7.0
        assert partner.chat.chat.chat.endpoint.timeout_s == 7.0


def _softmax(logprobs):
    shares = np.exp(np.array(logprobs) - max(logprobs))
    return shares / shares.sum()


def test_likelihoods_of_texts_have_intervals_and_are_compared_in_nats(place, capsys):
    Path("texts.yaml").write_text(
        'output: perplexity\nsource: {files: {test: test.jsonl}}\ninput: ""\ntarget: "{{q}}"\n'
        "metrics: [bits_per_byte, byte_perplexity, perplexity]\n"
    )
    for model in ("base", "kitten"):
        told = said(capsys, "eval", model, "--tasks", "texts.yaml", "--out", f"texts-{model}")
        assert "texts: 24 questions, by likelihood" in told
        assert not re.search(r"\d{9}", told)  # a perplexity beyond all measure is short all the same
    bits, byte, _ = (figure.score for figure in read_outcome(Path("texts-base")).tasks[0].figures)
    for bound in ("low", "value", "high"):
        assert getattr(byte, bound) == pytest.approx(2 ** getattr(bits, bound))
    assert "log byte_perplexity" in said(capsys, "compare", "texts-base", "texts-kitten")


def test_the_same_command_asks_nothing_again(place, capsys):
    said(capsys, "eval", "kitten", "--tasks", "sums.yaml", "--out", "again")
    first = read_outcome(Path("again"))
    size = Path("again/answers.jsonl").stat().st_size
    assert run(["eval", "kitten", "--tasks", "sums.yaml", "--out", "again"]) == 0
    assert "nothing was asked anew" in capsys.readouterr().err
    assert Path("again/answers.jsonl").stat().st_size == size
    assert read_outcome(Path("again")).tasks == first.tasks


def test_a_run_that_was_killed_goes_on(place, capsys):
    """The process ends itself with SIGKILL once the third batch is on disk; what it had is not asked for again."""
    words = ["eval", "kitten", "--tasks", "written.yaml", "--samples", "2", "--limit", "24"]
    program = (
        "import os, signal, sys\nfrom dunwu.core.journal import Journal\nfrom dunwu.cli import run\nadd, count = Journal.add, [0]\n"
        "def dying(self, *answers):\n    add(self, *answers)\n    count[0] += 1\n"
        "    if count[0] == 1: os.kill(os.getpid(), signal.SIGKILL)\n"
        "Journal.add = dying\nrun(sys.argv[1:])"
    )
    ended = subprocess.run([sys.executable, "-c", program, *words, "--out", "killed"], timeout=120, capture_output=True)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    assert not Path("killed/results.json").exists()
    assert run([*words, "--out", "killed"]) == 0
    assert "24 answers were there already, 24 were asked for" in capsys.readouterr().err
    said(capsys, *words, "--out", "whole")
    assert tuple(read_samples(Path("killed"))) == tuple(read_samples(Path("whole")))


def test_answers_are_drawn_several_times_and_passed_at(place, capsys):
    told = said(
        capsys,
        "eval",
        "kitten",
        "--tasks",
        "written.yaml",
        "--samples",
        4,
        "--pass",
        1,
        "--pass",
        4,
        "--limit",
        6,
        "--out",
        "drawn",
    )
    assert "exact@4" in told
    samples = list(read_samples(Path("drawn")))
    assert all(len(sample.answers) == 4 for sample in samples)
    assert any(len({answer.text for answer in sample.answers}) > 1 for sample in samples)


def test_a_limit_draws_questions_and_a_larger_one_holds_them(place, capsys):
    ids = []
    for limit in (5, 9):
        said(capsys, "eval", "base", "--tasks", "sums.yaml", "--limit", limit, "--out", f"limit{limit}")
        ids.append({sample.id for sample in read_samples(Path(f"limit{limit}"))})
    assert len(ids[0]) == 5
    assert ids[0] < ids[1]
    assert "5 of 24 questions" in said(capsys, "eval", "base", "--tasks", "sums.yaml", "--limit", 5, "--out", "limit5")


def test_a_base_model_continues_text_and_is_not_talked_to(place, capsys):
    told = said(capsys, "eval", "base", "--tasks", "written.yaml", "--limit", 4, "--out", "plain")
    assert "by text" in told
    assert "was not trained to chat" in refused(
        capsys, "eval", "base", "--tasks", "written.yaml", "--solver", "cot", "--out", "x1"
    )


def test_a_delta_on_a_model_is_another_model(place, capsys):
    model = load_model(Path("base"))
    delta = shake(attach(model, LoraSpec(r=2, targets=("q_proj", "v_proj", "down_proj")), seed=1), size=2.0, seed=1)
    save_delta(delta, Path("tone"), base_name="base")
    for name, model in (("bare", "base"), ("toned", "base:./tone")):
        said(capsys, "eval", model, "--tasks", "sums.yaml", "--out", name)
    bare, toned = read_outcome(Path("bare")), read_outcome(Path("toned"))
    assert (bare.model, toned.model) == ("base", "base:tone")
    assert bare.identity != toned.identity
    logprobs = [[one.answers[0].logprobs for one in read_samples(Path(name))] for name in ("bare", "toned")]
    assert logprobs[0] != logprobs[1]
    assert "nothing" in refused(capsys, "eval", "base:nothing", "--tasks", "sums.yaml", "--out", "x2")


def test_a_prompt_strategy_is_a_solver(place, capsys):
    told = said(
        capsys, "eval", "kitten", "--tasks", "written.yaml", "--limit", 3, "--solver", "cot", "--out", "thought"
    )
    assert "by chat, cot" in told


def test_what_does_not_fit_is_named_by_question(place, capsys):
    Path("long.jsonl").write_text("\n".join(json.dumps({"q": "cat " * words, "a": "x"}) for words in (3, 400, 5, 600)))
    Path("long.yaml").write_text(WRITTEN.replace("written", "long").replace("test.jsonl", "long.jsonl"))
    told = said(capsys, "eval", "base", "--tasks", "long.yaml", "--out", "long")
    assert "2 questions not asked, which count as wrong" in told
    assert "and the model reads 96" in told
    assert [bool(sample.refused) for sample in read_samples(Path("long"))] == [False, True, False, True]


def test_how_much_the_corpus_holds(place, capsys):
    Path("corpus").mkdir()
    Path("corpus/seen.txt").write_text("Once. " + row(4)["q"] + " Cat, a cat, sat. The end.")
    Path("long_q.jsonl").write_text(
        "\n".join(
            json.dumps({"q": f"{'the cat of number ' * 2}{at} sat and sat and then it sat again", "a": "x"})
            for at in range(30)
        )
    )
    Path("corpus/more.txt").write_text("Note: the cat of number the cat of number 7 sat and sat and then it sat again!")
    Path("long_q.yaml").write_text(WRITTEN.replace("written", "long_q").replace("test.jsonl", "long_q.jsonl"))
    told = said(capsys, "eval", "base", "--tasks", "long_q.yaml", "--corpus", "corpus", "--out", "seen")
    assert "in the corpus      3.3% of 30 questions" in told
    assert [sample.id for sample in read_samples(Path("seen")) if sample.seen] == [
        sample.id for sample in read_samples(Path("seen")) if " 7 sat" in sample.input
    ]


def test_an_endpoint_is_measured_too(place, capsys):
    with fake_openai() as server:
        told = said(capsys, "eval", "good", "--url", server.url, "--tasks", "written.yaml", "--out", "remote")
        count = len(server.bodies)
        said(capsys, "eval", "good", "--url", server.url, "--tasks", "written.yaml", "--out", "remote")
        assert (count, len(server.bodies)) == (24, 24)
    assert "exact              0.500" in told


async def _at_once(_seconds):
    """No wait before asking again."""


@pytest.mark.parametrize(
    ("model", "why"),
    [
        ("html", "text/html"),
        ("json", ""),
        ("cut", "broke off"),
        ("no key", "wrong key"),
        ("unknown", "no such model"),
        ("error in the stream", "out of memory"),
    ],
)
def test_an_endpoint_that_fails_is_told_with_how_far_it_came(place, capsys, monkeypatch, model, why):
    monkeypatch.setattr("asyncio.sleep", _at_once)
    with fake_openai() as server:
        told = refused(capsys, "eval", model, "--url", server.url, "--tasks", "written.yaml", "--out", f"bad-{model}")
    assert "written, after 0 of 24 questions" in told
    assert why in told
    assert "run the same command again" in told


def test_an_endpoint_that_tells_likelihoods_chooses_by_them(place, capsys):
    with fake_completions() as server:
        words = ["--url", server.url, "--tasks", "sums.yaml", "--solver", "likelihood", "--shots", 0]
        told = said(capsys, "eval", "offsets", *words, "--out", "judged")
    assert "by likelihood" in told
    for sample in read_samples(Path("judged")):
        after = f"{sample.input} "
        expected = [
            sum(logprob(after + choice, at) for at in range(len(after) - 1, len(after + choice)))
            for choice in sample.choices
        ]
        assert sample.answers[0].logprobs == pytest.approx(expected)


@pytest.mark.parametrize(
    ("model", "why"),
    [("plain", "log-probabilities"), ("html", "answered"), ("cut", ""), ("broken", "out of memory")],
)
def test_an_endpoint_without_likelihoods_is_told_apart(place, capsys, monkeypatch, model, why):
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    with fake_completions() as server:
        words = ["--url", server.url, "--tasks", "sums.yaml", "--solver", "likelihood", "--shots", 0]
        told = refused(capsys, "eval", model, *words, "--out", f"none-{model}")
    assert "sums, after 0 of 24 questions" in told
    assert why in told


@pytest.mark.parametrize("how", ["similar:k=1", "random:k=2,budget=40", "similar:k=1,by=model"])
def test_demonstrations_are_chosen_as_asked(place, capsys, how):
    told = said(
        capsys, "eval", "base", "--tasks", "sums.yaml", "--demonstrations", how, "--limit", 4, "--out", f"d-{how[-5:]}"
    )
    assert re.search(r", [12] demonstrations?\n", told)
    assert "sat 10" in read_outcome(Path(f"d-{how[-5:]}")).tasks[0].prompt


def test_two_runs_are_compared_question_by_question(place, capsys):
    said(capsys, "eval", "kitten", "--tasks", "sums.yaml", "--out", "one")
    said(capsys, "eval", "kitten", "--tasks", "sums.yaml", "--shots", 0, "--out", "other")
    told = said(capsys, "compare", "one", "other", "--out", "page.html")
    assert "kitten (one) → kitten (other): the same questions, paired" in told
    assert "not alike: shots: 1 → 0" in told
    facts = json.loads(said(capsys, "compare", "one", "other", "--json"))
    main = facts["tasks"][0]["main"]
    assert main["after"] - main["before"] == pytest.approx(main["difference"][0])
    assert "之前 → 之后" in Path("page.html").read_text("utf-8")


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--tasks", "gsm8"], "there is no task 'gsm8'; did you mean gsm8k?"),
        (["--tasks", ","], "--tasks names none"),
        (["--tasks", "sums.yaml,sums.yaml"], "names sums twice"),
        (["--tasks", "sums.yaml", "--data", "nowhere"], "does not exist"),
        (["--tasks", "sums.yaml", "--data", "other=test.jsonl"], "names other, which is none of --tasks"),
        (["--tasks", "sums.yaml", "--solver", "cott"], "cot"),
        (["--tasks", "sums.yaml", "--samples", "2", "--temperature", "0"], "one answer 2 times"),
        (
            ["--tasks", "written.yaml", "--solver", "likelihood"],
            "written has no choices whose likelihood could be asked",
        ),
        (["--tasks", "written.yaml", "--samples", "2", "--pass", "5"], "there are 2"),
        (["--tasks", "sums.yaml", "--shots", "9"], "has 2 demonstrations about cat, and 9 are"),
        (["--tasks", "sums.yaml", "--timeout", "0s"], "--timeout 0s leaves an endpoint no time to answer"),
        (["--tasks", "sums.yaml", "--timeout", "soon"], "'soon' is not a duration"),
        (["--tasks", "sums.yaml", "--corpus", "nowhere"], "--corpus nowhere does not exist"),
    ],
)
def test_what_cannot_be_asked_is_said_before_anything_is_lost(place, capsys, words, why):
    assert why in refused(capsys, "eval", "kitten", *words, "--out", "wrong")


def test_the_folder_of_another_run_is_left_alone(place, capsys):
    said(capsys, "eval", "kitten", "--tasks", "sums.yaml", "--out", "mine")
    told = refused(capsys, "eval", "base", "--tasks", "sums.yaml", "--out", "mine")
    assert "was begun with other settings (model: kitten → base" in told
    assert "--anew" in told
    assert read_outcome(Path("mine")).model == "kitten"
    said(capsys, "eval", "base", "--tasks", "sums.yaml", "--out", "mine", "--anew")
    assert read_outcome(Path("mine")).model == "base"
    Path("notes").mkdir()
    Path("notes/diary.txt").write_text("mine")
    assert "holds other things" in refused(capsys, "eval", "kitten", "--tasks", "sums.yaml", "--out", "notes")


def test_what_cannot_be_compared_is_said(place, capsys):
    said(capsys, "eval", "kitten", "--tasks", "sums.yaml", "--out", "left")
    said(capsys, "eval", "kitten", "--tasks", "written.yaml", "--out", "right")
    assert "share no task: one has sums, the other written" in refused(capsys, "compare", "left", "right")
    assert "does not exist; give a folder that `dunwu eval` wrote" in refused(capsys, "compare", "left", "nowhere")
    Path("left/samples.jsonl").write_text('{"task": "sums"\n')
    assert "line 1 is damaged" in refused(capsys, "compare", "left", "left")
