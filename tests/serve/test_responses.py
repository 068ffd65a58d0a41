"""OpenAI's newer form of a chat."""

import json

import openai
import pytest

from dunwu.serve.errors import ApiError
from dunwu.serve.memory import Kept, Memory
from dunwu.serve.schemas import ChatMessage

from .test_tools import WEATHER

TOOL = {"type": "function", **WEATHER["function"]}


def ask(client, **more):
    return client.responses.create(
        **{
            "model": "kitten",
            "input": "hello",
            "max_output_tokens": 8,
            "temperature": 0,
            **more,
        }
    )


def chat(client, *messages):
    return client.chat.completions.create(model="kitten", messages=list(messages), max_tokens=8, temperature=0)


def test_it_says_what_a_chat_says(client):
    response = ask(client, instructions="Be brief.")
    said = chat(client, {"role": "system", "content": "Be brief."}, {"role": "user", "content": "hello"})
    assert response.output_text == said.choices[0].message.content
    assert (response.status, response.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    assert response.usage.input_tokens == said.usage.prompt_tokens
    assert response.usage.output_tokens == 8


def test_items_are_turns(client):
    items = [
        {"role": "developer", "content": "Be brief."},
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "hello"}]},
        {"type": "function_call", "call_id": "c1", "name": "get_weather", "arguments": '{"city": "Oslo"}'},
        {"type": "function_call_output", "call_id": "c1", "output": "sunny"},
    ]
    call = {"id": "c1", "type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Oslo"}'}}
    messages = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": "hello"},
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "sunny"},
    ]
    assert ask(client, input=items).output_text == chat(client, *messages).choices[0].message.content


def test_a_stream_tells_each_step_and_ends_with_the_whole(client):
    whole = ask(client, include=["message.output_text.logprobs"], top_logprobs=2)
    events = list(ask(client, include=["message.output_text.logprobs"], top_logprobs=2, stream=True))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    kinds = list(dict.fromkeys(event.type for event in events))
    assert kinds == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.delta",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.incomplete",
    ]
    deltas = [event for event in events if event.type == "response.output_text.delta"]
    assert "".join(event.delta for event in deltas) == whole.output_text == events[-1].response.output_text
    tokens = [one.token for event in deltas for one in event.logprobs]
    assert tokens == [one.token for one in whole.output[0].content[0].logprobs]
    assert len(tokens) == 8
    assert events[-1].response.usage.total_tokens == whole.usage.total_tokens  # the second may find its prompt cached


def test_a_streamed_call(client):
    more = {"tools": [TOOL], "tool_choice": "required", "max_output_tokens": 150, "extra_body": {"seed": 1}}
    whole = ask(client, **more, parallel_tool_calls=False)
    assert whole.status == "completed"
    (call,) = whole.output
    assert json.loads(call.arguments)["city"] in ("Oslo", "北京")
    events = list(ask(client, **more, parallel_tool_calls=False, stream=True))
    pieces = [event.delta for event in events if event.type == "response.function_call_arguments.delta"]
    assert "".join(pieces) == call.arguments
    done = next(event.item for event in events if event.type == "response.output_item.done")
    assert (done.name, done.arguments, done.status) == ("get_weather", call.arguments, "completed")


def test_json_of_a_schema(client):
    schema = {
        "type": "object",
        "properties": {"ok": {"type": "boolean"}},
        "required": ["ok"],
        "additionalProperties": False,
    }
    form = {"format": {"type": "json_schema", "name": "x", "schema": schema}}
    text = ask(client, text=form, max_output_tokens=200).output_text
    assert json.loads(text)["ok"] in (True, False)


def test_the_next_question_goes_on_from_the_answer(client):
    first = ask(client)
    second = ask(client, input="and?", previous_response_id=first.id)
    turns = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": first.output_text}]
    said = chat(client, *turns, {"role": "user", "content": "and?"})
    assert second.output_text == said.choices[0].message.content
    assert client.responses.retrieve(first.id).output_text == first.output_text
    client.responses.delete(first.id)
    for gone in (first.id, ask(client, store=False).id):
        with pytest.raises(openai.NotFoundError, match="send the whole conversation"):
            ask(client, previous_response_id=gone)


@pytest.mark.parametrize(
    ("more", "complaint"),
    [
        ({"input": []}, "input=.* at least 1"),
        ({"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]}, "read text alone"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input.0"),
        ({"tools": [{"type": "web_search"}]}, "tools.0.type='web_search'"),
        ({"truncation": "auto"}, "truncation='auto'"),
        ({"background": True}, "background=True"),
        ({"max_output_tokens": 0}, "max_output_tokens=0"),
    ],
)
def test_what_cannot_be_is_refused_with_a_reason(client, more, complaint):
    with pytest.raises(openai.BadRequestError, match=complaint):
        ask(client, **more)


def test_memory_is_bounded_and_each_key_has_its_own():
    memory = Memory(most=2, most_characters=2000)
    kept = Kept(owner="ann", turns=(ChatMessage(role="user", content="x"),), response={})
    for name in ("a", "b", "c"):
        memory.put(name, kept)
    memory.get("b", "ann")
    with pytest.raises(ApiError, match="no response 'a'"):
        memory.get("a", "ann")
    with pytest.raises(ApiError, match="no response 'b'"):
        memory.get("b", "bob")
    memory.put("long", Kept(owner="ann", turns=(ChatMessage(role="user", content="x" * 1700),), response={}))
    memory.get("long", "ann")
    with pytest.raises(ApiError):
        memory.get("c", "ann")
