"""The page of an evaluation: what a model says stays text, and a metric that does not apply marks nothing as wrong."""

import math
import re

from dunwu.build.report_evaluation import evaluation_page
from dunwu.core.records import Score
from dunwu.evaluate.outcome import Answer, Figure, Outcome, Sample, TaskOutcome


def figure(name, n):
    return Figure(score=Score(name=name, value=0.5, low=0.4, high=0.6, n=n, unit="share"))


def sample(at, text, **values):
    return Sample(
        task="t",
        id=f"q{at}",
        input="<b>1+1?</b>",
        target="2",
        choices=(),
        right=None,
        subject="",
        group="",
        answers=(Answer(text=text),),
        values=values,
        weights=dict.fromkeys(values, 1.0),
    )


def page(samples):
    task = TaskOutcome(
        name="t",
        fingerprint="f",
        output="text",
        solver="chat",
        asked=2,
        total=2,
        groups=0,
        shots=0,
        samples=1,
        cut=1,
        dropped=0,
        refused=0,
        prompt="<i>",
        figures=(figure("some", 1), figure("all", 2)),
    )
    return evaluation_page(
        Outcome(model="<m>", identity="i", settings={"seed": 1}, tasks=(task,), dunwu="0", finished="", seconds=1),
        samples,
    )


def test_marks_are_those_of_the_metric_that_applies_to_all():
    shown = page([sample(1, "two", some=math.nan, all=1.0), sample(2, "three", some=1.0, all=0.0)])
    assert re.findall(r"<small>(q\d)</small>.*?outcome (good|bad)", shown) == [("q1", "good"), ("q2", "bad")]


def test_nothing_that_a_model_or_a_task_says_is_markup():
    shown = page([sample(1, "<script>alert(1)</script>\u202e", some=1.0, all=1.0)])
    for text in ("<b>1+1", "<script>alert", "<m>", "<i>", "\u202e"):
        assert text not in shown
    assert "&lt;script&gt;alert(1)&lt;/script&gt;⟨202E⟩" in shown
