"""Preferences → prompts and answers as ids, through the one chat template, within the context.

An answer that goes beyond the context loses its end, or its pair is left out. A prompt that leaves no room for an answer
cannot be used, nor can answers that are the same within the context.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np

from dunwu.align.answers import CHOSEN, REJECTED, UNRELATED, Answer, Item
from dunwu.core.errors import DataError
from dunwu.core.records import Example, Message, Preference, Tokens
from dunwu.corpus.conversations import encode_example
from dunwu.corpus.json_rows import BadRow
from dunwu.corpus.pairs import EMPTY, EQUAL
from dunwu.corpus.turns import answers_before
from dunwu.tokenizer.like import TokenizerLike

LEAST_ANSWER = 16  # tokens of an answer that must have room after a prompt, where the answer has so many

TooLong = Literal["cut", "drop"]


def encode_preference(
    tokenizer: TokenizerLike,
    preference: Preference,
    *,
    context_length: int,
    too_long: TooLong = "cut",
    system_prompt: str = "",
) -> Item:
    """The item of a preference, its better answer first. Raises BadRow where it cannot be used."""
    sides = [(preference.chosen, CHOSEN), (preference.rejected, REJECTED)]
    whole = [(_encoded(tokenizer, preference, side, system_prompt), kind) for side, kind in sides if side is not None]
    most = context_length + 1
    start = min(int(np.flatnonzero(tokens.learned)[0]) for tokens, _ in whole)
    start = min([start, *(_same(whole[0][0], tokens) for tokens, _ in whole[1:])])
    for tokens, _ in whole:
        room = most - start
        if room < min(LEAST_ANSWER, len(tokens.ids) - start):
            raise BadRow(
                "has a prompt that is too long",
                f"{start} tokens, and the context has {context_length} for it and an answer",
            )
        if len(tokens.ids) > most and too_long == "drop":
            raise BadRow(
                "has an answer that is too long", f"{len(tokens.ids) - 1} tokens with its prompt, of {context_length}"
            )
    prompt = whole[0][0].ids[:start]
    answers = tuple(Answer(tokens.ids[start:most], tokens.learned[start:most], kind) for tokens, kind in whole)
    if any(not answer.learned.any() for answer in answers):
        raise BadRow(EMPTY, "nothing of one side counts within the context")
    if len(answers) == 2 and np.array_equal(answers[0].ids, answers[1].ids):
        raise BadRow(EQUAL, f"they are the same within the context of {context_length} tokens")
    return Item(prompt, answers)


def with_unrelated(items: Sequence[Item], *, seed: int, context_length: int) -> list[Item]:
    """Each item with an answer to another prompt, which `seed` chooses; cut at the context. Raises DataError for one item."""
    if len(items) < 2:
        raise DataError("KTO compares with answers to other prompts, and there is only one prompt; give more rows")
    order = np.random.Generator(np.random.Philox(key=seed)).permutation(len(items))
    found: list[Item | None] = [None] * len(items)
    for place, number in enumerate(order):
        item, other = items[number], items[order[place - 1]]
        answer = other.answers[place % len(other.answers)]
        room = context_length + 1 - len(item.prompt)
        stranger = Answer(answer.ids[:room], answer.learned[:room], UNRELATED)
        found[number] = Item(item.prompt, (*item.answers, stranger)) if stranger.learned.any() else item
    return [item for item in found if item is not None]


def _encoded(tokenizer: TokenizerLike, preference: Preference, side: Sequence[Message], system_prompt: str) -> Tokens:
    """Up to the last token that counts, which ends the turn."""
    messages = (*preference.prompt, *side)
    read = answers_before(messages, len(preference.prompt))
    example = Example(messages=messages, source=preference.source, tools=preference.tools, only_read=frozenset(read))
    if system_prompt and messages[0].role != "system":
        moved = frozenset(place + 1 for place in example.only_read)
        example = replace(example, messages=(Message(role="system", content=system_prompt), *messages), only_read=moved)
    try:
        tokens = encode_example(tokenizer, example)
    except DataError as error:
        raise BadRow("is refused by the chat template", str(error)) from error
    learned = np.flatnonzero(tokens.learned)
    if not len(learned) or learned[0] == 0:
        raise BadRow(EMPTY, "the chat template shows nothing that counts")
    end = int(learned[-1]) + 1
    return Tokens(ids=tokens.ids[:end].astype(np.int32), learned=tokens.learned[:end])


def _same(one: Tokens, other: Tokens) -> int:
    """How many ids both begin with."""
    size = min(len(one.ids), len(other.ids))
    differing = np.flatnonzero(one.ids[:size] != other.ids[:size])
    return int(differing[0]) if len(differing) else size
