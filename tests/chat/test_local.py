import json
from dataclasses import replace
from itertools import pairwise

import pytest

from dunwu.chat.local import LocalChat
from dunwu.chat.options import ChatOptions
from dunwu.chat.protocol import Chat, completion_of
from dunwu.chat.scripted import ScriptedChat
from dunwu.core.errors import DataError, ModelError
from dunwu.core.records import Completion, Message
from dunwu.tokenizer.template import encode_chat


def user(text: str) -> Message:
    return Message(role="user", content=text)


def talk(*texts: str) -> list[Message]:
    return [Message(role=("user", "assistant")[place % 2], content=text) for place, text in enumerate(texts)]


def test_partners_keep_the_protocol(chat):
    assert isinstance(chat, Chat)
    assert isinstance(ScriptedChat([]), Chat)


def same(one: Completion, other: Completion) -> bool:
    """Whatever was found in the cache."""
    return replace(one, usage=None) == replace(other, usage=None)


def test_what_was_said_before_is_not_read_again(chat):
    turns = talk("a cat sat")
    counts = []
    for _ in range(2):
        answer = chat.reply(turns, max_tokens=5)
        assert answer.usage is not None
        counts.append((answer.usage.prompt_tokens, answer.usage.cached_tokens))
        turns += [Message(role="assistant", content=answer.text), user("and then?")]
    # Whole blocks of 16 tokens are found of all that came before the last turn.
    assert all(cached >= before - 16 for (before, _), (_, cached) in pairwise(counts))


def test_an_answer_may_have_a_form_or_end_where_it_is_told_to(chat):
    pytest.importorskip("llguidance")
    schema = {
        "type": "object",
        "properties": {"n": {"type": "integer"}},
        "required": ["n"],
        "additionalProperties": False,
    }
    answer = chat.reply([user("cat")], max_tokens=90, temperature=0.5, seed=1, schema=schema)
    assert answer.finish_reason != "stop" or isinstance(json.loads(answer.text)["n"], int)
    whole = chat.reply([user("cat")], max_tokens=30)
    cut = chat.reply([user("cat")], max_tokens=30, stop=(whole.text[4:6],))
    assert cut.text == whole.text[: whole.text.find(whole.text[4:6])]
    scored = chat.reply([user("cat")], max_tokens=4, logprobs=2)
    assert [len(one.top) for one in scored.logprobs] == [2] * 4


def test_facts_come_from_the_home(chat, base_chat):
    assert (chat.instruction_tuned, chat.system_prompt, chat.name) == (True, "Be kind.", "kitten")
    assert base_chat.instruction_tuned is False


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_stream_reply_and_batch_say_the_same(chat, temperature):
    asked = [user("坐")]
    settings = {"max_tokens": 30, "temperature": temperature, "seed": 4}
    reply = chat.reply(asked, **settings)
    assert "".join(chat.stream(asked, **settings)) == reply.text
    assert same(chat.reply_batch([asked, talk("a", "b", "c")], **settings)[0], reply)
    assert len(reply.ids) > 1


def test_each_conversation_of_a_batch_is_asked_by_its_own_options(chat):
    asked = [[user("坐")], talk("a", "b", "c")]
    each = [ChatOptions(max_tokens=5, temperature=1.0, seed=4), ChatOptions(max_tokens=9, temperature=1.0, seed=4)]
    alone = [chat.reply(messages, one) for messages, one in zip(asked, each, strict=True)]
    assert [same(one, other) for one, other in zip(chat.reply_each(asked, each), alone, strict=True)] == [True, True]


def test_streamed_pieces_are_whole_characters_of_broken_output(chat):
    # random weights write bytes that are no UTF-8: pieces must still join to what decoding the whole gives
    pieces = list(chat.stream([user("cat")], max_tokens=60, temperature=2.0, seed=0))
    assert "".join(pieces) == chat.reply([user("cat")], max_tokens=60, temperature=2.0, seed=0).text
    assert not any("<|" in piece for piece in pieces)


def test_a_long_conversation_loses_its_oldest_turns_but_not_system_or_question(chat):
    system = Message(role="system", content="S")
    turns = talk(*(f"message {number}" for number in range(7)))
    assert chat.forgotten(turns[:1], max_tokens=24) == 0
    dropped = chat.forgotten([system, *turns], max_tokens=24)
    assert dropped in (2, 4, 6)
    reply = chat.reply([system, *turns], max_tokens=24)
    assert same(reply, chat.reply([system, *turns[dropped:]], max_tokens=24))
    room = chat.generator.context_length - 24
    assert len(encode_chat(chat.tokenizer, [system, *turns[dropped:]], add_generation_prompt=True).ids) <= room
    assert len(encode_chat(chat.tokenizer, [system, *turns[dropped - 2 :]], add_generation_prompt=True).ids) > room


def test_a_question_that_fills_the_context(chat):
    asked = [user("x1" * 200)]
    assert chat.reply(asked).finish_reason == "context"
    with pytest.raises(DataError, match="make it shorter"):
        next(chat.stream(asked))
    with pytest.raises(DataError, match="make it shorter"):
        next(chat.continue_text("x1" * 200))


def test_a_base_model_continues_text_without_the_template(base_chat):
    steps = base_chat.continue_text("a cat", max_tokens=8)
    ids = [base_chat.tokenizer.eos_id, *base_chat.tokenizer.encode("a cat")]  # as documents begin in pre-training
    expected = base_chat.generator.complete_batch([ids], max_new_tokens=8)[0].text
    assert "".join(steps) == expected
    assert isinstance("".join(base_chat.continue_text("", max_tokens=3)), str)


def test_roles_may_come_in_any_order_but_there_must_be_a_turn(chat):
    assert len(chat.reply([user("a"), user("b")], max_tokens=4).ids) == 4
    with pytest.raises(DataError, match="no messages"):
        chat.reply([])


def test_options_come_as_a_record_or_as_keywords(chat):
    options = ChatOptions(max_tokens=20, temperature=1.0, seed=3)
    asked = [user("a")]
    assert chat.reply(asked, options) == chat.reply(asked, max_tokens=20, temperature=1.0, seed=3)
    assert chat.reply(asked, options, max_tokens=2) == chat.reply(asked, max_tokens=2, temperature=1.0, seed=3)
    assert completion_of(chat.pieces(asked, options)).text == chat.reply(asked, options).text


def test_a_folder_without_a_model_is_an_error(tmp_path):
    with pytest.raises(ModelError, match="give the folder of a model"):
        LocalChat.load(tmp_path)
