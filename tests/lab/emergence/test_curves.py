"""Tables of scores as people write them."""

import gzip

import numpy as np
import pytest

from dunwu.core.errors import DataError
from dunwu.lab.emergence.curves import questions_of, read_scores
from dunwu.lab.emergence.metrics import metric_of, split_name

LONG = "size,task,metric,value\n70m,cloze,acc,0.2\n1.3B,cloze,acc,0.6\n410m,cloze,acc,0.4\n70m,cloze,ppl,100\n410m,cloze,ppl,20\n1.3B,cloze,ppl,10\n"


@pytest.fixture
def table(tmp_path):
    def write(text, name="scores.csv"):
        path = tmp_path / name
        path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
        return path

    return write


@pytest.mark.parametrize("name", ["scores.csv", "scores.csv.gz", "scores.tsv", "scores.tsv.gz"])
def test_a_long_table_gives_a_curve_for_each_task_and_metric_in_the_order_of_sizes(table, name):
    text = LONG.replace(",", "\t") if "tsv" in name else LONG
    accuracy, perplexity = read_scores(table(text, name)).curves
    assert (accuracy.task, accuracy.metric.name, accuracy.axis) == ("cloze", "acc", "size")
    assert accuracy.x_R.tolist() == [7e7, 4.1e8, 1.3e9]
    assert accuracy.y_R.tolist() == [0.2, 0.4, 0.6]
    assert perplexity.judged_R.tolist() == pytest.approx([-np.log(100), -np.log(20), -np.log(10)])


def test_a_wide_table_gives_a_curve_for_each_column_of_scores(table):
    text = "Model,Family,Model Size (B),FLOPs (1E21),Pretraining Data Size (T),sums_acc,words_exact_match\na,x,7,84,2,0.5,0.1\nb,x,0.41,0.5,2,0.25,\nc,y,70.0,840,2,0.9,0.4\n"
    by_size = read_scores(table(text))
    assert [(one.task, one.metric.name) for one in by_size.curves] == [("sums", "acc"), ("words", "exact_match")]
    assert by_size.curves[0].x_R.tolist() == pytest.approx([4.1e8, 7e9, 7e10])
    assert by_size.curves[0].names == ("b", "a", "c")
    assert by_size.curves[1].y_R.tolist() == [0.1, 0.4]
    assert by_size.said[-1] == "left out what has no finite score or size above 0, in lines 3"
    by_compute = read_scores(table(text), by="flops")
    assert by_compute.curves[0].x_R.tolist() == pytest.approx([5e20, 8.4e22, 8.4e23])


def test_by_size_the_last_step_counts_and_by_step_each_size_has_a_curve(table):
    rows = [f"{size},{step},cloze,acc,{score}" for size, scores in (("70m", (0.1, 0.2, 0.3)), ("1b", (0.1, 0.4, 0.8))) for step, score in zip((0, 10, 100), scores, strict=True)]  # fmt: skip
    path = table("\n".join(["size,step,task,metric,value", *rows]))
    last = read_scores(path)
    assert last.curves[0].y_R.tolist() == [0.3, 0.8]
    assert "only the last step, 100" in last.said
    small, large = read_scores(path, by="step").curves
    assert (small.series, large.series) == ("70m", "1b")
    assert large.x_R.tolist() == [10.0, 100.0]  # step 0 has no place on a logarithmic axis


def test_models_of_one_size_are_one_step_of_the_ladder(table):
    (curve,) = read_scores(table("size,sums_acc\n1B,0.2\n1B,0.4\n2B,0.6\n")).curves
    assert curve.y_R.tolist() == [0.2, 0.4, 0.6]
    assert curve.ladder_R.tolist() == pytest.approx([0.3, 0.6])


def test_other_columns_are_named(table):
    (curve,) = read_scores(table("who,big,points\na,1B,0.5\nb,2B,0.7\n"), {"size": "big", "value": "points"}).curves
    assert curve.x_R.tolist() == [1e9, 2e9]


def test_shares_tell_of_how_many_questions_they_are():
    assert questions_of(np.array([251 / 1172, 300 / 1172])) == 1172
    assert questions_of(np.array([0.5, 1 / 3])) == 6
    assert questions_of(np.array([0.1234567890123])) is None


def test_the_sampling_error_follows_from_that_number_and_is_none_where_nothing_tells_it(table):
    (curve,) = read_scores(table(f"size,sums_acc\n1B,{3 / 7}\n2B,{5 / 7}\n3B,0\n")).curves
    assert curve.questions == 7
    p = (3 + 0.5) / 8
    assert curve.error_R[0] == pytest.approx((p * (1 - p) / 7) ** 0.5)
    assert curve.error_R[2] > 0
    (curve,) = read_scores(table("size,loss\n1B,3.1\n2B,2.9\n")).curves
    assert curve.questions is None
    assert not curve.error_R.any()


def test_metrics_are_known_by_their_names():
    assert split_name("word_unscrambling_2_exact_match") == ("word_unscrambling_2", "exact_match")
    assert split_name("MMLU") == ("MMLU", "score")
    assert split_name("piqa_acc_norm") == ("piqa", "acc_norm")
    assert (metric_of("ppl").kind, metric_of("ppl").more_is_better) == ("graded", False)
    assert metric_of("acc_norm").kind == "all-or-nothing"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("task,value\na,0.1\n", "no column for size, FLOPs or step .it has task, value.; name it with size=COLUMN"),
        ("size,sums_acc\n1B,43.2\n", "line 2: sums_acc=43.2, and acc lies between 0 and 1; write shares as 0.43"),
        ("size,sums_ppl\n1B,0\n", "sums_ppl=0, and ppl lies between 0 and inf"),
        ("size,sums_acc\n1Q,0.4\n", "line 2: size='1Q': not a number with one of the units"),
        ("size,sums_acc\n1B,much\n2B,0.3\n", "sums_acc='much' is no number; leave it empty"),
        ("size,sums_acc\n1B,nan\n2B,\n", "has no finite scores"),
        ("size,sums_acc\n", "holds no scores"),
        ("size,sums_acc\n1B\n", "line 2: 1 cells and 2 columns; mend the row"),
        ("size,task,metric,value\n1B,a,acc,0.1\n1B,a,acc,0.2\n", "lines 2 and 3: two scores of a under acc at size 1e.09; say by series=COLUMN"),
    ],
)  # fmt: skip
def test_a_table_that_cannot_be_read_is_one_clear_error(table, text, said):
    with pytest.raises(DataError, match=said):
        read_scores(table(text))


def test_rows_without_a_number_are_left_out_and_told(table):
    scores = read_scores(table("size,sums_acc\n1B,0.1\n2B,NaN\n3B,0.3\n,0.5\n"))
    assert scores.curves[0].x_R.tolist() == [1e9, 3e9]
    assert scores.said[-1].endswith("in lines 3, 5")


def test_a_file_that_is_no_table_is_an_error(table, tmp_path):
    broken = tmp_path / "scores.csv.gz"
    broken.write_bytes(b"no gzip")
    with pytest.raises(DataError, match="cannot be read as a table"):
        read_scores(broken)
    with pytest.raises(DataError, match="is no file; give a table of scores"):
        read_scores(tmp_path / "none.csv")
    with pytest.raises(DataError, match="no column 'huge' for size; it has size, sums_acc"):
        read_scores(table("size,sums_acc\n1B,0.1\n"), {"size": "huge"})
