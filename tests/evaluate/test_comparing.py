"""Two runs compared: paired by question, corrected for the number of tasks, and refused where they are not alike."""

import dataclasses

import pytest

from dunwu.core.errors import DataError, RecipeError
from dunwu.core.records import Score
from dunwu.evaluate.comparing import compare
from dunwu.evaluate.outcome import Answer, Figure, Outcome, Sample, TaskOutcome
from dunwu.evaluate.stats import mcnemar_exact


def sample(task, place, right, **more):
    return Sample(
        task=task,
        id=f"q{place}",
        input=f"question {place}",
        target="yes",
        choices=(),
        right=None,
        subject=more.pop("subject", ""),
        group=more.pop("group", ""),
        answers=(Answer(text="yes" if right else "no"),),
        values={"exact": float(right)},
        weights={"exact": 1.0},
        **more,
    )


def outcome(model, samples, **more):
    tasks = []
    for name in dict.fromkeys(one.task for one in samples):
        own = [one.values["exact"] for one in samples if one.task == name]
        score = Score(name="exact", value=sum(own) / len(own), low=0, high=1, n=len(own), unit="share")
        settings = {"solver": "text", "shots": 0, "samples": 1} | more
        tasks.append(
            TaskOutcome(
                name=name,
                fingerprint="f",
                output="text",
                asked=len(own),
                total=len(own),
                groups=0,
                cut=0,
                dropped=0,
                refused=0,
                prompt="",
                figures=(Figure(score=score),),
                **settings,
            )
        )
    return Outcome(model=model, identity=model, settings={}, tasks=tuple(tasks), dunwu="0", finished="", seconds=0)


def compared(before, after, **more):
    return compare(outcome("a", before), outcome("b", after, **more), before, after)


def run(task, outcomes, **more):
    return [sample(task, place, right, **more) for place, right in enumerate(outcomes)]


def test_a_clear_gain_is_told_with_its_interval_and_power():
    before = run("sums", [1] * 50 + [0] * 50)
    after = run("sums", [0] * 2 + [1] * 68 + [0] * 30)
    (task,) = compared(before, after).tasks
    change = task.main
    assert (change.before, change.after) == (0.5, 0.68)
    assert change.difference.value == pytest.approx(0.18)
    assert (change.gained, change.lost, change.changed) == (20, 2, 0.22)
    assert change.difference.p_value == pytest.approx(mcnemar_exact(20, 2))
    assert change.verdict == "better"
    assert 20 < change.needed < 100
    assert 0.1 < change.smallest < 0.2
    assert [(turned.before.id, turned.after.values["exact"]) for turned in task.turned[:3]] == [
        ("q0", 0.0),
        ("q1", 0.0),
        ("q50", 1.0),
    ]


def test_questions_are_paired_by_id_whatever_their_order_and_number():
    before = run("sums", [1, 0, 1, 0, 1, 1])
    after = [*reversed(run("sums", [0, 0, 1, 0])), sample("sums", 99, 1)]
    (task,) = compared(before, after).tasks
    assert (task.shared, task.only_before, task.only_after) == (4, 2, 1)
    assert (task.main.gained, task.main.lost) == (0, 1)


def test_many_tasks_make_a_chance_finding_no_finding():
    names = [f"t{place}" for place in range(10)]
    before, after = [], []
    for name in names:
        turned = 7 if name == "t0" else 0  # p = .0156 by itself, .156 of ten
        before += run(name, [0] * 20)
        after += run(name, [1] * turned + [0] * (20 - turned))
    found = compared(before, after).tasks
    assert found[0].main.difference.p_value == pytest.approx(2 / 2**7)
    assert found[0].main.holm == pytest.approx(20 / 2**7)
    assert found[0].main.verdict == "same"
    alone = compared([one for one in before if one.task == "t0"], [one for one in after if one.task == "t0"])
    assert alone.tasks[0].main.verdict == "better"


def test_another_metric_decides_and_less_may_be_better():
    def objecting(model, outcomes):
        samples = [
            dataclasses.replace(one, values={"exact": 1.0, "wrong_objections": float(place in outcomes)})
            for place, one in enumerate(run("sums", [1] * 100))
        ]
        whole = outcome(model, samples)
        share = Score(name="wrong_objections", value=0.0, low=0, high=1, n=100, unit="share")
        figures = (*whole.tasks[0].figures, Figure(score=share, more_is_better=False))
        return dataclasses.replace(whole, tasks=(dataclasses.replace(whole.tasks[0], figures=figures),)), samples

    (before, first), (after, second) = objecting("a", range(20)), objecting("b", range(18, 22))
    (task,) = compare(before, after, first, second, metric="wrong_objections").tasks
    assert (task.main.name, [one.name for one in task.others]) == ("wrong_objections", ["exact"])
    assert (task.main.gained, task.main.lost, task.main.verdict) == (18, 2, "better")  # fewer objections
    assert len(task.turned) == 20
    (usual,) = compare(before, after, first, second).tasks
    assert (usual.main.name, usual.main.difference.value) == ("exact", 0.0)
    with pytest.raises(RecipeError, match=r"scored by 'exakt'; did you mean exact\? There are exact, wrong_objections"):
        compare(before, after, first, second, metric="exakt")


def test_subjects_are_told_apart():
    before = run("sums", [0] * 30, subject="easy") + [sample("sums", 100 + at, 1, subject="hard") for at in range(30)]
    after = run("sums", [1] * 30, subject="easy") + [sample("sums", 100 + at, 1, subject="hard") for at in range(30)]
    (task,) = compared(before, after).tasks
    assert [(change.name, change.verdict) for change in task.subjects] == [("easy", "better"), ("hard", "same")]


def test_clusters_need_more_questions():
    before = [sample("sums", at, 0, group=str(at // 10)) for at in range(200)]
    after = [sample("sums", at, at // 10 % 3 == 0, group=str(at // 10)) for at in range(200)]
    single = (
        [dataclasses.replace(one, group="") for one in before],
        [dataclasses.replace(one, group="") for one in after],
    )
    (clustered,), (plain,) = compared(before, after).tasks, compared(*single).tasks
    assert clustered.main.needed > 5 * plain.main.needed
    assert clustered.main.difference.p_value > plain.main.difference.p_value


def test_what_else_differs_is_said():
    rows = run("sums", [1, 0, 1])
    (task,) = compared(rows, rows, solver="chat: cot", shots=5).tasks
    assert task.remarks == ("solver: text → chat: cot", "shots: 0 → 5")
    assert task.main.verdict == "same"


def test_runs_that_cannot_be_compared_are_refused():
    with pytest.raises(DataError, match="share no task: one has sums, the other products"):
        compared(run("sums", [1]), run("products", [1]))
    with pytest.raises(DataError, match="asked different questions"):
        compared(run("sums", [1]), [sample("sums", 5, 1)])
    with pytest.raises(DataError, match="worded differently, such as 'q0'"):
        compared(run("sums", [1]), [dataclasses.replace(sample("sums", 0, 1), input="another")])
    only_before = compared(run("sums", [1]) + run("b", [1]), run("sums", [1]) + run("c", [1]))
    assert (only_before.only_before, only_before.only_after) == (("b",), ("c",))
