"""An experiment's files hold its numbers, whatever its labels are."""

import csv
import json
import math

import numpy as np
import pytest

from dunwu.lab.experiment import Experiment, Figure, Line, Table, write_experiment

NASTY = '</script><img src=x onerror=alert(1)>", "=1+1\nnew line'


def experiment(**changed: object) -> Experiment:
    figure = Figure(
        name="loss",
        title=("Loss", "损失"),
        x_label=("step", "步"),
        y_label=("nats", "奈特"),
        lines=[
            Line(label=NASTY, x=[1, 10, 100], y=[3.0, math.nan, 0.1 + 0.2], low=[2, 1, 0.25], high=[4, 2, 0.35]),
            Line(label="numpy", x=np.array([1.0, 2.0]), y=np.array([np.float32(0.5), math.inf]), mark="points"),
        ],
        x_log=True,
    )
    table = Table(name="rows", title=("Rows", "各行"), columns=["what", "n"], rows=[[NASTY, 3], ["none", None]])
    given = {
        "name": "example",
        "title": ("An example", "示例"),
        "method": ("As follows.", "如下。"),
        "n": "3 runs",
        "seeds": [0, 1],
        "failure": ("No jump.", "没有跳变。"),
        "findings": [("It rises.", "上升。")],
        "figures": [figure],
        "tables": [table],
        "facts": {"jump": np.float64(2.5), "curve": np.arange(3), "none": math.nan, "deep": [{"n": np.int64(7)}]},
    }
    return Experiment(**{**given, **changed})


def test_csv_gives_every_point_back(tmp_path):
    write_experiment(experiment(), tmp_path)
    with (tmp_path / "loss.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["line"] for row in rows] == [NASTY] * 3 + ["numpy"] * 2
    assert [row["y"] for row in rows] == ["3.0", "", repr(0.1 + 0.2), "0.5", ""]
    assert [(row["low"], row["high"]) for row in rows][2:4] == [("0.25", "0.35"), ("", "")]
    with (tmp_path / "rows.csv").open(encoding="utf-8", newline="") as file:
        assert list(csv.reader(file)) == [["what", "n"], [NASTY, "3"], ["none", ""]]


def test_json_holds_all_that_was_said(tmp_path):
    write_experiment(experiment(), tmp_path)
    found = json.loads((tmp_path / "experiment.json").read_text("utf-8"))
    assert found["facts"] == {"jump": 2.5, "curve": [0, 1, 2], "none": None, "deep": [{"n": 7}]}
    assert found["figures"][0]["lines"][0]["label"] == NASTY
    assert found["figures"][0]["lines"][1]["y"] == [0.5, None]
    assert found["failure"] == ["No jump.", "没有跳变。"]


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Line(label="a", x=[1, 2], y=[1]), "one length"),
        (lambda: Line(label="a", x=[1], y=[1], low=[0]), "both low and high"),
        (lambda: Table(name="../x", title=("", ""), columns=[], rows=[]), "cannot name files"),
        (lambda: Table(name="x", title=("", ""), columns=["a"], rows=[[1, 2]]), "1 columns and a row of 2"),
        (lambda: experiment(tables=[Table(name="loss", title=("", ""), columns=[], rows=[])]), "name of two"),
    ],
)
def test_what_does_not_fit_together_is_refused(make, said):
    with pytest.raises(ValueError, match=said):
        make()
