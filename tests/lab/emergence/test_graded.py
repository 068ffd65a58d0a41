"""The same answers all or nothing and with partial credit; rare successes; a ladder of runs."""

import math

import pytest

from dunwu.core.errors import DataError
from dunwu.evaluate.outcome import Answer, Outcome, Sample, TaskOutcome
from dunwu.lab.emergence.graded import Run, edit_similarity, grades, ladder, rare_successes, tokens_of


def sample(answers, *, id="q", target="", choices=(), right=None, values=None, subject="", group=""):
    return Sample(
        task="exam",
        id=id,
        input="?",
        target=target,
        choices=choices,
        right=right,
        subject=subject,
        group=group,
        answers=tuple(answers),
        values=values or {},
        weights=dict.fromkeys(values or {}, 1.0),
    )


def texts(*said, **facts):
    return sample([Answer(text=one) for one in said], **facts)


def run(name, size, samples):
    task = TaskOutcome(
        name="exam", fingerprint="f", output="text", solver="chat", asked=len(samples), total=len(samples), groups=0, shots=0,
        samples=1, cut=0, dropped=0, refused=0, prompt="", figures=(),
    )  # fmt: skip
    outcome = Outcome(model=name, identity=name, settings={}, tasks=(task,), dunwu="1", finished="", seconds=0.0)
    return Run(name=name, size=size, outcome=outcome, samples=tuple(samples))


def test_tokens_are_words_digits_characters_and_signs():
    assert tokens_of("Ann has 12 个苹果.") == ["ann", "has", "1", "2", "个", "苹", "果", "."]


def test_edit_similarity_is_worked_by_hand():
    assert edit_similarity("1234", "1234") == 1.0
    assert edit_similarity("1239", "1234") == pytest.approx(0.75)  # one replaced of four
    assert edit_similarity("a b", "a b c d") == pytest.approx(0.5)  # two put in of four
    assert edit_similarity("", "a") == 0.0
    assert edit_similarity("", "") == 1.0


def test_a_text_is_judged_whole_and_in_part():
    found = grades(texts("16 are left.", target="22 less 6: 21, 20, 19, 18, 17, 16. 16 are left."))
    assert found == {"exact_match": 1.0, "edit_similarity": 1.0}  # what was concluded, without the steps
    found = grades(texts("15 are left.", target="15 and 1. 16 are left.", values={"right": 0.0}))
    assert found == {"right": 0.0, "exact_match": 0.0, "edit_similarity": pytest.approx(0.8)}


def test_choices_are_judged_by_the_odds_of_the_right_one():
    odds = [0.5, 0.3, 0.2]
    found = grades(sample([Answer(logprobs=tuple(math.log(p) - 7 for p in odds))], choices=("a", "b", "c"), right=1))
    assert found == {
        "acc": 0.0,
        "probability": pytest.approx(0.3),
        "brier": pytest.approx(0.5**2 + 0.7**2 + 0.2**2),
    }
    without = grades(sample([Answer(chosen=1)], choices=("a", "b"), right=1))
    assert without == {"acc": 1.0}


def test_several_answers_count_by_their_mean_and_pass_at_k_is_left_to_rare_successes():
    found = grades(texts("a b", "a c", target="a b", values={"right": 0.5, "right@2": 1.0, "objections": 0.3}))
    assert found == {"right": 0.5, "exact_match": 0.5, "edit_similarity": pytest.approx(0.75)}


def questions(right_of, *, draws=1, kinds=("x", "y")):
    """Of every kind ten questions; `right_of`: how many of the draws are right."""
    return [
        texts(
            *(["a b c d"] * right_of(kind) + ["a b c z"] * (draws - right_of(kind))),
            id=f"{kind}{number}",
            target="a b c d",
            subject=kind,
            values={"right": right_of(kind) / draws},
        )
        for kind in kinds
        for number in range(10)
    ]


def test_a_ladder_has_a_curve_for_each_kind_and_metric():
    runs = [run("large", 1e9, questions(lambda kind: 1)), run("small", 1e6, questions(lambda kind: int(kind == "y")))]
    curves = {(one.task, one.metric.name): one for one in ladder(runs).curves}
    assert curves["exam: x", "right"].x_R.tolist() == [1e6, 1e9]
    assert curves["exam: x", "right"].y_R.tolist() == [0.0, 1.0]
    assert curves["exam: x", "edit_similarity"].y_R.tolist() == [0.75, 1.0]
    assert curves["exam: y", "exact_match"].y_R.tolist() == [1.0, 1.0]
    assert curves["exam: x", "right"].series == "chat"
    assert curves["exam: x", "right"].error_R[0] > 0.05  # none of ten right is not certainly never


def test_runs_of_one_size_or_of_other_questions_are_no_ladder():
    one = questions(lambda kind: 1)
    with pytest.raises(DataError, match="all 2 runs are of one size"):
        ladder([run("a", 1e6, one), run("b", 1e6, one)])
    with pytest.raises(DataError, match="a and b were asked different questions of exam: x"):
        ladder([run("a", 1e6, one), run("b", 1e7, one[1:])])


def test_rare_successes_show_below_the_resolution_of_one_answer():
    none, rare = (run(name, size, questions(lambda kind, n=n: n, draws=16, kinds=("x",))) for name, size, n in (("none", 1e6, 0), ("rare", 1e7, 1)))  # fmt: skip
    first, second = rare_successes([rare, none])
    assert (first.name, first.rate.value, first.draws, first.resolution) == ("none", 0.0, 16, 1 / 16)
    assert 0 < first.rate.high < 0.05  # 160 draws without a success
    assert second.rate.value == pytest.approx(1 / 16)
    assert [second.passed[k].value for k in (1, 4, 16)] == pytest.approx([1 / 16, 4 / 16, 1.0])
    assert second.passed[4].low < 0.25 < second.passed[4].high


def test_one_answer_a_question_tells_nothing_of_rare_ones():
    assert rare_successes([run("a", 1e6, questions(lambda kind: 1))]) == []
