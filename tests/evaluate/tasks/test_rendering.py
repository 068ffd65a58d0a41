"""Templates over rows: what rows say stays as it is, and keeps its kind."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dunwu.core.errors import DataError
from dunwu.evaluate.tasks.boxed import boxed
from dunwu.evaluate.tasks.rendering import UnknownNameError, text_of, value_of

plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(st.text())
def test_what_a_row_says_stands_in_the_text_as_it_is(said: str) -> None:
    assert text_of("Q: {{q}}\nA:", {"q": said}) == f"Q: {said}\nA:"
    assert text_of("{% if true %}{{ q ~ '' }}{% endif %}", {"q": "{{ 7 * 7 }}" + said}) == "{{ 7 * 7 }}" + said


@given(plain)
def test_one_expression_alone_keeps_its_kind(value: object) -> None:
    assert value_of("{{ v }}", {"v": value}) == value
    assert value_of(" {{ [v, 1] }} ", {"v": value}) == [value, 1]
    assert value_of("{{ v if true else w }}", {"v": value}) == value


@given(st.text(st.characters(exclude_characters="{}\\")), st.text(st.characters(exclude_characters="{}\\$\n")))
def test_boxes_are_found_at_any_depth(inner: str, after: str) -> None:
    assert boxed(rf"\boxed{{0}} and \boxed{{a{{{inner}}}b}}{after}") == f"a{{{inner}}}b"
    assert value_of("{{ s|boxed }}", {"s": rf"\boxed{{{inner}}}"}) == inner


def test_what_is_no_template_is_taken_as_it_is() -> None:
    assert value_of(["{{ q }}", 1], {}) == ["{{ q }}", 1]
    assert text_of("a } b { c", {}) == "a } b { c"
    assert value_of("{{ 1 }} and {{ 2 }}", {}) == "1 and 2"


def test_a_name_that_is_not_there_is_told() -> None:
    with pytest.raises(UnknownNameError) as caught:
        value_of("{{ there[0] }}", {"here": 1})
    assert caught.value.name == "there"
    with pytest.raises(DataError, match="nothing stands in"):
        value_of("{{ s|boxed }}", {"s": "no box"})
