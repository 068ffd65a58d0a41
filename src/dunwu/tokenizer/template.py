"""The chat template of the models that we grow, ChatML: it makes the training mask, the engine's prompt and the exported file.

`encode_chat`, `encode_prompt` and `render_chat` serve open models with templates of their own too, by way of `open_chat`.

The Jinja text below is exported as it is. Hugging Face's `{% generation %}` markers in it become private-use characters when it
is rendered here, from which the loss mask is read; another such character breaks up names of special tokens in what was typed.
"""

import functools
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from dunwu.core.errors import DataError, TokenizerError
from dunwu.core.records import Message, Tokens
from dunwu.tokenizer.like import TokenizerLike
from dunwu.tokenizer.open import OpenTokenizer
from dunwu.tokenizer.open_chat import encode_open_chat, free_characters, next_mark, render_open_chat, verify_open_mask
from dunwu.tokenizer.render import render_template
from dunwu.tokenizer.spelling import well_formed
from dunwu.tokenizer.tool_text import (
    TOOLS_AFTER,
    TOOLS_BEFORE,
    Tool,
    mapped,
    message_rows,
    require_json,
    spelled_out,
    uses_tools,
)

# Contents are trimmed, so that no token ever spans the border between a turn's header and its content.
CHAT_TEMPLATE = """\
{%- if tools -%}
{{- '<|im_start|>system\\n' -}}
{%- if messages[0]['role'] == 'system' and messages[0]['content'] | trim -%}
{{- messages[0]['content'] | trim + '\\n\\n' -}}
{%- endif -%}
{{- 'TOOLS_BEFORE' -}}
{%- for tool in tools -%}{{- '\\n' -}}{{- tool | tojson -}}{%- endfor -%}
{{- 'TOOLS_AFTER<|im_end|>\\n' -}}
{%- endif -%}
{%- for message in messages -%}
{%- if message['role'] == 'tool' -%}
{%- if loop.first or messages[loop.index0 - 1]['role'] != 'tool' -%}{{- '<|im_start|>user' -}}{%- endif -%}
{{- '\\n<tool_response>\\n' + message['content'] | trim + '\\n</tool_response>' -}}
{%- if loop.last or messages[loop.index0 + 1]['role'] != 'tool' -%}{{- '<|im_end|>\\n' -}}{%- endif -%}
{%- elif not (tools and loop.first and message['role'] == 'system') -%}
{{- '<|im_start|>' + message['role'] + '\\n' -}}
{%- if message['role'] == 'assistant' -%}
{%- generation -%}
{%- set said = (message['content'] or '') | trim -%}
{{- said -}}
{%- for tool_call in message['tool_calls'] or [] -%}
{%- set call = tool_call['function'] or tool_call -%}
{%- if said or not loop.first -%}{{- '\\n' -}}{%- endif -%}
{{- '<tool_call>\\n{"name": ' -}}{{- call['name'] | tojson -}}{{- ', "arguments": ' -}}
{%- if call['arguments'] is string -%}{{- call['arguments'] -}}{%- else -%}{{- call['arguments'] | tojson -}}{%- endif -%}
{{- '}\\n</tool_call>' -}}
{%- endfor -%}
{{- '<|im_end|>' -}}
{%- endgeneration -%}
{%- else -%}
{{- message['content'] | trim + '<|im_end|>' -}}
{%- endif -%}
{{- '\\n' -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '<|im_start|>assistant\\n' -}}
{%- endif -%}
""".replace("TOOLS_BEFORE", TOOLS_BEFORE.replace("\n", r"\n")).replace("TOOLS_AFTER", TOOLS_AFTER.replace("\n", r"\n"))


def validate_messages(messages: Sequence[Message]) -> None:
    """Raise DataError unless there is at most one system message, first, then user and assistant in turn, user first. After an
    assistant's calls come their results, of role "tool", and then the assistant again."""
    if not messages:
        raise DataError("a conversation has no messages; give at least one from the user")
    turns = messages[1:] if messages[0].role == "system" else messages
    wanted = ("user",)
    for place, message in enumerate(turns):
        if message.role not in wanted:
            number = place + 1 + len(messages) - len(turns)
            raise DataError(
                f"message {number} has role {message.role!r} where {' or '.join(map(repr, wanted))} is due; "
                "after an optional system message, user and assistant take turns, the user first, and after a call of tools "
                "come their results"
            )
        wanted = _may_follow(message)
    if not turns:
        raise DataError("a conversation has only a system message; add one from the user")


def _may_follow(message: Message) -> tuple[str, ...]:
    match message.role:
        case "assistant":
            return ("tool",) if message.tool_calls else ("user",)
        case "tool":
            return ("tool", "assistant")
        case _:
            return ("assistant",)


def render(messages: Sequence[Message], *, add_generation_prompt: bool = False, tools: Sequence[Tool] = ()) -> str:
    """The conversation as the template writes it, for eyes and for engines that parse special tokens out of text.

    Our own ids come from `encode_chat`, which never parses a special token out of what somebody typed. Raises DataError for
    roles out of order.
    """
    validate_messages(messages)
    rows = [{**row, "content": row["content"].strip()} for row in message_rows(messages)]
    context = {"messages": rows, "tools": list(tools), "add_generation_prompt": add_generation_prompt}
    return render_template(CHAT_TEMPLATE, context)


def render_chat(
    tokenizer: TokenizerLike, messages: Sequence[Message], *, add_generation_prompt: bool = False, **settings: Any
) -> str:
    """The conversation as the tokenizer's own template writes it; `settings` go to the template of an open model.

    Raises DataError for roles out of order, or when the template refuses the conversation.
    """
    if isinstance(tokenizer, OpenTokenizer):
        validate_messages(messages)
        return render_open_chat(tokenizer, messages, add_generation_prompt=add_generation_prompt, **settings)
    return render(messages, add_generation_prompt=add_generation_prompt, tools=settings.get("tools") or ())


def encode_chat(
    tokenizer: TokenizerLike, messages: Sequence[Message], *, add_generation_prompt: bool = False, **settings: Any
) -> Tokens:
    """The ids of a conversation; `learned` is true on what the assistant says and on the end-of-turn token after it.

    Names of special tokens inside a message are encoded as plain text. `settings`, such as `tools` (in OpenAI's form) or
    `enable_thinking`, go to the template; ours reads `tools` alone. Raises DataError for roles out of order, or when the
    template refuses the conversation.
    """
    validate_messages(messages)
    if isinstance(tokenizer, OpenTokenizer):
        return encode_open_chat(tokenizer, messages, add_generation_prompt=add_generation_prompt, **settings)
    return _encode(tokenizer, messages, settings.get("tools") or (), add_generation_prompt)


def encode_prompt(
    tokenizer: TokenizerLike, messages: Sequence[Message], *, tools: Sequence[Tool] = (), **settings: Any
) -> list[int]:
    """The ids of a conversation that the model is to go on with, in whatever order the roles come; none is learned from.

    Where the last message is the assistant's words, the model continues these; otherwise it begins a turn. `tools` (OpenAI's
    form) and calls are spelled out in the text for a template that does not know any. A developer's message is a system
    message, except to a template that knows developers. Raises DataError for no messages, and when the template refuses.
    """
    if not messages:
        raise DataError("a conversation has no messages; give at least one from the user")
    require_json(tools)
    template = tokenizer.template_for(tools=bool(tools)) if isinstance(tokenizer, OpenTokenizer) else CHAT_TEMPLATE
    if "developer" not in (template or ""):
        messages = [_as_system(message) for message in messages]
    if uses_tools(messages, tools) and "tools" not in (template or ""):
        try:
            return encode_prompt(tokenizer, spelled_out(messages, tools), **settings)
        except DataError:
            if messages[0].role == "system":
                raise
            return encode_prompt(tokenizer, spelled_out(messages, tools, role="user"), **settings)
    given = {**settings, "tools": list(tools)} if tools else settings
    beginning = ""
    if len(messages) > 1 and messages[-1].role == "assistant" and not messages[-1].tool_calls:
        *messages, last = messages
        beginning = last.content.lstrip()
    if isinstance(tokenizer, OpenTokenizer):
        tokens = encode_open_chat(tokenizer, messages, add_generation_prompt=True, beginning=beginning, **given)
    else:
        tokens = _encode(tokenizer, messages, tools, True, beginning)
    return tokens.ids.tolist()


def _as_system(message: Message) -> Message:
    return Message(role="system", content=message.content) if message.role == "developer" else message


def _encode(
    tokenizer: TokenizerLike,
    messages: Sequence[Message],
    tools: Sequence[Tool],
    add_generation_prompt: bool,
    beginning: str = "",
) -> Tokens:
    """Our own template's ids. `beginning`: what the answer begins with, after the generation prompt."""
    rows = message_rows(messages)
    marks = free_characters(rows, tools)
    guard, mark_from, mark_to = next_mark(marks), next_mark(marks), next_mark(marks)
    names = _names(tuple(tokenizer.special_ids))

    def safe(text: str) -> str:
        return names.sub(lambda found: guard.join(found[0]), well_formed(text))

    for row in rows:
        row["content"] = row["content"].strip()
    context = {
        "messages": mapped(rows, safe),
        "tools": mapped(tools, safe),
        "add_generation_prompt": add_generation_prompt,
    }
    text = render_template(CHAT_TEMPLATE, {**context, "mark_from": mark_from, "mark_to": mark_to})
    ids: list[int] = []
    spans: list[tuple[int, int]] = []
    opened = 0
    for piece in re.split(f"({mark_from}|{mark_to}|{names.pattern})", text):
        if piece == mark_from:
            opened = len(ids)
        elif piece == mark_to:
            spans.append((opened, len(ids)))
        elif piece in tokenizer.special_ids:
            ids.append(tokenizer.special_ids[piece])
        else:
            ids += tokenizer.encode(piece.replace(guard, ""))
    ids += tokenizer.encode(beginning)
    learned = np.zeros(len(ids), dtype=np.bool_)
    for start, end in spans:
        learned[start:end] = True
    return Tokens(ids=np.array(ids, dtype=np.int32), learned=learned)


def verify_mask(tokenizer: TokenizerLike) -> None:
    """Check once, before training, that loss and prompt fit the template. Raises TokenizerError unless

    - the end-of-turn token that closes each answer, and nothing after it, is inside the loss;
    - the ids are those of the rendered text;
    - a prompt is the beginning of the conversation that answers it.
    """
    if isinstance(tokenizer, OpenTokenizer):
        verify_open_mask(tokenizer)
        return
    conversation = _SAMPLE
    tokens = encode_chat(tokenizer, conversation)
    if tokens.ids.tolist() != _encode_with_special(tokenizer, render(conversation)):
        raise TokenizerError("the ids of a conversation are not those of its rendered text; mend CHAT_TEMPLATE")
    answers = [message.content.strip() for message in conversation if message.role == "assistant"]
    wanted = [
        *(number for text in answers for number in (*tokenizer.encode(text), tokenizer.special_ids["<|im_end|>"]))
    ]
    if tokens.ids[tokens.learned].tolist() != wanted:
        raise TokenizerError(
            "the loss mask does not cover exactly the answers and their <|im_end|>; "
            "put both between {% generation %} and {% endgeneration %} in CHAT_TEMPLATE"
        )
    prompt = encode_chat(tokenizer, conversation[:-1], add_generation_prompt=True).ids
    if not np.array_equal(prompt, tokens.ids[: len(prompt)]):
        raise TokenizerError("a prompt is not the beginning of its conversation; mend CHAT_TEMPLATE")


_SAMPLE = (
    Message(role="system", content="Be brief. 请简短。"),
    Message(role="user", content="  What is 12 + 30?\n\n"),
    Message(role="assistant", content="\n    42\n"),
    Message(role="user", content="在中文里呢？"),
    Message(role="assistant", content="四十二。🙂"),
)


@functools.lru_cache(maxsize=16)
def _names(special: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile("|".join(map(re.escape, sorted(special, key=len, reverse=True))))


def _encode_with_special(tokenizer: TokenizerLike, text: str) -> list[int]:
    ids: list[int] = []
    for piece in re.split(r"(<\|[a-z_]+\|>)", text):
        number = tokenizer.special_ids.get(piece)
        ids += tokenizer.encode(piece) if number is None else [number]
    return ids
