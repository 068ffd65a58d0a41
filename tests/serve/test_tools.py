"""Calls of tools, whole and streamed, by a model that knows nothing: the grammar alone makes them right."""

import json

import openai
import pytest

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Weather of a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"enum": ["Oslo", "北京"]}, "days": {"type": "integer", "minimum": 1, "maximum": 9}},
            "required": ["city", "days"],
            "additionalProperties": False,
        },
    },
}
CLOCK = {
    "type": "function",
    "function": {"name": "now", "parameters": {"type": "object", "properties": {}, "additionalProperties": False}},
}


def ask(client, **more):
    return client.chat.completions.create(
        **{
            "model": "kitten",
            "messages": [{"role": "user", "content": "wetter?"}],
            "tools": [WEATHER],
            "temperature": 1.0,
            "seed": 5,
            "max_tokens": 150,
            **more,
        }
    )


def require_valid(call):
    arguments = json.loads(call.function.arguments)
    assert call.function.name == "get_weather"
    assert call.id
    assert arguments["city"] in ("Oslo", "北京")
    assert 1 <= arguments["days"] <= 9


def gather(chunks):
    """What the pieces of a stream make: for each call its id, name and arguments; the text; the reason."""
    calls, text, reason = {}, "", None
    for chunk in chunks:
        choice = chunk.choices[0]
        text += choice.delta.content or ""
        reason = choice.finish_reason or reason
        for piece in choice.delta.tool_calls or ():
            call = calls.setdefault(piece.index, {"id": piece.id, "name": piece.function.name, "arguments": ""})
            assert piece.id in (None, call["id"])
            call["arguments"] += piece.function.arguments or ""
    return list(calls.values()), text, reason


def test_a_required_call_fits_its_schema_and_says_nothing_else(client):
    choice = ask(client, tool_choice="required", parallel_tool_calls=False).choices[0]
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content is None
    assert len(choice.message.tool_calls) == 1
    require_valid(choice.message.tool_calls[0])


def test_a_streamed_call_is_the_whole_one_in_pieces(client):
    whole = ask(client, tool_choice="required", parallel_tool_calls=False).choices[0].message.tool_calls[0].function
    calls, text, reason = gather(ask(client, tool_choice="required", parallel_tool_calls=False, stream=True))
    assert (text, reason) == ("", "tool_calls")
    assert [(call["name"], call["arguments"]) for call in calls] == [(whole.name, whole.arguments)]
    assert calls[0]["id"]


def test_a_named_tool_is_the_one_that_is_called(client):
    named = {"type": "function", "function": {"name": "now"}}
    choice = ask(client, tools=[WEATHER, CLOCK], tool_choice=named).choices[0]
    assert [call.function.name for call in choice.message.tool_calls] == ["now"]
    assert json.loads(choice.message.tool_calls[0].function.arguments) == {}


def test_tools_that_may_be_called_leave_room_for_words(client):
    choice = ask(client, max_tokens=20).choices[0]
    assert choice.finish_reason == "length"
    assert len(choice.message.content) > 5
    _, text, reason = gather(ask(client, max_tokens=20, stream=True))
    assert (text, reason) == (choice.message.content, "length")


def test_none_keeps_the_tools_from_the_model(client):
    with_tools = ask(client, tool_choice="none", max_tokens=5)
    without = ask(client, tools=openai.omit, max_tokens=5)
    assert with_tools.usage.prompt_tokens == without.usage.prompt_tokens
    assert with_tools.choices == without.choices


def test_results_of_tools_go_into_the_prompt(client):
    call = ask(client, tool_choice="required", parallel_tool_calls=False).choices[0].message
    messages = [{"role": "user", "content": "?"}, call.model_dump(exclude_none=True)]
    result = {"role": "tool", "tool_call_id": call.tool_calls[0].id, "content": "sunny" * 3}
    told = ask(client, messages=[*messages, result], max_tokens=2, tools=openai.omit)
    untold = ask(client, messages=[*messages, {**result, "content": ""}], max_tokens=2, tools=openai.omit)
    assert told.usage.prompt_tokens - untold.usage.prompt_tokens == 15


@pytest.mark.parametrize(
    ("more", "complaint"),
    [
        ({"tool_choice": {"type": "function", "function": {"name": "fly"}}}, "'fly', and the tools are: 'get_weather'"),
        ({"tools": [], "tool_choice": "required"}, "without tools"),
        ({"tool_choice": "sometimes"}, "tool_choice"),
        ({"response_format": {"type": "json_object"}}, "cannot be held to a form too"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools.0.function.name='a b'"),
        ({"functions": [{"name": "x"}]}, "functions=.* is not supported"),
    ],
)
def test_tools_that_cannot_be_are_refused_with_a_reason(client, more, complaint):
    with pytest.raises(openai.BadRequestError, match=complaint):
        ask(client, **more)
