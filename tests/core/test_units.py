import pytest
from hypothesis import given
from hypothesis import strategies as st

from dunwu.core.errors import RecipeError
from dunwu.core.units import format_bytes, format_count, format_duration, parse_bytes, parse_count, parse_duration


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("5min", 300), ("1.5h", 5400), ("1h30min", 5400), ("2 d", 172800), ("5分钟", 300), ("0s", 0)],
)
def test_durations_are_read_in_the_units_that_people_write(text, seconds):
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["5", "", "min", "-5min", "5 parsecs", "5min x", "1e3s"])
def test_a_duration_without_a_known_unit_is_refused_with_an_example(text):
    with pytest.raises(RecipeError, match="5min"):
        parse_duration(text)


def test_sizes_tell_powers_of_ten_from_powers_of_two():
    assert parse_bytes("8GB") == 8 * 10**9
    assert parse_bytes("8GiB") == 8 * 2**30
    assert parse_bytes("1.5 kb") == 1500
    with pytest.raises(RecipeError, match="24GB"):
        parse_bytes("8")


@given(st.floats(min_value=0, max_value=1e7))
def test_a_duration_printed_never_shows_sixty_seconds_or_minutes(seconds):
    text = format_duration(seconds)
    assert "60 s" not in text
    assert " 60 min" not in text


def test_figures_keep_three_digits_and_carry_over_to_the_next_unit():
    assert format_bytes(812) == "812 B"
    assert format_bytes(26_140_000) == "26.1 MB"
    assert format_count(999_600) == "1.00M"
    assert format_count(4096) == "4.10k"
    assert format_duration(59.7) == "1 min 00 s"
    assert format_duration(3599.6) == "1 h 00 min"


def test_counts_are_read_with_their_multiples():
    assert [parse_count(text) for text in ("500", "200k", "1.5M", "20_000", "20,000", "3万")] == [
        500,
        200_000,
        1_500_000,
        20_000,
        20_000,
        30_000,
    ]
    for wrong in ("", "many", "-5", "1e5", "5 kg", "1.2.3"):
        with pytest.raises(RecipeError, match="not a number"):
            parse_count(wrong)
