"""Conversations longer than the context: what is cut, in which order, and that the end-of-turn token never is."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dunwu.core.records import Example, Message, Tokens, ToolCall
from dunwu.corpus.conversations import ELLIPSIS, encode_example, fit, system_fault
from dunwu.tokenizer.bpe import Tokenizer, train_tokenizer

SYSTEM = Message(role="system", content="Be brief.")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return train_tokenizer([], vocab_size=259, out=tmp_path_factory.mktemp("bytes"))  # a token is a byte


def talk(*texts: str, system: bool = True, only_read: frozenset[int] = frozenset()) -> Example:
    roles = ("user", "assistant")
    turns = [Message(role=roles[place % 2], content=text) for place, text in enumerate(texts)]
    return Example(messages=((SYSTEM,) if system else ()) + tuple(turns), source="", only_read=only_read)


def texts(tokenizer: Tokenizer, example: Example, most: int) -> tuple[str, str, tuple[str, ...]]:
    """All of what is kept, what of it is learned, and what was cut."""
    fitted = fit(example, lambda shorter: encode_example(tokenizer, shorter), most)
    assert fitted.tokens is not None
    assert len(fitted.tokens.ids) <= most
    ids, learned = fitted.tokens.ids, fitted.tokens.learned
    return tokenizer.decode(ids, skip_special=False), tokenizer.decode(ids[learned], skip_special=False), fitted.cut


def length(tokenizer: Tokenizer, example: Example) -> int:
    return len(encode_example(tokenizer, example).ids)


def test_what_fits_is_left_alone(tokenizer):
    example = talk("one?", "1.", "two?", "2.")
    whole, _, cut = texts(tokenizer, example, length(tokenizer, example))
    assert cut == ()
    assert whole == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\none?<|im_end|>\n<|im_start|>assistant\n1.<|im_end|>\n"
        "<|im_start|>user\ntwo?<|im_end|>\n<|im_start|>assistant\n2.<|im_end|>\n"
    )


def test_the_oldest_turns_go_first_as_few_as_will_do_and_the_system_prompt_stays(tokenizer):
    example = talk("one?", "1.", "two?", "2.", "three?", "3.")
    whole, learned, cut = texts(tokenizer, example, length(tokenizer, example) - 1)
    assert cut == ("turns",)
    assert "Be brief." in whole
    assert "one?" not in whole
    assert learned == "2.<|im_end|>3.<|im_end|>"
    just = length(tokenizer, talk("three?", "3."))
    assert texts(tokenizer, example, just)[1] == "3.<|im_end|>"


def test_answers_that_are_only_read_stay_so_when_turns_are_cut(tokenizer):
    example = talk("one?", "1.", "two?", "2.", "three?", "3.", only_read=frozenset({2, 4}))
    assert texts(tokenizer, example, length(tokenizer, example) - 1)[1] == "3.<|im_end|>"


def test_results_go_with_the_turn_that_they_belong_to(tokenizer):
    call = ToolCall(id="a", name="f", arguments="{}")
    turns = (
        Message(role="user", content="one?"),
        Message(role="assistant", tool_calls=(call,)),
        Message(role="tool", content="r", tool_call_id="a", name="f"),
        Message(role="assistant", content="1."),
        Message(role="user", content="two?"),
        Message(role="assistant", content="2."),
    )
    example = Example(messages=turns, source="")
    whole, learned, _ = texts(tokenizer, example, length(tokenizer, example) - 1)
    assert "tool_response" not in whole
    assert learned == "2.<|im_end|>"


def test_an_answer_longer_than_the_context_keeps_its_beginning_to_the_end_of_a_sentence_and_its_end_of_turn(tokenizer):
    answer = "First this. Then that. And so on, without an end, for a very long time and more"
    example = talk("Q?", answer, system=False)
    shorter = replace(example, messages=(example.messages[0], Message(role="assistant", content=answer[:40])))
    _, learned, cut = texts(tokenizer, example, length(tokenizer, shorter))
    assert cut == ("answer",)
    assert learned == "First this. Then that.<|im_end|>"
    chinese = talk("问？", "先做这个。再做那个！" + "然后一直一直一直一直做下去", system=False)
    _, learned, _ = texts(tokenizer, chinese, length(tokenizer, chinese) - 3 * 8)
    assert learned == "先做这个。再做那个！<|im_end|>"
    _, learned, _ = texts(
        tokenizer, chinese, length(tokenizer, chinese) - 3
    )  # a stop in the first half is none to stop at
    assert learned == "先做这个。再做那个！然后一直一直一直一直做下<|im_end|>"


def test_a_long_question_loses_its_middle_and_leaves_the_answer_whole(tokenizer):
    question = "Sum this up: " + "word " * 100 + "End of text."
    example = talk(question, "All is well.")
    whole, learned, cut = texts(tokenizer, example, 400)
    assert cut == ("question",)
    assert learned == "All is well.<|im_end|>"
    assert "Sum this up: word word" in whole
    assert f"word{ELLIPSIS}word" in whole
    assert "word End of text.<|im_end|>" in whole


def test_where_both_are_long_the_answer_gets_half(tokenizer):
    example = talk("q " * 200, "a " * 300, system=False)
    whole, learned, cut = texts(tokenizer, example, 300)
    assert cut == ("question", "answer")
    assert 140 <= len(learned.removesuffix("<|im_end|>")) + 1 <= 150
    assert whole.count("q") > 40


@pytest.mark.parametrize(
    "example",
    [
        talk("q " * 300, "a", system=False),  # less than a quarter of the question would be left
        Example(messages=talk("one?", "1.").messages, source="", tools=({"function": {"name": "f" * 300}},)),
        Example(
            messages=(
                Message(role="user", content="Q?"),
                Message(
                    role="assistant", tool_calls=(ToolCall(id="a", name="f", arguments='{"x": "' + "y" * 300 + '"}'),)
                ),
            ),
            source="",
        ),
    ],
)
def test_where_nothing_sensible_would_be_left_nothing_is(tokenizer, example):
    assert fit(example, lambda shorter: encode_example(tokenizer, shorter), 150).tokens is None


@given(
    parts=st.lists(st.tuples(st.text("ab .。\n", min_size=1), st.text("ab .。\n", min_size=1)), min_size=1, max_size=4),
    most=st.integers(20, 120),
    system=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_whatever_is_cut_it_fits_ends_its_last_turn_and_begins_with_what_it_should(tokenizer, parts, most, system):
    example = talk(*(text for pair in parts for text in pair), system=system)
    fitted = fit(example, lambda shorter: encode_example(tokenizer, shorter), most)
    if length(tokenizer, example) <= most:
        assert fitted.cut == ()
    if fitted.tokens is None:
        return
    tokens: Tokens = fitted.tokens
    assert len(tokens.ids) <= most
    assert tokens.ids[tokens.learned][-1] == tokenizer.im_end_id
    text = tokenizer.decode(tokens.ids, skip_special=False)
    assert text.startswith("<|im_start|>system\nBe brief.<|im_end|>\n" if system else "<|im_start|>user\n")
    assert text.endswith("<|im_end|>\n")


def test_our_own_template_keeps_the_system_prompt(tokenizer):
    assert system_fault(tokenizer) is None
