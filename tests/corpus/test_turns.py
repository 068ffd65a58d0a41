"""Tools in conversations: every spelling becomes the same messages, calls are learned, results are not."""

import json
from pathlib import Path

import pytest

from dunwu.core.recipe import SftFileSource
from dunwu.core.records import Example, Message, ToolCall
from dunwu.corpus.conversations import encode_example
from dunwu.corpus.instructions import InstructionReader
from dunwu.tokenizer.bpe import train_tokenizer
from dunwu.tokenizer.load import load_tokenizer
from tests.tokenizer import foreign, templates

FUNCTION = {
    "name": "weather",
    "description": "天气",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
}
TOOL = {"type": "function", "function": FUNCTION}
CALL = ToolCall(id="call_0", name="weather", arguments='{"city": "上海"}')
CONVERSATION = (
    Message(role="user", content="How is Shanghai?"),
    Message(role="assistant", content="Let me see.", tool_calls=(CALL,)),
    Message(role="tool", content='{"c": 21}', tool_call_id="call_0", name="weather"),
    Message(role="assistant", content="21 degrees."),
)


def read(tmp_path: Path, *rows: object, **settings: object) -> tuple[list[Example], InstructionReader]:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    reader = InstructionReader(SftFileSource.model_validate({"path": str(path), **settings}))
    return list(reader), reader


def openai(call: object, result: object, **row: object) -> dict[str, object]:
    turns = [
        {"role": "user", "content": "How is Shanghai?"},
        {"role": "assistant", "content": "Let me see.", **(call if isinstance(call, dict) else {})},
        result,
        {"role": "assistant", "content": "21 degrees."},
    ]
    return {"messages": turns, **row}


ANSWERED = {"role": "tool", "tool_call_id": "call_0", "content": '{"c": 21}'}
ARGUMENTS = {"city": "上海"}
SPELLINGS = [
    openai(
        {
            "tool_calls": [
                {
                    "id": "call_0",
                    "type": "function",
                    "function": {"name": "weather", "arguments": json.dumps(ARGUMENTS)},
                }
            ]
        },
        ANSWERED,
        tools=[TOOL],
    ),
    openai(
        {"tool_calls": [{"id": "call_0", "function": {"name": "weather", "arguments": ARGUMENTS}}]},
        ANSWERED,
        tools=[TOOL],
    ),
    openai(
        {"tool_calls": [{"name": "weather", "arguments": ARGUMENTS}]},
        {"role": "tool", "content": '{"c": 21}'},
        tools=[FUNCTION],
    ),
    openai(
        {"function_call": {"name": "weather", "arguments": json.dumps(ARGUMENTS)}},
        {"role": "function", "name": "weather", "content": {"c": 21}},
        functions=[FUNCTION],
    ),
    {
        "conversations": [
            {"from": "human", "value": "How is Shanghai?"},
            {"from": "gpt", "value": "Let me see."},
            {"from": "function_call", "value": json.dumps({"name": "weather", "arguments": ARGUMENTS})},
            {"from": "observation", "value": '{"c": 21}'},
            {"from": "gpt", "value": "21 degrees."},
        ],
        "tools": json.dumps([FUNCTION]),
    },
]


@pytest.mark.parametrize("row", SPELLINGS)
def test_every_spelling_of_a_call_becomes_the_same_conversation(tmp_path, row):
    (example,), _ = read(tmp_path, row)
    assert example.messages == CONVERSATION
    assert example.tools == (TOOL,)


def test_api_banks_calls_bring_their_results_along(tmp_path):
    row = {
        "turns": [
            {"role": "User", "text": "How is Shanghai?"},
            {"role": "AI", "text": "Let me see."},
            {"role": "API", "api_name": "weather", "param_dict": ARGUMENTS, "result": {"c": 21}},
            {"role": "AI", "text": "21 degrees."},
        ]
    }
    (example,), _ = read(tmp_path, row)
    assert example.messages == CONVERSATION


def test_a_question_with_the_calls_that_answer_it_ends_with_them(tmp_path):
    answers = [{"name": "weather", "arguments": ARGUMENTS}, {"name": "weather", "arguments": {"city": "北京"}}]
    row = {"query": "How are both?", "tools": json.dumps([FUNCTION]), "answers": json.dumps(answers)}
    (example,), reader = read(tmp_path, row)
    assert reader.formats == {"rows.jsonl": "questions and calls"}
    assert [json.loads(call.arguments)["city"] for call in example.messages[-1].tool_calls] == ["上海", "北京"]


def test_results_in_another_order_answer_the_calls_that_they_name(tmp_path):
    call = [{"id": name, "function": {"name": name, "arguments": "{}"}} for name in ("a", "b")]
    results = [{"role": "tool", "tool_call_id": name, "content": name.upper()} for name in ("b", "a")]
    turns = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": None, "tool_calls": call}, *results]
    (example,), _ = read(tmp_path, {"messages": [*turns, {"role": "assistant", "content": "A"}]})
    assert [(message.name, message.content) for message in example.messages[2:4]] == [("b", "B"), ("a", "A")]


USER, WEATHER = {"role": "user", "content": "Q"}, {"name": "weather", "arguments": {}}
GOOD = {"messages": [USER, {"role": "assistant", "content": "A"}]}


@pytest.mark.parametrize(
    ("turns", "reason"),
    [
        ([USER, {"role": "assistant", "tool_calls": [WEATHER]}], "has a call of tools without its result"),
        (
            [USER, {"role": "assistant", "tool_calls": [WEATHER]}, USER, {"role": "assistant", "content": "A"}],
            "has a call of tools without its result",
        ),
        (
            [USER, {"role": "assistant", "tool_calls": [WEATHER, WEATHER]}, {"role": "tool", "content": "1"}, {"role": "assistant", "content": "A"}],
            "has a call of tools without its result",
        ),
        (
            [USER, {"role": "assistant", "tool_calls": [{**WEATHER, "id": "x"}]}, {"role": "tool", "tool_call_id": "y", "content": "1"}, {"role": "assistant", "content": "A"}],
            "has a result that answers no call",
        ),
        ([USER, {"role": "assistant", "tool_calls": [WEATHER]}, {"role": "tool", "content": "1"}], "does not end with an answer"),
        ([USER, {"role": "assistant", "tool_calls": [{"name": "weather", "arguments": "not json"}]}], "has a call whose arguments are no JSON"),
        ([USER, {"role": "assistant", "tool_calls": [{"name": "weather", "arguments": "[1]"}]}], "has a call whose arguments are no JSON object"),
        ([USER, {"role": "assistant", "tool_calls": [{"id": "x"}]}], "has a call of tools without name and arguments"),
        ([USER, {"role": "function_call", "content": "weather()"}], "has a call of tools that is no JSON"),
    ],
)  # fmt: skip
def test_calls_that_cannot_be_learned_are_dropped_for_their_own_reason(tmp_path, turns, reason):
    examples, reader = read(tmp_path, GOOD, {"messages": turns})
    assert len(examples) == 1
    assert dict(reader.dropped) == {reason: 1}
    assert "line 2" in reader.problems[0]


@pytest.mark.parametrize("tools", ["not json", 7, [{"description": "nameless"}]])
def test_tools_that_are_none_are_a_bad_row(tmp_path, tools):
    examples, reader = read(tmp_path, GOOD, {**GOOD, "tools": tools})
    assert len(examples) == 1
    assert next(iter(reader.dropped)).startswith("has")


def test_a_conversation_may_end_with_a_call_where_the_source_says_so(tmp_path):
    row = {"messages": [USER, {"role": "assistant", "tool_calls": [WEATHER]}]}
    (example,), _ = read(tmp_path, row, open_calls="keep")
    assert example.messages[-1].tool_calls[0].name == "weather"


def test_an_answer_of_weight_0_is_read_and_not_learned(tmp_path):
    turns = [
        USER,
        {"role": "assistant", "content": "bad answer", "weight": 0},
        USER,
        {"role": "assistant", "content": "good answer", "weight": 1},
    ]
    (example,), _ = read(tmp_path, {"messages": turns, "system": "S"})
    assert example.only_read == {2}
    tokenizer = train_tokenizer(["good bad answer"], vocab_size=300, out=tmp_path)
    tokens = encode_example(tokenizer, example)
    assert tokenizer.decode(tokens.ids[tokens.learned], skip_special=False) == "good answer<|im_end|>"


def test_calls_are_inside_the_loss_and_results_outside(tmp_path):
    tokenizer = train_tokenizer(["weather city 上海 21 degrees"], vocab_size=300, out=tmp_path)
    tokens = encode_example(tokenizer, Example(messages=CONVERSATION, source="", tools=(TOOL,)))
    learned = tokenizer.decode(tokens.ids[tokens.learned], skip_special=False)
    assert learned == (
        'Let me see.\n<tool_call>\n{"name": "weather", "arguments": {"city": "上海"}}\n</tool_call><|im_end|>'
        "21 degrees.<|im_end|>"
    )
    read_only = tokenizer.decode(tokens.ids[~tokens.learned], skip_special=False)
    assert '<tool_response>\n{"c": 21}\n</tool_response>' in read_only
    assert json.dumps(TOOL, ensure_ascii=False) in read_only


PLAIN = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


@pytest.mark.parametrize("template", [PLAIN, templates.QWEN25])
def test_calls_are_learned_in_an_open_models_template_whether_it_knows_tools_or_not(tmp_path, template):
    tokenizer = load_tokenizer(foreign.qwen(tmp_path, chat_template=template))
    example = Example(messages=CONVERSATION, source="", tools=(TOOL,), only_read=frozenset({3}))
    tokens = encode_example(tokenizer, example)
    assert tokenizer.decode(tokens.ids[tokens.learned], skip_special=False) == (
        'Let me see.\n<tool_call>\n{"name": "weather", "arguments": {"city": "上海"}}\n</tool_call><|im_end|>'
    )
    read_only = tokenizer.decode(tokens.ids[~tokens.learned], skip_special=False)
    assert "<tool_response>" in read_only
    assert "21 degrees.<|im_end|>" in read_only
