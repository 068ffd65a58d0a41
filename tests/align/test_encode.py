"""Preferences → ids: the prompt apart from the answers, within the context, the end of the turn counted."""

import numpy as np
import pytest

from dunwu.align.answers import CHOSEN, REJECTED, UNRELATED
from dunwu.align.encode import encode_preference, with_unrelated
from dunwu.core.errors import DataError
from dunwu.core.records import Message, Preference
from dunwu.corpus.json_rows import BadRow
from dunwu.tokenizer.bpe import train_tokenizer
from dunwu.tokenizer.template import encode_prompt

from .helpers import item


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    text = "what is it? it is a cat, and no dog. " * 20
    return train_tokenizer([text], vocab_size=300, out=tmp_path_factory.mktemp("tokenizer"))


def preference(prompt="what is it?", chosen="it is a cat", rejected="no dog"):
    said = [None if text is None else (Message(role="assistant", content=text),) for text in (chosen, rejected)]
    return Preference(prompt=(Message(role="user", content=prompt),), chosen=said[0], rejected=said[1], source="x")


def encode(tokenizer, one, context_length=200, **more):
    return encode_preference(tokenizer, one, context_length=context_length, **more)


def test_prompt_and_answers(tokenizer):
    one = preference()
    found = encode(tokenizer, one)
    assert found.prompt.tolist() == list(encode_prompt(tokenizer, one.prompt))
    assert [answer.kind for answer in found.answers] == [CHOSEN, REJECTED]
    for answer, text in zip(found.answers, ("it is a cat", "no dog"), strict=True):
        assert tokenizer.decode(answer.ids[:-1]) == text
        assert answer.ids[-1] == tokenizer.im_end_id
        assert answer.learned.all()


def test_one_answer_alone(tokenizer):
    found = encode(tokenizer, preference(chosen=None))
    assert [answer.kind for answer in found.answers] == [REJECTED]
    assert found.length == len(found.prompt) + len(found.answers[0].ids) - 1


def test_a_system_prompt_goes_before_all(tokenizer):
    found = encode(tokenizer, preference(), system_prompt="a cat")
    assert "a cat" in tokenizer.decode(found.prompt)
    assert len(found.answers[0].ids) == len(encode(tokenizer, preference()).answers[0].ids)


def test_an_answer_beyond_the_context_loses_its_end_or_is_left_out(tokenizer):
    long = preference(chosen="it is a cat " * 30)
    whole = encode(tokenizer, long, 1000)
    found = encode(tokenizer, long, 60)
    assert len(found.prompt) + len(found.answers[0].ids) == 61  # the last is only predicted
    assert np.array_equal(found.answers[0].ids, whole.answers[0].ids[: len(found.answers[0].ids)])
    assert found.answers[1].ids[-1] == tokenizer.im_end_id
    with pytest.raises(BadRow, match="has an answer that is too long"):
        encode(tokenizer, long, 60, too_long="drop")


def test_a_prompt_without_room_for_an_answer_is_named(tokenizer):
    with pytest.raises(BadRow, match="has a prompt that is too long"):
        encode(tokenizer, preference(prompt="what is it? " * 30), 60)
    short = preference(chosen="a", rejected="no")  # an answer of two tokens needs no more room
    size = len(encode(tokenizer, short).prompt)
    assert encode(tokenizer, short, size + 2).prompt.size == size


def test_answers_that_are_the_same_within_the_context_are_named(tokenizer):
    same = "it is a cat and no dog " * 30
    with pytest.raises(BadRow, match="has two equal answers"):
        encode(tokenizer, preference(chosen=same + "a", rejected=same + "b"), 60)
    with pytest.raises(BadRow, match="has two equal answers"):  # the template trims them
        encode(tokenizer, preference(chosen="a", rejected=" a "))


def test_unrelated_answers_are_of_other_prompts_and_fixed_by_the_seed():
    made = [item([number], [10 + number], [30 + number, 1]) for number in range(1, 9)]
    found = with_unrelated(made, seed=4, context_length=20)
    for one, before in zip(found, made, strict=True):
        assert one.answers[:2] == before.answers
        assert one.answers[2].kind == UNRELATED
        assert int(one.answers[2].ids[0]) % 10 != int(one.prompt[0])
    again = with_unrelated(made, seed=4, context_length=20)
    assert all(np.array_equal(a.answers[2].ids, b.answers[2].ids) for a, b in zip(found, again, strict=True))
    with pytest.raises(DataError, match="there is only one prompt"):
        with_unrelated(made[:1], seed=0, context_length=20)
