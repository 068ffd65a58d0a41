"""Tasks forecast in two steps, and from public scores: what made the numbers is found again; held-out models are forecast."""

import itertools

import numpy as np
import pytest

from dunwu.cli import run
from dunwu.core.errors import DataError
from dunwu.core.files import read_json
from dunwu.lab.scaling.downstream import (
    Forecast,
    Run,
    Sigmoid,
    accuracy_forecast,
    fit_downstream,
    held_out,
    loss_forecast,
    widening,
)
from dunwu.lab.scaling.observed import Models, components_of, fit_observed
from dunwu.lab.scaling.parametric import Law
from dunwu.lab.scaling.task_tables import read_models, read_task_runs

pytest.importorskip("scipy")
LAW = Law(A=20.0, B=45.0, E=0.5, alpha=0.23, beta=0.24, objective=0.0)
CURVE = Sigmoid(floor=0.25, k=10.0, middle=0.8)
SIZES = (2e8, 4e8, 8e8, 1.3e9)


def ladder(noise=0.0, sizes=SIZES, times=(20, 40, 100, 200), seed=0):
    random, found = np.random.default_rng(seed), []
    for size, ratio in itertools.product(sizes, times):
        tokens = size * ratio * np.linspace(0.05, 1, 12)
        loss = LAW.loss(size, tokens) * np.exp(noise * random.normal() + 0.2 * noise * random.normal(size=12))
        accuracy = CURVE.at(loss) + noise * random.normal(size=12)
        tokens[-3:] = size * ratio  # the end is one loss: what is recovered is exact
        if noise == 0:
            loss = LAW.loss(size, tokens)
            accuracy = CURVE.at(loss)
        found.append(Run(name=f"{size:g} {ratio}", size=size, tokens=tokens, loss=loss, accuracy=accuracy))
    return found


def test_the_law_and_the_curve_that_made_the_rows_are_found():
    fit = fit_downstream(ladder(), resamples=5)
    assert (fit.law.E, fit.law.alpha, fit.law.beta) == pytest.approx((0.5, 0.23, 0.24), rel=1e-3)
    assert (fit.curve.floor, fit.curve.k, fit.curve.middle) == pytest.approx((0.25, 10, 0.8), rel=1e-3)
    truth = float(LAW.loss(7e9, 4e12))
    assert loss_forecast(fit, 7e9, 4e12).value == pytest.approx(truth, rel=1e-4)
    assert accuracy_forecast(fit, 7e9, 4e12).value == pytest.approx(float(CURVE.at(truth)), rel=1e-3)


def test_a_sigmoid_by_hand():
    """At its middle half way from the floor to 1; with no loss nearly all is right."""
    assert float(CURVE.at(0.8)) == 0.625
    assert float(CURVE.at(0.0)) == pytest.approx(1, abs=3e-4)


def test_the_largest_size_is_forecast_from_the_others_within_intervals():
    runs = ladder(noise=0.003)
    left = np.array([one.size == SIZES[-1] for one in runs])
    checked = held_out(runs, left, resamples=30)
    assert [one.name for one, _, _ in checked] == [one.name for one in runs if one.size == SIZES[-1]]
    for one, loss, accuracy in checked:
        assert loss.value == pytest.approx(one.end[1], rel=0.02)
        assert accuracy.value == pytest.approx(one.accuracy[-3:].mean(), abs=0.03)


def test_errors_are_counted_in_standard_errors_and_stretch_intervals():
    one = Forecast(value=1.0, draws=np.linspace(0.8, 1.4, 1001))
    low, high = one.interval()
    assert (low, high) == pytest.approx((0.815, 1.385))
    assert one.errors_off(high) == pytest.approx(1.96, abs=1e-3)
    assert one.errors_off(1 - 2 * (1 - low)) == pytest.approx(2 * 1.96, abs=1e-3)
    assert one.interval(2.0) == pytest.approx((0.63, 1.77))
    assert widening([3.0, 4.0]) == pytest.approx(np.sqrt(12.5))
    assert widening([0.5]) == widening([]) == 1.0


@pytest.mark.parametrize(
    ("runs", "said"),
    [
        (ladder(sizes=(1e9,)), "4 finished runs cannot tell the 5 parameters"),
        (ladder(sizes=(1e9,), times=(1, 2, 3, 4, 5, 6)), "all runs have one size"),
        ([Run(name="a", size=s, tokens=np.array([1e9]), loss=np.array([1.0]), accuracy=np.array([45.0])) for s in (1, 2, 3, 4, 5, 6)], "all runs have one number of tokens"),
        ([Run(name="a", size=s, tokens=np.array([s * 1e9]), loss=np.array([1.0]), accuracy=np.array([45.0])) for s in (1, 2, 3, 4, 5, 6)], "accuracies are shares from 0 to 1: divide per cent by 100"),
        ([Run(name="a", size=s, tokens=np.array([s * 1e9]), loss=np.array([0.0]), accuracy=None) for s in (1, 2, 3, 4, 5, 6)], "has a task loss of 0"),
    ],
)  # fmt: skip
def test_runs_that_cannot_tell_are_refused(runs, said):
    with pytest.raises(DataError, match=said):
        fit_downstream(runs, resamples=5)


def test_the_command_forecasts_tasks_of_a_table(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    file, out = tmp_path / "ladder.csv", tmp_path / "page"
    lines = ["task,run,params,tokens,bpb,acc"]
    for one in ladder(noise=0.002):
        lines += [f"quiz,{one.name},{one.size / 1e6:g}M,{t:.8g},{y:.8g},{a:.8g}" for t, y, a in zip(one.tokens, one.loss, one.accuracy, strict=True)]  # fmt: skip
    file.write_text("\n".join([*lines, "quiz,1,1B,1e9,nan,nan"]) + "\n")
    assert run(["lab", "downstream", str(file), "--target", "7B,4T", "--resamples", "20", "--out", str(out)]) == 0
    assert "quiz, 7B,4T: task loss 0.6" in capsys.readouterr().out
    facts = read_json(out / "experiment.json")["facts"]
    told = facts["tasks"]["quiz"]["targets"]["7B,4T"]["accuracy"]
    assert told["low"] < float(CURVE.at(float(LAW.loss(7e9, 4e12)))) < told["high"]
    assert facts["tasks"]["quiz"]["held_out"] == 4
    assert any("left out 1 rows" in note for note in facts["notes"])
    assert run(["lab", "downstream", str(file), "--target", "7B"]) == 2
    assert "must be parameters and tokens, such as 7B,4T" in capsys.readouterr().err


def test_rows_of_a_run_with_and_without_accuracy_are_refused(tmp_path):
    file = tmp_path / "t.csv"
    file.write_text("run,N,D,bpb,acc\na,1B,1B,1.0,0.5\na,1B,2B,0.9,\n")
    with pytest.raises(DataError, match="run 'a' has rows with and without accuracy"):
        read_task_runs(file, {})
    file.write_text("run,D,bpb,acc\na,1B,1.0,0.5\n")
    with pytest.raises(DataError, match="no column for size"):
        read_task_runs(file, {})


def models(count=40, seed=0, noise=0.005):
    """Scores that follow one capability, which grows with log FLOPs at a rate of each family; the target is a sigmoid of it."""
    random = np.random.default_rng(seed)
    families = np.array([f"family {n % 5}" for n in range(count)])
    log_flops = random.uniform(20, 24, count)
    ability = 0.2 * (log_flops - 22) + np.array([0.1 * (n % 5 - 2) for n in range(count)])
    loads = np.array([0.5, 0.4, 0.3, 0.45])
    scores = 0.5 + ability[:, None] * loads + noise * random.normal(size=(count, 4))
    return Models(
        names=tuple(f"m{n}" for n in range(count)),
        families=tuple(families),
        flops_M=10**log_flops,
        scores_MK=scores,
        score_names=("a", "b", "c", "d"),
        target_M=1 / (1 + np.exp(-8 * ability)),
    )


def test_components_are_those_of_an_eigendecomposition_and_fill_gaps():
    known = models()
    found = components_of(known.scores_MK, 2)
    values, vectors = np.linalg.eigh(np.cov(known.scores_MK.T))
    assert found.share_S == pytest.approx(values[::-1][:2] / values.sum())
    assert abs(found.weights_SK[0] @ vectors[:, -1]) == pytest.approx(1)
    assert found.weights_SK[0].sum() > 0
    holes = known.scores_MK.copy()
    holes[3, 1] = holes[7, 2] = np.nan
    filled = components_of(holes, 1).filled_MK
    assert filled[[3, 7], [1, 2]] == pytest.approx(known.scores_MK[[3, 7], [1, 2]], abs=0.02)


def test_larger_models_are_forecast_from_smaller_ones_better_than_by_flops():
    known = models()
    fit = fit_observed(known, below=10**22.5, components=1, resamples=30)
    assert fit.error(fit.forecast_M, fitted=False) < 0.03
    assert fit.error(fit.forecast_M, fitted=False) < 0.5 * fit.error(fit.by_flops_M, fitted=False)
    inside, out = fit.covered
    assert inside >= 0.8 * out
    assert [line.family for line in fit.lines] == [f"family {n}" for n in range(5)]
    for line in fit.lines:
        assert line.slope == pytest.approx(0.2 * np.linalg.norm([0.5, 0.4, 0.3, 0.45]), rel=0.15)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"below": 1e20}, "0 models below 1e.20 FLOPs cannot tell"),
        ({"components": 5}, "4 scores have no 5 components"),
    ],
)
def test_models_that_cannot_tell_are_refused(change, said):
    with pytest.raises(DataError, match=said):
        fit_observed(models(), **change)


def test_scores_of_a_second_table_are_joined_and_units_of_flops_read(tmp_path, capsys):
    known = models(30)
    tasks, scores = tmp_path / "tasks.csv", tmp_path / "scores.csv"
    rows = [
        f"{n},{f},{c / 1e21:.6g},{t:.6g}"
        for n, f, c, t in zip(known.names, known.families, known.flops_M, known.target_M, strict=True)
    ]
    tasks.write_text("Model,Model Family,FLOPs (1E21),quiz\n" + "\n".join(rows) + "\n")
    scores.write_text(
        "Model,a,b,c,d\n"
        + "\n".join(
            f"{n},{','.join(f'{x:.6g}' for x in row)}"
            for n, row in zip(known.names[:-1], known.scores_MK, strict=False)
        )
        + "\n"
    )
    read = read_models(tasks, "quiz", ["a", "b"], {}, scores)
    assert len(read) == 29
    assert read.flops_M == pytest.approx(known.flops_M[:-1], rel=1e-4)
    assert read.said == ("left out 1 models without the target or without any score",)
    arguments = ["lab", "observe", str(tasks), "--target", "quiz", "--score-table", str(scores), "--resamples", "20"]
    assert run([*arguments, "--scores", "a,b,c,d", "--components", "1", "--below", "3e22"]) == 0
    assert "inside of their 95% intervals" in capsys.readouterr().out
    assert run([*arguments, "--scores", "a,e"]) == 2
    assert "no column 'e' for a score; it has Model, a, b, c, d" in capsys.readouterr().err
