"""Power laws, parabolas, envelopes and repeated text: what made the points is found again; what cannot tell is refused."""

import itertools
import json

import numpy as np
import pytest

from dunwu.cli import run
from dunwu.core.errors import DataError
from dunwu.core.files import read_json
from dunwu.core.progress import SilentProgress
from dunwu.lab.scaling.envelope import Curve, fit_envelope, frontier_of
from dunwu.lab.scaling.isoflop import fit_isoflop, groups_of
from dunwu.lab.scaling.parametric import Law
from dunwu.lab.scaling.points import Points, read_pairs
from dunwu.lab.scaling.power import fit_power
from dunwu.lab.scaling.repeated import Repeated, effective, fit_repeated, size_for

pytest.importorskip("scipy")
TRUE = Law(A=400.0, B=1800.0, E=1.7, alpha=0.34, beta=0.36, objective=0.0)
X = np.geomspace(1e18, 1e22, 12)


def points(size, tokens, loss, **more):
    return Points(
        size_R=np.asarray(size),
        tokens_R=np.asarray(tokens),
        loss_R=np.asarray(loss),
        places=tuple(f"row {n}" for n in range(len(size))),
        **more,
    )


class TestPower:
    def test_the_law_that_made_the_points_is_found(self):
        floored = fit_power(X, 1.7 + 1000 * X**-0.2, floor=True, resamples=20)
        assert (floored.law.A, floored.law.alpha, floored.law.E) == pytest.approx((1000, 0.2, 1.7), rel=1e-5)
        plain = fit_power(X, 5 * X**-0.05, floor=False, resamples=20)
        assert (plain.law.A, plain.law.alpha, plain.law.E) == pytest.approx((5, 0.05, 0))
        stated = fit_power(X, 1.7 + 1000 * X**-0.2, floor=1.7, resamples=20)
        assert (stated.law.A, stated.law.alpha) == pytest.approx((1000, 0.2), rel=1e-5)

    def test_two_points_a_decade_apart_by_hand(self):
        """Losses 4, 2, 1 at 1, 10, 100: halved by each decade, so α = log10 2 and A = 4."""
        law = fit_power(np.array([1.0, 10.0, 100.0]), np.array([4.0, 2.0, 1.0]), floor=False, resamples=20).law
        assert (law.alpha, law.A) == pytest.approx((np.log10(2), 4.0))

    def test_what_grows_has_a_negative_exponent(self):
        law = fit_power(X, 3e-9 * X**0.5, floor=False, resamples=20).law
        assert law.alpha == pytest.approx(-0.5)

    def test_with_noise_the_interval_holds_the_truth_and_the_floor_forecasts_better(self):
        y = (1.7 + 1000 * X**-0.2) * np.exp(0.002 * np.random.default_rng(0).normal(size=12))
        floored = fit_power(X, y, floor=True, resamples=60)
        low, high = np.quantile([draw.alpha for draw in floored.draws], [0.025, 0.975])
        assert low < 0.2 < high
        assert floored.held_out < 0.01 < fit_power(X, y, floor=False, resamples=20).held_out

    def test_a_row_that_is_off_moves_the_fit_most(self):
        y = 5 * X**-0.05 * np.exp(0.001 * np.random.default_rng(1).normal(size=12))
        y[-1] *= 1.05
        fit = fit_power(X, y, floor=False, resamples=40)
        assert np.abs(fit.residual_R).argmax() == 11

    @pytest.mark.parametrize(
        ("x", "y", "said"),
        [
            ([1, 2, 3], [3, 2, 1], "3 rows cannot tell 3 parameters"),
            ([1, 1, 2, 2], [3, 3, 2, 2], "only 2 different x"),
            ([1, 2, 3, 4], [3, 2, 1, 0], "y = 0: a power law is of values above 0"),
        ],
    )
    def test_rows_that_cannot_tell_are_refused(self, x, y, said):
        with pytest.raises(DataError, match=said):
            fit_power(np.array(x, float), np.array(y, float), floor=True, resamples=20)

    def test_a_floor_above_the_losses_is_refused(self):
        with pytest.raises(DataError, match=r"y = 1.99\d* is not above the floor 2 \(\d+ such rows\)"):
            fit_power(X, np.linspace(2.5, 1.99, 12), floor=2.0, resamples=20)

    def test_any_two_columns_are_read(self, tmp_path):
        file = tmp_path / "t.csv"
        file.write_text("steps,err\n1k,0.5\n10k,nan\n1M,0.125\n")
        pairs = read_pairs(file, {"x": "steps", "y": "err"})
        assert pairs.x_R.tolist() == [1e3, 1e6]
        assert pairs.y_R.tolist() == [0.5, 0.125]
        assert "left out 1 rows" in pairs.said[-1]


def parabolas(noise=0.0, a=0.5, seed=0, computes=(1e18, 1e19, 1e20, 1e21)):
    """Losses that are parabolas of log size, lowest at 0.1 · compute^a."""
    random, size, tokens, loss = np.random.default_rng(seed), [], [], []
    for flops in computes:
        best = 0.1 * flops**a
        for factor in (0.25, 0.5, 0.9, 1.7, 3.0, 5.0):
            size.append(best * factor)
            tokens.append(flops / 6 / size[-1])
            loss.append(2 + flops**-0.05 + 0.03 * np.log(factor) ** 2 + noise * random.normal())
    return points(size, tokens, loss)


class TestIsoFlop:
    def test_the_exponent_and_the_lowest_points_are_found(self):
        fit = fit_isoflop(parabolas(a=0.46), resamples=20)
        assert fit.a == pytest.approx(0.46)
        assert [np.exp(one.log_best) for one in fit.groups] == pytest.approx(
            [0.1 * c**0.46 for c in (1e18, 1e19, 1e20, 1e21)]
        )
        assert fit.groups[0].best_loss == pytest.approx(2 + 1e18**-0.05)
        assert fit.best_size(1e23)[0] == pytest.approx(0.1 * 1e23**0.46)

    def test_a_parabola_by_hand(self):
        """Losses 3, 2, 3, 6 at sizes e^-1, 1, e, e²: (log size)² + 2, lowest at 1, where it is 2."""
        size = np.exp([-1.0, 0.0, 1.0, 2.0, -1.0, 0.0, 1.0, 2.0])
        flops = np.repeat([6.0, 600.0], 4)
        fit = fit_isoflop(points(size, flops / 6 / size, [3, 2, 3, 6] * 2), resamples=20)
        assert [one.log_best for one in fit.groups] == pytest.approx([0, 0], abs=1e-12)
        assert [one.best_loss for one in fit.groups] == pytest.approx([2, 2])
        assert fit.a == pytest.approx(0, abs=1e-12)

    def test_with_noise_the_interval_holds_the_exponent(self):
        fit = fit_isoflop(parabolas(noise=0.004), resamples=200)
        low, high = np.quantile(fit.draws_a, [0.025, 0.975])
        assert low < 0.5 < high
        assert high - low < 0.2

    def test_groups_are_found_or_given(self):
        assert [len(group) for group in groups_of(parabolas())] == [6] * 4
        known = parabolas(computes=(1e19, 1.05e19))
        assert len(groups_of(known)) == 1
        given = points(known.size_R, known.tokens_R, known.loss_R, groups=("a",) * 6 + ("b",) * 6)
        assert [len(group) for group in groups_of(given)] == [6, 6]

    def test_a_group_without_a_lowest_point_inside_is_left_out_and_told(self):
        known = parabolas()
        loss = known.loss_R.copy()
        loss[-6:] = 2 - 0.1 * np.arange(6)
        fit = fit_isoflop(points(known.size_R, known.tokens_R, loss), resamples=20)
        assert (len(fit.groups), len(fit.skipped)) == (3, 1)
        assert fit.a == pytest.approx(0.5)

    @pytest.mark.parametrize(
        "known", [parabolas(computes=(1e20,)), points([1e8] * 8, np.geomspace(1e9, 2e9, 8), [3.0] * 8)]
    )
    def test_one_compute_or_one_size_is_refused(self, known):
        with pytest.raises(DataError, match=r"of which [01] have a lowest point inside; two are needed"):
            fit_isoflop(known, resamples=20)


SIZES = tuple(np.geomspace(1e7, 1e10, 9))


def curves(sizes=SIZES, noise=0.0):
    rows = np.array(list(itertools.product(sizes, np.geomspace(1e8, 1e12, 40))))
    random = np.random.default_rng(0)
    return points(rows[:, 0], rows[:, 1], TRUE.loss(rows[:, 0], rows[:, 1]) + noise * random.normal(size=len(rows)))


class TestEnvelope:
    def test_the_exponent_of_the_law_behind_the_curves_is_found(self):
        fit = fit_envelope(curves(), resamples=60)
        assert fit.a == pytest.approx(TRUE.a, abs=0.03)
        low, high = np.quantile(fit.draws[:, 0], [0.025, 0.975])
        assert low < TRUE.a < high

    def test_two_straight_curves_cross_where_they_should(self):
        """In log compute 0 to 10: one falls from 10 to 0, the other stands at 4. Up to 6 the second is the best."""
        falling = Curve(run="f", size=2.0, log_flops=np.array([0.0, 10.0]), loss=np.array([10.0, 0.0]))
        level = Curve(run="l", size=1.0, log_flops=np.array([0.0, 10.0]), loss=np.array([4.0, 4.0]))
        frontier = frontier_of([falling, level], computes=11)
        assert frontier.size[:6].tolist() == [1.0] * 6
        assert frontier.size[7:].tolist() == [2.0] * 4
        assert frontier.loss.tolist() == pytest.approx([4, 4, 4, 4, 4, 4, 4, 3, 2, 1, 0])

    def test_runs_of_one_size_or_of_two_are_refused(self):
        with pytest.raises(DataError, match="2 curves of 2 sizes with 3 rows or more; the envelope needs three"):
            fit_envelope(curves(sizes=(1e8, 1e9)))

    def test_a_run_is_one_model(self):
        known = points([1e8, 1e9, 1e9], [1e9, 2e9, 3e9], [3, 2.9, 2.8], runs=("a", "a", "a"))
        with pytest.raises(DataError, match=r"run 'a' has sizes 1e\+08 and 1e\+09"):
            fit_envelope(known)


def repeats(noise=0.0, data=15.4, parameters=5.3, epochs=(1, 2, 4, 8, 16, 40)):
    rows = np.array(list(itertools.product([1e7, 5e7, 2e8, 1e9], [2e8, 1e9], epochs)))
    size, unique, tokens = rows[:, 0], rows[:, 1], rows[:, 1] * rows[:, 2]
    loss = Repeated(law=TRUE, data=data, parameters=parameters).loss(size, tokens, unique)
    return points(size, tokens, loss * np.exp(noise * np.random.default_rng(2).normal(size=len(size))), unique_R=unique)


class TestRepeated:
    def test_what_made_the_points_is_found(self):
        fit = fit_repeated(repeats(), resamples=20, progress=SilentProgress())
        assert (fit.found.data, fit.found.parameters) == pytest.approx((15.4, 5.3), rel=1e-3)
        assert (fit.found.law.E, fit.found.law.alpha, fit.found.law.beta) == pytest.approx((1.7, 0.34, 0.36), rel=1e-3)
        assert fit.plain > 0.02

    def test_with_noise_the_interval_holds_the_truth(self):
        fit = fit_repeated(repeats(noise=0.003), resamples=40, progress=SilentProgress())
        low, high = np.quantile([draw.data for draw in fit.draws], [0.025, 0.975])
        assert low < 15.4 < high

    def test_effective_tokens_by_hand(self):
        """100 tokens read four times, R* = 3: 100 + 100 · 3 · (1 - e^-1) = 289.6. Read once: 100. Half of them read: 50."""
        assert effective(np.array([400.0, 100.0, 50.0]), np.array([100.0] * 3), 3.0).tolist() == pytest.approx(
            [289.636, 100, 50], abs=1e-3
        )
        found = Repeated(law=TRUE, data=3.0, parameters=float("inf"))
        assert found.worth(1) == 1
        assert found.worth(4) == pytest.approx(np.exp(-1))
        assert found.worth(found.epochs_until(0.5)) == pytest.approx(0.5)

    def test_the_size_for_some_tokens_is_where_their_compute_is_best_spent(self):
        size = float(size_for(TRUE, np.array(1e10)))
        assert TRUE.best_size(6 * size * 1e10) == pytest.approx(size)

    @pytest.mark.parametrize(
        ("known", "said"),
        [
            (repeats(epochs=(1,)), "0 runs read their text more than once"),
            (curves(), "no column tells the unique tokens or the epochs"),
        ],
    )
    def test_tables_that_tell_nothing_of_repeats_are_refused(self, known, said):
        with pytest.raises(DataError, match=said):
            fit_repeated(known, resamples=20, progress=SilentProgress())


@pytest.mark.parametrize(
    ("form", "known", "named", "figures"),
    [
        ("isoflop", parabolas(noise=0.003), "best size ∝ compute^a, a = 0.", ("parabolas", "best_size", "residuals")),
        ("envelope", curves(), "best size ∝ compute^a, a = 0.", ("curves", "best_size")),
        ("power", points(X / 6e9, np.full(12, 1e9), 1.7 + 1000 * X**-0.2), "with floor: alpha 0.2 [", ("power", "residuals")),
        ("repeated", repeats(noise=0.002), "worth half a fresh one after", ("worth", "residuals")),
    ],
)  # fmt: skip
def test_each_form_prints_and_writes_its_page(tmp_path, capsys, form, known, named, figures):
    pytest.importorskip("matplotlib")
    unique = known.unique_R if known.unique_R is not None else known.tokens_R
    rows = zip(known.size_R, known.tokens_R, unique, known.loss_R, strict=True)
    file, out = tmp_path / "runs.csv", tmp_path / "page"
    file.write_text(
        "params,tokens,unique,loss\n" + "".join(f"{n:.17g},{d:.17g},{u:.17g},{y:.17g}\n" for n, d, u, y in rows)
    )
    arguments = ["lab", "scaling", str(file), "--form", form, "--resamples", "20"]
    assert run([*arguments, "--out", str(out), "--json"]) == 0
    for figure in figures:
        assert (out / f"{figure}.csv").is_file()
        assert (out / f"{figure}.svg").is_file()
    assert "<html" in (out / "index.html").read_text("utf-8")
    written = read_json(out / "experiment.json")
    assert json.loads(capsys.readouterr().out) == written["facts"]
    assert any(named in english for english, _ in written["findings"])


def test_a_floor_is_only_for_forms_that_have_one(tmp_path, capsys):
    assert run(["lab", "scaling", str(tmp_path / "no.csv"), "--form", "isoflop", "--floor", "1.5"]) == 2
    assert "a floor can be stated for parametric and power" in capsys.readouterr().err
