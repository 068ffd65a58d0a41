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
    assert points.said[-1] == "left out 2 rows without finite numbers: lines 3, 5"


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


@pytest.mark.parametrize("head", ["loss_bits", "loss (bits)", "Val Loss [bits]", "bits"])
def test_a_unit_in_the_name_of_the_column_is_read(table, head):
    points = read_points(table(f"N,D,{head}\n1B,20B,4.0\n"))
    assert points.loss_R.tolist() == pytest.approx([4 * math.log(2)])
    assert "losses are in bits, by the column's name" in points.said


def test_bits_a_byte_stay_what_they_are_and_do_not_mix_with_nats(table):
    points = read_points(table("N,D,bpb\n410m,20B,0.9\n1.3B,20B,0.8\n"))
    assert points.loss_R.tolist() == [0.9, 0.8]
    assert points.unit == "bits a byte"
    with pytest.raises(DataError, match="losses in bits a byte and in nats a token"):
        read_points(table("N,D,loss,unit\n410m,20B,0.9,bpb\n1.3B,20B,2.8,nats\n"))


def test_two_losses_with_units_need_a_choice(table):
    file = table("N,D,loss_nats,loss_bits\n410m,20B,2.8,4.04\n")
    with pytest.raises(DataError, match=r"several losses .loss_nats, loss_bits.; say which with loss=COLUMN"):
        read_points(file)
    assert read_points(file, {"loss": "loss_nats"}).loss_R.tolist() == [2.8]


def test_of_several_rows_a_run_the_last_counts(table):
    points = read_points(table("run,N,D,loss\na,1B,1B,4\na,1B,2B,3\nb,2B,2B,2.5\nb,2B,1B,3.5\n")).last_of_each()
    assert points.loss_R.tolist() == [3.0, 2.5]
    assert points.runs == ("a", "b")


def test_unique_tokens_follow_from_epochs(table):
    points = read_points(table("N,D,epochs,loss\n1B,8B,4,3\n1B,2B,0.5,3.5\n"))
    assert points.unique_R.tolist() == [2e9, 2e9]


def test_a_table_in_another_encoding_is_named(tmp_path):
    file = tmp_path / "runs.csv"
    file.write_bytes("N,D,loss\n1B,20B,2.5 é\n".encode("latin-1"))
    with pytest.raises(DataError, match="is not UTF-8 text"):
        read_points(file)
