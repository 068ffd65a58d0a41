"""Tables of runs as people write them."""

import math

import pytest

from dunwu.core.errors import DataError
from dunwu.lab.scaling.points import count_of, nats_of, read_points


@pytest.fixture
def table(tmp_path):
    def write(text, name="runs.csv"):
        (tmp_path / name).write_text(text, "utf-8")
        return tmp_path / name

    return write


@pytest.mark.parametrize(
    ("text", "count"),
    [("1.3B", 1.3e9), ("410m", 410e6), ("2,000,000", 2e6), ("1e21", 1e21), ("1.4T", 1.4e12), ("3亿", 3e8)],
)
def test_sizes_are_read_as_people_write_them(text, count):
    assert count_of(text) == pytest.approx(count)


def test_losses_are_nats_whatever_their_unit():
    assert nats_of("3.0") == 3.0
    assert nats_of("3 bits") == nats_of("3", "bits") == pytest.approx(3 * math.log(2))
    with pytest.raises(ValueError, match="its row says nats"):
        nats_of("3 bits", "nats")


def test_columns_go_by_their_usual_names_and_tokens_follow_from_flops(table):
    points = read_points(table("Model Size,Training FLOP,Val Loss,unit\n70M,8.4e17,4.0,bits\n1.3B,7.8e20,2.5,nats\n"))
    assert points.size_R.tolist() == [7e7, 1.3e9]
    assert points.tokens_R.tolist() == pytest.approx([2e9, 1e11])
    assert points.loss_R.tolist() == pytest.approx([4 * math.log(2), 2.5])
    assert "tokens = column 'Training FLOP' / (6 × size)" in points.said
    assert points.flops_R.tolist() == pytest.approx([8.4e17, 7.8e20])


def test_other_names_are_given(table):
    points = read_points(table("a\tb\tc\n1\t2\t3\n", "runs.tsv"), {"size": "a", "tokens": "b", "loss": "c"})
    assert (points.size_R[0], points.tokens_R[0], points.loss_R[0]) == (1.0, 2.0, 3.0)


def test_rows_without_numbers_are_left_out_and_told(table):
    points = read_points(table("N,D,loss\n1B,20B,2.5\n1B,40B,nan\n\n2B,40B,\n"))
    assert len(points) == 1
    assert points.said[-1] == "left out 2 rows without finite numbers: lines 3, 4"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("tokens,loss\n1,2\n", "no column for size .it has tokens, loss.; name it with size=COLUMN"),
        ("size,loss\n1,2\n", "no column for tokens or flops"),
        ("N,D,loss\n1B,20B,2.5\n1Q,20B,2.5\n", "line 3: N='1Q': not a number with one of the units"),
        ("N,D,loss\n1B,20B,-2\n", "line 2: size 1e.09, tokens 2e.10, loss -2; all must be above 0"),
        ("N,D,loss\n1B,20B\n", "line 2: 2 cells and 3 columns"),
        ("N,D,loss,unit\n1B,20B,2 bits,nats\n", "its row says nats"),
        ("N,D,loss\n", "holds no runs"),
    ],
)
def test_what_cannot_be_read_is_named(table, text, said):
    with pytest.raises(DataError, match=said):
        read_points(table(text))
