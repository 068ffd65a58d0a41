"""The chat template of the models that we grow, ChatML: it makes the training mask, the engine's prompt and the exported file.

`encode_chat` and `render_chat` serve open models with templates of their own too, by way of `open_chat`.

The Jinja text below is exported as it is. minijinja, which renders it here under a fuel limit, does not know Hugging Face's
`{% generation %}` markers; they become private-use characters, from which the loss mask is read.
"""

import functools
import re
from collections.abc import Sequence
from typing import Any

import minijinja
import numpy as np

from dunwu.core.errors import DataError, TokenizerError
from dunwu.core.modelfiles import GENERATION_TAG
from dunwu.core.records import Message, Tokens
from dunwu.tokenizer.like import TokenizerLike
from dunwu.tokenizer.open import OpenTokenizer
from dunwu.tokenizer.open_chat import encode_open_chat, render_open_chat, verify_open_mask

# Contents are trimmed, so that no token ever spans the border between a turn's header and its content.
CHAT_TEMPLATE = """\
{%- for message in messages -%}
{{- '<|im_start|>' + message['role'] + '\\n' -}}
{%- if message['role'] == 'assistant' -%}
{%- generation -%}{{- message['content'] | trim + '<|im_end|>' -}}{%- endgeneration -%}
{%- else -%}
{{- message['content'] | trim + '<|im_end|>' -}}
{%- endif -%}
{{- '\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '<|im_start|>assistant\\n' -}}
{%- endif -%}
"""

_CONTENT, _LEARN_FROM, _LEARN_TO = "\ue000", "\ue001", "\ue002"
_MARKER = re.compile(GENERATION_TAG)
_FUEL_BASE, _FUEL_PER_MESSAGE = 2_000, 500  # one message costs minijinja about 40 units


def validate_messages(messages: Sequence[Message]) -> None:
    """Raise DataError unless there is at most one system message, first, then user and assistant in turn, user first."""
    if not messages:
        raise DataError("a conversation has no messages; give at least one from the user")
    turns = messages[1:] if messages[0].role == "system" else messages
    for place, message in enumerate(turns):
        wanted = ("user", "assistant")[place % 2]
        if message.role != wanted:
            number = place + 1 + len(messages) - len(turns)
            raise DataError(
                f"message {number} has role {message.role!r} where {wanted!r} is due; "
                "after an optional system message, user and assistant take turns, the user first"
            )
    if not turns:
        raise DataError("a conversation has only a system message; add one from the user")


def render(messages: Sequence[Message], *, add_generation_prompt: bool = False) -> str:
    """The conversation as the template writes it, for eyes and for engines that parse special tokens out of text.

    Our own ids come from `encode_chat`, which never parses a special token out of what somebody typed. Raises DataError for
    roles out of order.
    """
    validate_messages(messages)
    rows = [{"role": message.role, "content": message.content.strip()} for message in messages]
    return _render_rows(_MARKER.sub("", CHAT_TEMPLATE), rows, add_generation_prompt)


def render_chat(
    tokenizer: TokenizerLike, messages: Sequence[Message], *, add_generation_prompt: bool = False, **settings: Any
) -> str:
    """The conversation as the tokenizer's own template writes it; `settings` go to the template of an open model.

    Raises DataError for roles out of order, or when the template refuses the conversation.
    """
    if isinstance(tokenizer, OpenTokenizer):
        validate_messages(messages)
        return render_open_chat(tokenizer, messages, add_generation_prompt=add_generation_prompt, **settings)
    return render(messages, add_generation_prompt=add_generation_prompt)


def encode_chat(
    tokenizer: TokenizerLike, messages: Sequence[Message], *, add_generation_prompt: bool = False, **settings: Any
) -> Tokens:
    """The ids of a conversation; `learned` is true on what the assistant says and on the end-of-turn token after it.

    Names of special tokens inside a message are encoded as plain text. `settings`, such as `tools` or `enable_thinking`, go
    to the template of an open model. Raises DataError for roles out of order, or when the template refuses the conversation.
    """
    validate_messages(messages)
    if isinstance(tokenizer, OpenTokenizer):
        return encode_open_chat(tokenizer, messages, add_generation_prompt=add_generation_prompt, **settings)
    pieces = _skeleton(tuple(message.role for message in messages), add_generation_prompt)
    contents = iter(messages)
    ids: list[int] = []
    spans: list[tuple[int, int]] = []
    opened = 0
    for piece in pieces:
        if piece == _CONTENT:
            ids += tokenizer.encode(next(contents).content.strip())
        elif piece == _LEARN_FROM:
            opened = len(ids)
        elif piece == _LEARN_TO:
            spans.append((opened, len(ids)))
        elif piece in tokenizer.special_ids:
            ids.append(tokenizer.special_ids[piece])
        else:
            ids += tokenizer.encode(piece)
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


@functools.lru_cache(maxsize=256)
def _skeleton(roles: tuple[str, ...], add_generation_prompt: bool) -> tuple[str, ...]:
    """The template rendered for these roles and cut at contents, mask borders and special tokens."""
    marked = _MARKER.sub(lambda found: "{{- '%s' -}}" % (_LEARN_TO if found[2] else _LEARN_FROM), CHAT_TEMPLATE)
    text = _render_rows(marked, [{"role": role, "content": _CONTENT} for role in roles], add_generation_prompt)
    return tuple(piece for piece in _split_special(text) if piece)


def _split_special(text: str) -> list[str]:
    return re.split(rf"({_CONTENT}|{_LEARN_FROM}|{_LEARN_TO}|<\|[a-z_]+\|>)", text)


def _encode_with_special(tokenizer: TokenizerLike, text: str) -> list[int]:
    ids: list[int] = []
    for piece in _split_special(text):
        number = tokenizer.special_ids.get(piece)
        ids += tokenizer.encode(piece) if number is None else [number]
    return ids


def _render_rows(template: str, rows: list[dict[str, str]], add_generation_prompt: bool) -> str:
    environment = minijinja.Environment(fuel=_FUEL_BASE + _FUEL_PER_MESSAGE * len(rows))
    try:
        return environment.render_str(template, messages=rows, add_generation_prompt=add_generation_prompt)
    except minijinja.TemplateError as error:
        raise TokenizerError(f"the chat template cannot be rendered: {error}") from error
