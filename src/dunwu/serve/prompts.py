"""Texts, or ids of texts, that a client gives without a conversation around them."""

import asyncio
from dataclasses import dataclass

from dunwu.serve.asking import LONG_CHARACTERS
from dunwu.serve.errors import ApiError
from dunwu.serve.models import ServedModel
from dunwu.serve.schemas import Prompt as Given
from dunwu.serve.schemas import listed


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """Ids, never none, and the text that they stand for."""

    ids: tuple[int, ...]
    text: str


async def read_prompts(
    given: Given, model: ServedModel, *, start: bool, most: int, param: str = "prompt"
) -> tuple[Prompt, ...]:
    """One or many. `start`: texts get before them what the model reads at a text's beginning; ids are taken as they are.
    Raises ApiError 400 for none, for more than `most`, and for ids that the model has not."""
    wanted = listed(given)
    if not wanted:
        raise ApiError(
            400, f"{param}=[] holds nothing; give a text, or the ids of one", param=param, code="invalid_value"
        )
    if len(wanted) > most:
        raise ApiError(
            400,
            f"{len(wanted)} prompts are more than the {most} that fit into one request like this; send several requests",
            param=param,
            code="invalid_value",
        )
    if sum(map(len, wanted)) > LONG_CHARACTERS:
        return tuple([await asyncio.to_thread(_read, one, model, start, param) for one in wanted])
    return tuple(_read(one, model, start, param) for one in wanted)


def _read(wanted: str | list[int], model: ServedModel, start: bool, param: str) -> Prompt:
    tokenizer = model.tokenizer
    if isinstance(wanted, str):
        ids = (*(tokenizer.start_ids if start else ()), *tokenizer.encode(wanted))
        return Prompt(ids=ids or (tokenizer.eos_id,), text=wanted)
    require_ids(wanted, model, param)
    fits = len(wanted) <= model.context_length  # what does not is refused, and decoding it may take seconds
    return Prompt(ids=tuple(wanted) or (tokenizer.eos_id,), text=tokenizer.decode(wanted) if fits else "")


def require_ids(ids: list[int], model: ServedModel, param: str) -> None:
    """Raises ApiError 400 for ids that the tokenizer has not."""
    if wrong := next((number for number in ids if number >= model.tokenizer.vocab_size), None):
        raise ApiError(
            400,
            f"{param} has the id {wrong}, and the tokenizer's are 0 to {model.tokenizer.vocab_size - 1}",
            param=param,
            code="invalid_value",
        )
