"""A task run with a solver: what is asked, counted and kept; a run that is killed goes on and ends alike."""

import math
import random

import numpy as np
import pytest

from dunwu.chat.scripted import ScriptedChat
from dunwu.chat.scripted_text import ScriptedText
from dunwu.core.errors import PartnerError
from dunwu.core.journal import opened
from dunwu.core.progress import RecordedProgress, SilentProgress
from dunwu.evaluate.outcome import Outcome, figure_named, read_outcome, read_samples, write_outcome
from dunwu.evaluate.remembering import Memory, Remembered, RememberingChat, RememberingText
from dunwu.evaluate.running import Asking, answer_all, run_task
from dunwu.evaluate.solvers.text import WrittenReplies, WrittenText
from dunwu.evaluate.stats import wilson
from dunwu.evaluate.tasks.spec import TaskSpec
from dunwu.evaluate.tasks.task import Task


def sums(count=40, **more):
    """2i + i, about the text i // 4."""
    rows = [
        {"q": f"{2 * i}+{i}=", "a": str(3 * i), "text": f"t{i // 4}", "kind": "even" if i % 2 == 0 else "odd"}
        for i in range(count)
    ]
    spec = TaskSpec(
        name="sums",
        input="{{q}}",
        target="{{a}}",
        delimiter="",
        group="{{text}}",
        subject="{{kind}}",
        max_tokens=8,
        metrics=({"name": "exact", "score": {"kind": "exact", "answer": "target"}},),
        **more,
    )
    return Task(spec=spec, rows=lambda split: rows)


def add(prompt):
    left, right = prompt.rstrip("=").split("+")
    return str(int(left) + int(right)) if int(right) % 4 else "no idea"


def test_every_figure_has_its_interval_and_counts_clusters():
    task = sums()
    run = run_task(
        task,
        Asking(solvers=[WrittenText(ScriptedText(add))], solver_name="text"),
        task.problems(),
        progress=SilentProgress(),
    )
    score = figure_named(run.outcome.figures, "exact").score
    assert (score.value, score.n, score.unit) == (0.75, 40, "share")
    plain = wilson(30, 40)
    assert score.high - score.low > 0.5 * (plain[1] - plain[0])
    assert run.outcome.groups == 10
    assert {subject: figures[0].score.value for subject, figures in run.outcome.subjects.items()} == {
        "even": 0.5,
        "odd": 1.0,
    }
    assert [sample.values["exact"] for sample in run.samples[:5]] == [0.0, 1.0, 1.0, 1.0, 0.0]
    assert run.samples[1].answers[0].text == "3"


def test_a_problem_that_does_not_fit_counts_as_not_answered_and_is_named():
    task = sums()
    solver = WrittenText(ScriptedText(add, context_length=14))
    run = run_task(task, Asking(solvers=[solver], solver_name="text"), task.problems(), progress=SilentProgress())
    refused = [sample for sample in run.samples if sample.refused]
    assert run.outcome.refused == len(refused) == 30  # from 20+10= on
    assert all(sample.values["exact"] == 0.0 for sample in refused)
    assert "reads 14" in refused[0].refused


def test_progress_says_how_much_is_left():
    progress = RecordedProgress()
    task = sums()
    answer_all(task, WrittenText(ScriptedText(add)), task.problems(), progress=progress)
    done = [done for done, _, _ in progress.updates]
    assert done == [16, 40]
    assert all(total == 40 and " " in shown["left"] for _, total, shown in progress.updates)


def test_pass_at_k_over_drawn_answers():
    task = sums(20)
    right = {"0": 0, "1": 1, "2": 2, "3": 3}

    def sampled(sample):
        # of four answers, question i gets i mod 4 right
        def write(prompt):
            place = int(prompt.rstrip("=").split("+")[1])
            return str(3 * place) if sample < right[str(place % 4)] else "wrong"

        return WrittenText(ScriptedText(write))

    asking = Asking(solvers=[sampled(at) for at in range(4)], solver_name="text", pass_at=(1, 2, 4))
    run = run_task(task, asking, task.problems(), progress=SilentProgress())
    values = {figure.score.name: figure.score.value for figure in run.outcome.figures}
    assert values["exact"] == pytest.approx((0 + 1 + 2 + 3) / 16)
    assert values["exact@1"] == pytest.approx(values["exact"])
    pairs = [1 - math.comb(4 - c, 2) / math.comb(4, 2) for c in range(4)]
    assert values["exact@2"] == pytest.approx(sum(pairs) / 4)
    assert values["exact@4"] == pytest.approx(0.75)
    assert len(run.samples[0].answers) == 4


@pytest.mark.parametrize("kind", ["text", "chat"])
@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_a_run_that_breaks_off_goes_on_and_ends_as_one_that_did_not(tmp_path, kind, temperature):
    task, asked = sums(), []

    class BreaksError(Exception):
        pass

    def model(fails_at):
        count = iter(range(1000))

        def write(prompt):
            if next(count) == fails_at:
                raise BreaksError
            asked.append(prompt)
            return add(prompt)

        return ScriptedText(write) if kind == "text" else ScriptedChat(lambda messages: write(messages[-1].content))

    def run(path, fails_at=None):
        with opened(path, Remembered) as journal:
            journal.settle({"model": "model-1"})
            memory = Memory(journal, "model-1")
            if kind == "text":
                solver = WrittenText(RememberingText(model(fails_at), memory), temperature=temperature, seed=1)
            else:
                solver = WrittenReplies(RememberingChat(model(fails_at), memory), temperature=temperature, seed=1)
            return answer_all(task, solver, task.problems(), progress=SilentProgress(), batch=8)

    whole = run(tmp_path / "whole.jsonl")
    asked.clear()
    with pytest.raises(BreaksError):
        run(tmp_path / "broken.jsonl", fails_at=21)
    assert run(tmp_path / "broken.jsonl") == whole
    assert len(asked) == 21 + 24  # of the third batch of eight nothing was kept
    asked.clear()
    assert run(tmp_path / "broken.jsonl") == whole
    assert asked == []


def test_another_model_or_other_options_are_asked_anew(tmp_path):
    chat = ScriptedChat(lambda messages: "1")
    message = sums().messages(sums().problems()[0])
    with opened(tmp_path / "journal.jsonl", Remembered) as journal:
        first, other = (RememberingChat(chat, Memory(journal, name)) for name in ("a", "b"))
        first.reply(message)
        first.reply(message, seed=3)  # the likeliest answer is the same for all seeds
        assert len(chat.asked) == 1
        first.reply(message, max_tokens=3)
        other.reply(message)
        first.reply(message, temperature=1.0, seed=1)
        first.reply(message, temperature=1.0, seed=1)
        first.reply(message, temperature=1.0, seed=2)
        assert len(chat.asked) == 5
        first.reply(message, temperature=1.0)
        first.reply(message, temperature=1.0)
        assert len(chat.asked) == 7  # without a seed it is another answer each time


def test_an_endpoint_that_fails_is_named_with_how_far_it_came():
    task = sums()

    def script(messages):
        return (
            PartnerError("the endpoint answered 500", transient=True) if messages[-1].content.startswith("36") else "1"
        )

    with pytest.raises(
        PartnerError, match=r"sums, after 16 of 40 questions: the endpoint answered 500.*run the same command"
    ):
        answer_all(task, WrittenReplies(ScriptedChat(script)), task.problems(), progress=SilentProgress())


def test_an_endpoint_that_reads_less_refuses_the_long_ones_alone():
    task = sums()
    why = "refuses the request (400: This model's maximum context length is 5 tokens); mend what it names"

    def script(messages):
        text = messages[-1].content
        return PartnerError(why, transient=False) if text.startswith(("20+", "36+")) else add(text)

    run = run_task(
        task,
        Asking(solvers=[WrittenReplies(ScriptedChat(script))], solver_name="chat"),
        task.problems(),
        progress=SilentProgress(),
    )
    assert [sample.input for sample in run.samples if sample.refused] == ["20+10=", "36+18="]
    assert run.outcome.refused == 2
    assert sum(sample.values["exact"] for sample in run.samples) == 28

    def locked(messages):
        return PartnerError("refuses the key (401: no)", transient=False)

    with pytest.raises(PartnerError, match=r"after 0 of 40 questions: refuses the key"):
        answer_all(task, WrittenReplies(ScriptedChat(locked)), task.problems(), progress=SilentProgress())


@pytest.mark.parametrize("measure", ["bleu", "chrf", "rougeL"])
def test_a_corpus_score_has_an_interval_too(measure):
    pytest.importorskip("sacrebleu")
    pytest.importorskip("rouge_score")
    rng = random.Random(0)
    words = [f"w{at}" for at in range(30)]
    rows = [{"q": str(at), "a": " ".join(rng.choices(words, k=20))} for at in range(60)]
    said = {row["q"]: " ".join(w if rng.random() < 0.8 else "x" for w in row["a"].split()) for row in rows}
    metric = {"name": "overlap", "score": {"kind": "overlap", "measure": measure, "answer": "target"}}
    task = Task(spec=TaskSpec(name="said", input="{{q}}", target="{{a}}", metrics=(metric,)), rows=lambda split: rows)
    run = run_task(
        task,
        Asking(solvers=[WrittenText(ScriptedText(said.__getitem__))], solver_name="text"),
        task.problems(),
        progress=SilentProgress(),
    )
    score = run.outcome.figures[0].score
    assert 0.3 < score.low < score.value < score.high < 0.95
    assert score.high - score.low < 0.15
    # as wide as the spread of samples of 60 is, drawn anew from the 60
    spread = np.std([np.mean(rng.choices(list(values_of(run)), k=60)) for _ in range(200)])
    assert 0.6 < (score.high - score.low) / (3.92 * spread) < 1.8


def values_of(run):
    return [sample.values["overlap"] for sample in run.samples]


def test_outcomes_come_back_from_disk(tmp_path):
    task = sums()
    run = run_task(
        task,
        Asking(solvers=[WrittenText(ScriptedText(add))], solver_name="text"),
        task.problems(),
        progress=SilentProgress(),
    )
    outcome = Outcome(
        model="m", identity="1", settings={"seed": 0}, tasks=(run.outcome,), dunwu="0", finished="now", seconds=1.0
    )
    write_outcome(tmp_path, outcome, run.samples)
    assert read_outcome(tmp_path) == outcome
    assert tuple(read_samples(tmp_path)) == run.samples
