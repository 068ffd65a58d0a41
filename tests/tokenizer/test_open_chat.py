"""Chat templates of open models: the same text and ids as transformers, nothing typed parsed, the right tokens learned."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from dunwu.core.errors import DataError, TokenizerError
from dunwu.core.records import Message, ToolCall
from dunwu.tokenizer.load import load_tokenizer
from dunwu.tokenizer.open import OpenTokenizer
from dunwu.tokenizer.template import encode_chat, encode_prompt, render, render_chat, verify_mask

from . import foreign, templates

STYLES = {
    "llama2": (foreign.llama2, templates.LLAMA2),
    "llama3": (foreign.llama3, templates.LLAMA3),
    "qwen2.5": (foreign.qwen, templates.QWEN25),
    "qwen3": (foreign.qwen, templates.QWEN3),
    "gemma2": (foreign.gemma, templates.GEMMA2),
    "gemma3": (foreign.gemma, templates.GEMMA3),
    "mistral": (foreign.mistral, templates.MISTRAL),
    "phi3": (foreign.phi3, templates.PHI3),
    "phi4-mini": (foreign.phi3, templates.PHI4_MINI),
    "deepseek": (foreign.deepseek, templates.DEEPSEEK),
    "glm4": (foreign.glm4, templates.GLM4),
    "smollm3": (foreign.qwen, templates.SMOLLM3),
    "gpt-oss": (foreign.gpt_oss, templates.GPT_OSS),
    "percent": (foreign.qwen, templates.PERCENT),  # minijinja has no % for strings: jinja2 renders it
}
TALK = (
    Message(role="system", content=" Be brief.\n请简短。 "),
    Message(role="user", content="  几只 dogs?\n"),
    Message(role="assistant", content="\n Two: 两只。 "),
    Message(role="user", content="Sure? 🧬"),
    Message(role="assistant", content="Yes!"),
)
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "The weather of a <place> & 'its' air, 天气",
            "parameters": {
                "type": "object",
                "required": ["place"],
                "properties": {
                    "place": {"type": "string", "description": "where"},
                    "unit": {"type": "string", "enum": ["C", "F"], "default": "C"},
                    "days": {"type": "array", "items": {"type": "string"}, "nullable": True},
                    "limits": {"type": "object", "properties": {"low": {"type": "number", "default": 1.0}}},
                    "any": {"oneOf": [{"type": ["integer", "null"]}, {"type": "boolean"}]},
                },
            },
        },
    }
]


@pytest.fixture(scope="module", params=STYLES)
def pair(request, tmp_path_factory):
    """The same folder read by us and by transformers."""
    build, template = STYLES[request.param]
    folder = build(tmp_path_factory.mktemp("style"), chat_template=template)
    return load_tokenizer(folder), AutoTokenizer.from_pretrained(folder)


def rows(messages):
    return [{"role": message.role, "content": message.content} for message in messages]


def turns(tokenizer) -> tuple[Message, ...]:
    """The conversation, without its system message where the template refuses one."""
    return TALK[1:] if "System role not" in (tokenizer.chat_template or "") else TALK


@pytest.mark.parametrize(
    "asked",
    [{}, {"tools": TOOLS}, {"enable_thinking": False}, {"date_string": "1 Jan 2026"}],
    ids=["plain", "tools", "no-thinking", "date"],
)
def test_text_and_ids_are_those_of_transformers(pair, asked):
    ours, theirs = pair
    talk = turns(ours)
    for end in range(len(talk) % 2 + 1, len(talk) + 1):
        for prompt in (False, True):
            messages = talk[:end]
            given_to_both = {"add_generation_prompt": prompt, **asked}
            text = theirs.apply_chat_template(rows(messages), tokenize=False, **given_to_both)
            assert render_chat(ours, messages, **given_to_both) == text
            ids = theirs.apply_chat_template(rows(messages), return_dict=True, **given_to_both)["input_ids"]
            assert encode_chat(ours, messages, **given_to_both).ids.tolist() == ids


def test_nothing_that_a_user_types_is_a_control_token(pair):
    ours, _ = pair
    names = [*ours.control_ids, *ours.control_ids]
    attack = Message(role="user", content="x" + "\n".join(names) + "x")
    plain = Message(role="user", content="x" + "\n".join("y" * len(name) for name in names) + "x")
    ids, harmless = (
        encode_chat(ours, [message], add_generation_prompt=True).ids.tolist() for message in (attack, plain)
    )
    control = set(ours.control_ids.values())
    assert [number for number in ids if number in control] == [number for number in harmless if number in control]
    if ours.spells_bytes:
        assert "\n".join(names) in ours.decode(ids)


def test_learned_are_the_answers_with_their_ends(pair, request):
    ours, _ = pair
    style = request.node.callspec.params["pair"]
    talk = (*turns(ours)[:-1], Message(role="assistant", content="Yes!"))
    tokens = encode_chat(ours, talk)
    learned = ours.decode(tokens.ids[tokens.learned].tolist(), skip_special=False)
    assert learned == LEARNED[style]


# A token that joins the header's line break with the answer's is learned; a control token may swallow the space after it.
LEARNED = {
    "llama2": "Two: 两只。 </s>Yes! </s>",
    "llama3": "Two: 两只。<|eot_id|>Yes!<|eot_id|>",
    "qwen2.5": "\n\n Two: 两只。 <|im_end|>Yes!<|im_end|>",
    "qwen3": "\n\n Two: 两只。 <|im_end|><think>\n\n</think>\n\nYes!<|im_end|>",
    "gemma2": "Two: 两只。<end_of_turn>Yes!<end_of_turn>",
    "gemma3": "Two: 两只。<end_of_turn>Yes!<end_of_turn>",
    "mistral": "Two: 两只。 </s>Yes!</s>",
    "phi3": "Two: 两只。 <|end|> Yes!<|end|>",
    "phi4-mini": "Two: 两只。 <|end|> Yes!<|end|>",
    "deepseek": "\n Two: 两只。 <｜end▁of▁sentence｜>Yes!<｜end▁of▁sentence｜>",
    "glm4": "\n\n Two: 两只。 <|user|>\nYes!",
    "smollm3": "<|im_start|>assistant\n Two: 两只。 <|im_end|>\n<|im_start|>assistant\nYes!<|im_end|>\n",
    "gpt-oss": "<|channel|>final<|message|>\n Two: 两只。 <|end|><|channel|>final<|message|>Yes!<|return|>",
    "percent": "\n\n Two: 两只。 <|im_end|>Yes!<|im_end|>",
}


def test_verify_mask_passes_what_can_be_trained_and_says_what_is_wrong(pair, request):
    ours, _ = pair
    style = request.node.callspec.params["pair"]
    if style == "glm4":  # the header of the next turn is what ends an answer, so that the last one has no end
        with pytest.raises(
            TokenizerError, match="no token ends answer 2, so that a model trained on it would never stop"
        ):
            verify_mask(ours)
    else:
        verify_mask(ours)


def qwen3(folder: Path, template: str = templates.QWEN3) -> OpenTokenizer:
    tokenizer = load_tokenizer(foreign.qwen(folder, chat_template=template))
    assert isinstance(tokenizer, OpenTokenizer)
    return tokenizer


def test_thoughts_of_the_model_are_its_own_tokens_and_those_of_a_user_are_text(tmp_path):
    ours = qwen3(tmp_path)
    think = ours.control_ids["<think>"]
    said = "<think>\nHm, 2.\n</think>\n\nTwo."
    typed = encode_chat(ours, [Message(role="user", content=said)]).ids.tolist()
    assert think not in typed
    talk = [*TALK[1:4], Message(role="assistant", content=said)]
    tokens = encode_chat(ours, talk)
    theirs = AutoTokenizer.from_pretrained(tmp_path).apply_chat_template(rows(talk), return_dict=True)["input_ids"]
    assert tokens.ids.tolist() == theirs
    learned = ours.decode(tokens.ids[tokens.learned].tolist(), skip_special=False)
    assert learned.endswith(said + "<|im_end|>")
    earlier = [TALK[1], Message(role="assistant", content=said), *TALK[3:]]  # the template forgets earlier thoughts
    tokens = encode_chat(ours, earlier)
    learned = ours.decode(tokens.ids[tokens.learned].tolist(), skip_special=False)
    assert learned == "Two.<|im_end|><think>\n\n</think>\n\nYes!<|im_end|>"


def test_the_mask_of_generation_markers_is_that_of_transformers(tmp_path):
    ours = qwen3(tmp_path, templates.SMOLLM3)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    found = theirs.apply_chat_template(rows(TALK), return_dict=True, return_assistant_tokens_mask=True)
    tokens = encode_chat(ours, TALK)
    assert tokens.ids.tolist() == found["input_ids"]
    assert tokens.learned.astype(int).tolist() == found["assistant_masks"]


def test_a_template_that_refuses_a_conversation_says_so(tmp_path):
    gemma = load_tokenizer(foreign.gemma(tmp_path, chat_template=templates.GEMMA2))
    with pytest.raises(DataError, match="System role not supported"):
        encode_chat(gemma, TALK, add_generation_prompt=True)


def test_answers_that_a_template_rewrites_cannot_be_masked(tmp_path):
    template = templates.PHI3.replace("<|end|>", "<|im_end|>")
    ours = qwen3(tmp_path, template.replace("message['content'] +", "message['content'] | upper +"))
    verify_mask(qwen3(tmp_path / "plain", template.replace("eos_token", "''")))
    with pytest.raises(TokenizerError, match=r"put {% generation %}"):
        verify_mask(ours)


@settings(max_examples=60, deadline=None)
@given(question=st.text(), answer=st.text(min_size=1), style=st.sampled_from(["llama2", "qwen3", "gemma3", "gpt-oss"]))
def test_any_words_give_the_ids_of_transformers(both_of, question, answer, style):
    ours, theirs = both_of[style]
    talk = [Message(role="user", content=question), Message(role="assistant", content=answer), TALK[3]]
    ids = theirs.apply_chat_template(rows(talk), return_dict=True, add_generation_prompt=True)["input_ids"]
    assert encode_chat(ours, talk, add_generation_prompt=True).ids.tolist() == ids
    assert encode_chat(ours, talk[:2]).ids.tolist() == theirs.apply_chat_template(rows(talk[:2]))["input_ids"]


@pytest.fixture(scope="module")
def both_of(tmp_path_factory):
    pairs = {}
    for style in ("llama2", "qwen3", "gemma3", "gpt-oss"):
        build, template = STYLES[style]
        folder = build(tmp_path_factory.mktemp(style), chat_template=template)
        pairs[style] = (load_tokenizer(folder), AutoTokenizer.from_pretrained(folder))
    return pairs


def test_a_model_of_its_own_template_for_tools(tmp_path):
    named = [
        {"name": "default", "template": "{{ messages[0].content }}"},
        {"name": "tool_use", "template": "{{ tools | tojson }}"},
    ]
    ours = load_tokenizer(foreign.gpt2(tmp_path))
    assert ours.chat_template is None
    with pytest.raises(TokenizerError, match="has no chat template"):
        encode_chat(ours, TALK)
    with_both = load_tokenizer(foreign.qwen(tmp_path / "two", chat_template=named))
    assert render_chat(with_both, TALK[1:2]) == TALK[1].content
    assert "get_weather" in render_chat(with_both, TALK[1:2], tools=TOOLS)
    (tmp_path / "two" / "chat_template.jinja").write_text("file: {{ messages[0].content }}", "utf-8")
    assert render_chat(load_tokenizer(tmp_path / "two"), TALK[1:2]).startswith("file: ")


CALL = ToolCall(id="abc123def", name="get_weather", arguments='{"place": "Rome", "limits": {"low": 2.5}}')
ASKED = Message(role="user", content="Weather?")
CALLED = (
    ASKED,
    Message(role="assistant", tool_calls=(CALL,)),
    Message(role="tool", content="sunny", tool_call_id="abc123def"),
)
CALLED_ROWS = [
    {"role": "user", "content": "Weather?"},
    {
        "role": "assistant",
        "content": "",
        "tool_calls": [
            {
                "id": "abc123def",
                "type": "function",
                "function": {"name": "get_weather", "arguments": {"place": "Rome", "limits": {"low": 2.5}}},
            }
        ],
    },
    {"role": "tool", "content": "sunny", "tool_call_id": "abc123def", "name": "get_weather"},
]


def test_calls_and_results_reach_each_template_as_in_transformers(pair):
    ours, theirs = pair
    ids = encode_prompt(ours, CALLED, tools=TOOLS)
    if "tools" in ours.template_for(tools=True):
        given_to_both = {"tools": TOOLS, "add_generation_prompt": True}
        assert ids == theirs.apply_chat_template(CALLED_ROWS, return_dict=True, **given_to_both)["input_ids"]
    else:
        text = ours.decode(ids)
        assert '"name": "get_weather", "description": "The weather of a' in text
        assert (
            '<tool_call>\n{"name": "get_weather", "arguments": {"place": "Rome", "limits": {"low": 2.5}}}\n</tool_call>'
            in text
        )
        assert "<tool_response>\nsunny\n</tool_response>" in text


def test_a_template_without_tools_gets_them_in_the_words_of_ours(tmp_path):
    plain = (
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
    )
    ours = load_tokenizer(foreign.qwen(tmp_path, chat_template=plain))
    more = (*CALLED, CALLED[2])
    for talk in (more, (Message(role="system", content="S"), *more)):
        text = ours.decode(encode_prompt(ours, talk, tools=TOOLS), skip_special=False)
        assert text == render(talk, add_generation_prompt=True, tools=TOOLS)


def test_an_open_model_continues_the_beginning_of_an_answer(pair):
    ours, theirs = pair
    begun = encode_prompt(ours, [ASKED, Message(role="assistant", content="It is<|im_end|>")])
    text = theirs.apply_chat_template(rows([ASKED]), tokenize=False, add_generation_prompt=True)
    assert ours.decode(begun, skip_special=False).endswith("It is<|im_end|>") or not ours.spells_bytes
    assert begun[:-1] != encode_prompt(ours, [ASKED])
    stop = ours.control_ids.get("<|im_end|>")
    assert begun.count(stop) == theirs(text, add_special_tokens=False)["input_ids"].count(stop)


def test_calls_are_learned_in_a_template_that_marks_nothing_but_begins_each_turn_alike(tmp_path):
    ours = load_tokenizer(foreign.qwen(tmp_path, chat_template=templates.QWEN25))
    tokens = encode_chat(ours, (*CALLED, Message(role="assistant", content="Sunny.")), tools=TOOLS)
    theirs = AutoTokenizer.from_pretrained(tmp_path).apply_chat_template(
        [*CALLED_ROWS, {"role": "assistant", "content": "Sunny."}], tools=TOOLS, return_dict=True
    )
    assert tokens.ids.tolist() == theirs["input_ids"]
    learned = ours.decode(tokens.ids[tokens.learned], skip_special=False)
    assert learned == (
        '<tool_call>\n{"name": "get_weather", "arguments": {"place": "Rome", "limits": {"low": 2.5}}}\n</tool_call><|im_end|>'
        "Sunny.<|im_end|>"
    )


def test_calls_are_not_learned_where_the_template_does_not_show_them(tmp_path):
    hidden = "{% for m in messages %}{{ m.role + m.content + '<|im_end|>' }}{% endfor %}{% if tools %}tools{% endif %}"
    ours = load_tokenizer(foreign.qwen(tmp_path, chat_template=hidden))
    with pytest.raises(DataError, match=r"put \{% generation %\} and"):
        encode_chat(ours, (*CALLED, Message(role="assistant", content="Sunny.")), tools=TOOLS)
