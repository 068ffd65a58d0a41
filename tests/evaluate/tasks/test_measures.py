"""What responses score: by hand."""

import importlib.util
import math
from pathlib import Path

import pytest

from dunwu.chat.text_model import Likelihood
from dunwu.core.errors import DataError, MissingExtraError
from dunwu.core.nearest import validated
from dunwu.core.problems import Problem
from dunwu.core.records import Completion
from dunwu.evaluate.solvers.base import Response
from dunwu.evaluate.tasks.measures import Measured, measure, require_scorers
from dunwu.evaluate.tasks.spec import TaskSpec
from dunwu.evaluate.tasks.task import Task


def task(**options):
    return Task(spec=validated(TaskSpec, {"name": "t", "input": "{{q}}", **options}))


def likelihoods(*logprobs, tokens=1, greedy=False):
    return tuple(Likelihood(logprob=logprob, tokens=tokens, greedy=greedy) for logprob in logprobs)


def said(problem, text):
    return Response(problem=problem, completion=Completion(text=text, ids=(), finish_reason="stop"))


def figures(measured: list[Measured]) -> dict[str, float]:
    return {one.name: one.figure for one in measured}


CHOICE = {"output": "choice", "choices": "{{c}}", "right": "{{r}}"}
LONG = Problem(id="0", input="Q", choices=("no", "certainly not", "没"), right=1, columns={"labels": [0, 1, 1]})


def test_choices_by_each_measure():
    # nats a character: -2, -4/13, -3; a byte: -1 …; without the question the second is likelier by far.
    names = ["acc", "acc_norm", "acc_bytes", "acc_tokens", "acc_mutual", "mc2"]
    response = Response(problem=LONG, likelihoods=likelihoods(-2, -4, -3, -2, -9, -3))
    assert figures(measure(task(**CHOICE, metrics=names), [response])) == pytest.approx(
        {
            "acc": 0,
            "acc_norm": 1,
            "acc_bytes": 1,
            "acc_tokens": 0,
            "acc_mutual": 1,
            "mc2": (math.exp(-4) + math.exp(-3)) / (math.exp(-2) + math.exp(-4) + math.exp(-3)),
        }
    )


def test_of_equal_likelihoods_the_first_choice_counts():
    first = Response(problem=Problem(id="0", input="", choices=("a", "b"), right=0), likelihoods=likelihoods(-1, -1))
    second = Response(problem=Problem(id="1", input="", choices=("a", "b"), right=1), likelihoods=likelihoods(-1, -1))
    assert measure(task(**CHOICE, metrics=["acc"]), [first, second])[0].values == (1, 0)


def test_a_problem_that_was_not_asked_is_not_right():
    asked = Response(problem=LONG, likelihoods=likelihoods(-3, -1, -2))
    (found,) = measure(task(**CHOICE, metrics=["acc"]), [asked, Response(problem=LONG, refused="too long")])
    assert found.values == (1, 0)
    with pytest.raises(DataError, match="has 2 likelihoods for 3 choices"):
        measure(task(**CHOICE, metrics=["acc"]), [Response(problem=LONG, likelihoods=likelihoods(-3, -1))])


def test_a_choice_answered_in_words_is_read_by_its_letter():
    responses = [said(LONG, "The answer is B."), said(LONG, "A"), said(LONG, "")]
    (found,) = measure(task(**CHOICE, metrics=["acc", "acc_norm"]), responses)
    assert (found.name, found.values) == ("acc", (1, 0, 0))


def test_targets():
    # 3 nats over 2 words and 7 bytes, 1 nat over 1 word and 3 bytes.
    problems = [Problem(id="0", input="", target="two cats"[:7]), Problem(id="1", input="", target="dog")]
    responses = [
        Response(problem=problem, likelihoods=likelihoods(-nats, greedy=nats == 1))
        for problem, nats in zip(problems, (3, 1), strict=True)
    ]
    names = ["perplexity", "word_perplexity", "byte_perplexity", "bits_per_byte", "greedy"]
    found = measure(task(output="perplexity", target="{{t}}", metrics=names), responses)
    assert figures(found) == pytest.approx(
        {
            "perplexity": math.exp(2),
            "word_perplexity": math.exp(4 / 3),
            "byte_perplexity": math.exp(0.4),
            "bits_per_byte": 4 / 10 / math.log(2),
            "greedy": 0.5,
        }
    )
    assert [one.more_is_better for one in found] == [False, False, False, False, True]


def test_texts_by_filters_and_scorers():
    metrics = [
        {"name": "strict", "filters": [{"regex": "#### (.*)"}], "score": {"kind": "match", "answer": "target"}},
        {"name": "value", "score": {"kind": "math", "answer": "target"}},
    ]
    problem = Problem(id="0", input="Q", target="7")
    responses = [
        said(problem, "#### 7"),
        said(problem, "it is 7.0"),
        said(problem, "8"),
        Response(problem=problem, refused="x"),
    ]
    found = measure(task(metrics=metrics), responses)
    assert {one.name: one.values for one in found} == {"strict": (1, 0, 0, 0), "value": (1, 1, 0, 0)}


def test_a_library_that_is_missing_is_said_before_anything_is_asked(monkeypatch: pytest.MonkeyPatch):
    metrics = [{"name": "bleu", "score": {"kind": "overlap", "measure": "bleu"}}, {"name": "mark", "score": "judge"}]
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"the measure bleu needs the package 'sacrebleu'.*dunwu\[metrics\]"):
        require_scorers(task(metrics=metrics))
    require_scorers(task(metrics=metrics[1:]))


def test_objections_count_where_they_apply():
    metrics = [{"name": of, "score": {"kind": "objection", "of": of}} for of in ("right", "wrong")]
    unsound = Problem(id="0", input="?", columns={"sound": False})
    sound = Problem(id="1", input="?", columns={"sound": True, "answer": "2"})
    right, wrong = measure(task(metrics=metrics), [said(unsound, "It has no eyes."), said(sound, "There are none.")])
    assert (right.figure, right.n, right.more_is_better) == (1, 1, True)
    assert (wrong.figure, wrong.n, wrong.more_is_better) == (1, 1, False)


def test_corpus_bleu_stands_beside_the_sentences(tmp_path: Path):
    sacrebleu = pytest.importorskip("sacrebleu")
    metrics = [{"name": "bleu", "score": {"kind": "overlap", "measure": "bleu", "answer": "target"}}]
    texts = [("the cat sat on the mat", "the cat sat on a mat"), ("it rains in the north", "it rains in the far north")]
    responses = [said(Problem(id=str(at), input="", target=gold), text) for at, (text, gold) in enumerate(texts)]
    (found,) = measure(task(metrics=metrics), responses)
    assert found.whole == pytest.approx(
        sacrebleu.corpus_bleu([text for text, _ in texts], [[gold for _, gold in texts]]).score / 100
    )
    assert found.whole != pytest.approx(found.figure)
