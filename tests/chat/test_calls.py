"""Calls of tools found in what models write, and forced."""

import json
import random

import jsonschema
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dunwu.chat.calls import CallDelta, CallParser, gathered, parse_calls
from dunwu.chat.forms import HERMES, LLAMA, MISTRAL, call_form, tool_constraint
from dunwu.core.errors import RecipeError
from dunwu.core.records import Message
from dunwu.infer.constrain import Grammars
from dunwu.tokenizer.load import load_tokenizer
from dunwu.tokenizer.template import encode_prompt
from tests.infer.tiny import tiny_tokenizer
from tests.tokenizer import foreign, templates

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "parameters": {
                "type": "object",
                "properties": {
                    "city": {"enum": ["北京", "Paris"]},
                    "days": {"type": "integer", "minimum": 1, "maximum": 9},
                },
                "required": ["city"],
                "additionalProperties": False,
            },
        },
    },
    {"type": "function", "function": {"name": "stop"}},
]
ROME = '{"name": "weather", "arguments": {"city": "Ro\\"}me", "in": [{"a": "}"}]}}'
ARGUMENTS = '{"city": "Ro\\"}me", "in": [{"a": "}"}]}'
CASES = {
    "one": (HERMES, f"<tool_call>\n{ROME}\n</tool_call>", "", [("weather", ARGUMENTS)]),
    "words and two calls": (
        HERMES,
        f'I look. <b>\n<tool_call>{ROME}</tool_call>\n<tool_call>\n{{"name":"stop","arguments":{{}}}}</tool_call>\n',
        "I look. <b>",
        [("weather", ARGUMENTS), ("stop", "{}")],
    ),
    "words after": (HERMES, f"<tool_call>{ROME}</tool_call> Done.", " Done.", [("weather", ARGUMENTS)]),
    "arguments first": (
        HERMES,
        '<tool_call>{"arguments": {"a": 1}, "id": [1], "name": "x"}</tool_call>',
        "",
        [("x", '{"a": 1}')],
    ),
    "arguments as a string": (
        HERMES,
        '<tool_call>{"name": "x", "arguments": "{\\"a\\": 1}"}</tool_call>',
        "",
        [("x", '{"a": 1}')],
    ),
    "no arguments": (HERMES, '<tool_call>{"name": "x"}</tool_call>', "", [("x", "{}")]),
    "null arguments": (HERMES, '<tool_call>{"name": "x", "arguments": null}</tool_call>', "", [("x", "{}")]),
    "a brace too many": (HERMES, '<tool_call>{"name": "x", "arguments": {}}}\n</tool_call>ok', "ok", [("x", "{}")]),
    "unclosed": (HERMES, '<tool_call>\n{"name": "x", "arguments": {"a": 1}}', "", [("x", '{"a": 1}')]),
    "cut in the closing mark": (HERMES, '<tool_call>{"name": "x", "arguments": {}}\n</tool_', "", [("x", "{}")]),
    "cut in the arguments": (HERMES, '<tool_call>{"name": "x", "arguments": {"a": "b', "", [("x", '{"a": "b')]),
    "cut in the name": (HERMES, ' <tool_call>{"name": "x', ' <tool_call>{"name": "x', []),
    "no JSON": (HERMES, "a <tool_call>weather(Rome)</tool_call>", "a <tool_call>weather(Rome)</tool_call>", []),
    "no name": (HERMES, '<tool_call>{"arguments": {}}</tool_call>', '<tool_call>{"arguments": {}}</tool_call>', []),
    "arguments that are none": (
        HERMES,
        '<tool_call>{"name": "x", "arguments": [1]}',
        '<tool_call>{"name": "x", "arguments": [1]}',
        [],
    ),
    "a bad one, then a good one": (
        HERMES,
        f"<tool_call>oh<tool_call>{ROME}</tool_call>",
        "<tool_call>oh",
        [("weather", ARGUMENTS)],
    ),
    "not closed before the next": (
        HERMES,
        '<tool_call>{"name": "x", "arguments": {}}\n<tool_call>{"name": "y", "arguments": {}}</tool_call>',
        "",
        [("x", "{}"), ("y", "{}")],
    ),
    "bare marks": (HERMES, "weather <tool", "weather <tool", []),
    "llama": (LLAMA, '{"name": "weather", "parameters": {"city": "Rome"}}', "", [("weather", '{"city": "Rome"}')]),
    "llama with its type": (LLAMA, '\n{"type": "function", "name": "stop", "parameters": {}}', "", [("stop", "{}")]),
    "llama, two": (
        LLAMA,
        '{"name": "stop", "parameters": {}}; {"name": "weather", "parameters": {}}',
        "",
        [("stop", "{}"), ("weather", "{}")],
    ),
    "llama, a mark": (LLAMA, '<|python_tag|>{"name": "f", "parameters": {}}', "", [("f", "{}")]),
    "llama, JSON that is no call": (
        LLAMA,
        '{"city": "Rome", "name": "weather"}',
        '{"city": "Rome", "name": "weather"}',
        [],
    ),
    "llama, a name that is no tool": (
        LLAMA,
        '{"name": "Alice", "parameters": {}}',
        '{"name": "Alice", "parameters": {}}',
        [],
    ),
    "llama, words": (LLAMA, 'So {"name": "stop"}', 'So {"name": "stop"}', []),
    "mistral": (
        MISTRAL,
        '[TOOL_CALLS] [{"name": "f", "arguments": {"a": [1]}}, {"name": "g", "arguments": {}}]',
        "",
        [("f", '{"a": [1]}'), ("g", "{}")],
    ),
    "mistral, new": (MISTRAL, '[TOOL_CALLS]f[ARGS]{"a": 1}[TOOL_CALLS]g[ARGS]{}', "", [("f", '{"a": 1}'), ("g", "{}")]),
}


@pytest.mark.parametrize("case", CASES)
def test_calls_are_found_and_what_is_none_stays_text(case):
    form, written, text, calls = CASES[case]
    said, found = parse_calls(form, written, TOOLS)
    assert (said, [(call.name, call.arguments) for call in found]) == (text, calls)
    assert len({call.id for call in found}) == len(found)


@pytest.mark.parametrize("case", CASES)
def test_pieces_joined_are_the_whole_however_they_come(case):
    form, written, _, _ = CASES[case]
    chance = random.Random(case)
    whole = parse_calls(form, written, TOOLS)
    for size in (1, 2, 3, 7, 20):
        parser = CallParser(form, TOOLS, new_id=lambda characters: f"id{characters}")
        pieces = []
        rest = written
        while rest:
            step = chance.randint(1, size)
            pieces += parser.push(rest[:step])
            rest = rest[step:]
        pieces += parser.finish()
        said, found = gathered(pieces)
        assert (said, [(one.name, one.arguments) for one in found]) == (
            whole[0],
            [(one.name, one.arguments) for one in whole[1]],
        )
        named = [piece for piece in pieces if isinstance(piece, CallDelta) and piece.name]
        assert [piece.index for piece in named] == list(range(len(found)))
        assert parser.calls == len(found)


def test_arguments_stream_as_they_are_written():
    parser = CallParser(HERMES, TOOLS)
    assert parser.push('Ok\n<tool_call>\n{"name": "weather", "argu') == ["Ok"]
    (begun,) = parser.push('ments": {"ci')
    assert (begun.index, begun.name, begun.arguments) == (0, "weather", '{"ci')
    assert begun.id.startswith("call_")
    assert parser.push('ty": ') == [CallDelta(index=0, arguments='ty": ')]
    assert parser.push('"Rome"}}\n</tool_call>\n') == [CallDelta(index=0, arguments='"Rome"}')]
    assert parser.finish() == []


def test_text_without_a_mark_is_not_held_back():
    parser = CallParser(HERMES, TOOLS)
    assert parser.push("a < b <tool") == ["a < b"]
    assert parser.push("box") == [" <toolbox"]
    assert CallParser(LLAMA, TOOLS).push('{"city') == []
    bare = CallParser(LLAMA, TOOLS)
    assert bare.push('{"city":') == ['{"city":']


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.sampled_from(
            [
                '{"name"',
                ": ",
                '"stop"',
                "<tool_call>",
                "</tool_call>",
                "[TOOL_CALLS]",
                "}",
                "{",
                "[",
                "]",
                ",",
                '"',
                "\\",
                "\n",
                "a",
                '"arguments"',
            ]
        ),
        max_size=25,
    ),
    st.sampled_from([HERMES, LLAMA, MISTRAL]),
)
def test_no_output_breaks_the_parser_and_text_without_calls_is_kept(parts, form):
    written = "".join(parts)
    said, calls = parse_calls(form, written, TOOLS)
    if not calls:
        assert said == written
    assert len(said) <= len(written)


@pytest.mark.parametrize(
    ("build", "template", "form"),
    [
        (foreign.qwen, templates.QWEN3, HERMES),
        (foreign.qwen, templates.QWEN25, HERMES),
        (foreign.llama3, templates.LLAMA3, LLAMA),
        (foreign.gemma, templates.GEMMA3, HERMES),
    ],
    ids=["qwen3", "qwen2.5", "llama3", "gemma3"],
)
def test_the_form_is_read_from_the_template(tmp_path, build, template, form):
    tokenizer = load_tokenizer(build(tmp_path, chat_template=template))
    assert call_form(tokenizer) == form


def test_our_own_models_write_hermes_form(tmp_path):
    assert call_form(tiny_tokenizer(tmp_path)) == HERMES


@pytest.fixture(scope="module")
def grammars(tmp_path_factory):
    tokenizer = tiny_tokenizer(tmp_path_factory.mktemp("grammars"))
    return Grammars(tokenizer, tokenizer.vocab_size), tokenizer


def written_by_chance(grammars, constraint, seed):
    """What a model of no sense writes within a constraint."""
    made, tokenizer = grammars
    matcher = made.matcher(constraint)
    draws = torch.Generator().manual_seed(seed)
    ids: list[int] = []
    while not matcher.finished and len(ids) < 4000:
        number = int(torch.multinomial(matcher.mask().float(), 1, generator=draws))
        matcher.accept(number)
        ids.append(number)
    return tokenizer.decode(ids)


NAMED = {"type": "function", "function": {"name": "weather"}}


@pytest.mark.parametrize("form", [HERMES, LLAMA, MISTRAL], ids=["hermes", "llama", "mistral"])
@pytest.mark.parametrize("choice", ["required", NAMED], ids=["required", "named"])
def test_a_random_model_makes_valid_calls_where_they_are_required(grammars, form, choice):
    schemas = {"weather": TOOLS[0]["function"]["parameters"], "stop": {"type": "object"}}
    tools = TOOLS if choice == NAMED else TOOLS[:1]  # a random model does not end an object of any content
    for seed in range(8):
        constraint = tool_constraint(tools, choice, form)
        text, calls = parse_calls(form, written_by_chance(grammars, constraint, seed), tools)
        assert text == ""
        assert len(calls) == 1 if choice == NAMED else len(calls) >= 1
        for call in calls:
            jsonschema.validate(json.loads(call.arguments), schemas[call.name])


def test_auto_leaves_text_free_and_holds_a_call_to_its_tools(grammars):
    made, tokenizer = grammars
    constraint = tool_constraint(TOOLS, "auto", HERMES)
    free = tokenizer.encode('Well, <tool_call> is a mark. <tool_call>\n{"name": "st')
    assert made.matcher(constraint).accepted(free) == len(free)
    wrong = tokenizer.encode('<tool_call>\n{"name": "nothing"')
    assert made.matcher(constraint).accepted(wrong) < len(wrong)
    assert tool_constraint(TOOLS, "auto", LLAMA) is None
    assert tool_constraint(TOOLS, "none", HERMES) is None
    assert tool_constraint([], "auto", HERMES) is None


@pytest.mark.parametrize(
    ("tools", "choice", "message"),
    [
        (TOOLS, {"type": "function", "function": {"name": "fly"}}, "'fly', and the tools are: 'weather', 'stop'"),
        ([], "required", "without tools"),
        (TOOLS, "sometimes", "use 'none', 'auto', 'required'"),
        ([{"type": "function", "function": "f"}], "auto", "see OpenAI's form"),
        ([{"type": "function", "function": {}}], "required", '"name"'),
    ],
)
def test_choices_that_cannot_be_kept_are_refused(tools, choice, message):
    with pytest.raises(RecipeError, match=message):
        tool_constraint(tools, choice, HERMES)


def test_what_was_parsed_is_rendered_as_it_was_written(tmp_path):
    """A call that goes back into the conversation gives the tokens that the model wrote, so that the cache is hit."""
    tokenizer = tiny_tokenizer(tmp_path)
    asked = Message(role="user", content="Rome?")
    prompt = encode_prompt(tokenizer, [asked], tools=TOOLS)
    written = 'I look.\n<tool_call>\n{"name": "weather", "arguments": {"city": "Rome", "days": 2}}\n</tool_call>'
    text, calls = parse_calls(call_form(tokenizer), written, TOOLS)
    turn = Message(role="assistant", content=text, tool_calls=calls)
    again = encode_prompt(
        tokenizer, [asked, turn, Message(role="tool", content="sun", tool_call_id=calls[0].id)], tools=TOOLS
    )
    ids = [*prompt, *tokenizer.encode(written), tokenizer.im_end_id]
    assert again[: len(ids)] == ids
