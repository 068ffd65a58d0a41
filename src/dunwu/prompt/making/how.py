"""How a model is asked: the language's words, the form of answers, temperature and length. What the four methods share."""

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from dunwu.chat.options import ChatOptions
from dunwu.chat.protocol import Chat, completion_of
from dunwu.core.errors import MissingExtraError, PartnerError, RecipeError
from dunwu.core.records import Message
from dunwu.prompt.making.asking import Reply, Request
from dunwu.prompt.making.chinese import CHINESE
from dunwu.prompt.making.english import ENGLISH
from dunwu.prompt.making.parsing import yes_or_no
from dunwu.prompt.making.rules import Candidate, Method
from dunwu.prompt.making.sieve import Sieve
from dunwu.prompt.making.wording import NAMES, Wording, filled, prompt_name

VERDICT_TOKENS = 24
_VERDICT = {
    "type": "object",
    "properties": {"verdict": {"enum": ["yes", "no"]}},
    "required": ["verdict"],
    "additionalProperties": False,
}


class Asks(Protocol):
    """What a method needs of an `Asker`."""

    def ask(self, requests: Sequence[Request]) -> list[Reply | None]: ...


class Maker(Protocol):
    """One way to make rows. `inputs`: what they are made of, by hashes, for telling whether it changed."""

    @property
    def method(self) -> Method: ...

    @property
    def inputs(self) -> Mapping[str, Any]: ...

    def rounds(self, asker: Asks, sieve: Sieve) -> Iterator[list[Candidate]]:
        """What the sieve took, some at a time, none at times. Ends where there is nothing left to make rows of. It may not depend on
        how many rows are wanted."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class How:
    """`language`: ISO code of what is written. `structured`: a JSON schema holds the answers. `temperature`: of the steps that invent;
    None is each step's own. `answer_tokens`: the most of one answer. Raises RecipeError for values out of range."""

    language: str
    structured: bool = False
    temperature: float | None = None
    answer_tokens: int = 512

    def __post_init__(self) -> None:
        if self.answer_tokens < 8:
            raise RecipeError(f"max_tokens={self.answer_tokens} leaves no room for an answer; give at least 8")

    @property
    def words(self) -> Wording:
        return CHINESE if self.language == "zh" else ENGLISH

    def request(
        self,
        step: str,
        template: str,
        *,
        form: str | None = None,
        schema: Mapping[str, Any] | None = None,
        tokens: int | None = None,
        temperature: float = 0.0,
        top_p: float = 1.0,
        **gaps: object,
    ) -> Request:
        """A request in this language. `form`: the field of `Wording` (without `_form` or `_json`) that says how to answer."""
        gaps["language"] = (
            "中文" if self.language == "zh" else NAMES.get(self.language, f"the language {self.language!r}")
        )
        held = self.structured and schema is not None
        asked = ""
        if form is not None:
            asked = str(getattr(self.words, f"{form}_json" if held else f"{form}_form"))
            gaps["form"] = filled(asked, **{**gaps, "form": ""})
        if temperature > 0 and self.temperature is not None:
            temperature = self.temperature
        return Request(
            step=step,
            prompt=prompt_name(step, self.language, template, asked),
            text=filled(template, **gaps),
            options=ChatOptions(
                max_tokens=tokens or self.answer_tokens,
                temperature=temperature,
                top_p=top_p,
                schema=schema if held else None,
            ),
        )

    def verdict(self, step: str, template: str, **gaps: str) -> Request:
        """A question to be answered with yes or no; see `said_yes`."""
        return self.request(
            step, template, form="yes_no", schema=_VERDICT, tokens=VERDICT_TOKENS, temperature=0.0, top_p=1.0, **gaps
        )


def holds_schema(chat: Chat) -> bool:
    """Whether this partner keeps to a JSON schema, and in few words: weak models fill it with blanks, and write better without it. It is
    asked a small question to see. Raises PartnerError where it does not answer for now."""
    schema = {"type": "object", "properties": {"n": {"enum": [7]}}, "required": ["n"], "additionalProperties": False}
    asked = [Message(role="user", content='Answer in JSON: {"n": 7}')]
    try:
        answer = completion_of(chat.pieces(asked, ChatOptions(max_tokens=VERDICT_TOKENS, schema=schema)))
    except (MissingExtraError, RecipeError):
        return False
    except PartnerError as error:
        if error.transient:
            raise
        return False
    with contextlib.suppress(ValueError):
        return json.loads(answer.text) == {"n": 7}
    return False


def said_yes(reply: Reply | None) -> bool | None:
    """A verdict; None where none came, or it was none."""
    return None if reply is None else yes_or_no(reply.text)


def list_schema(name: str, entry: Mapping[str, Any]) -> Mapping[str, Any]:
    """`{name: [entry, …]}`."""
    return {
        "type": "object",
        "properties": {name: {"type": "array", "items": entry, "minItems": 1}},
        "required": [name],
        "additionalProperties": False,
    }


def text_schema(*keys: str) -> Mapping[str, Any]:
    """An object of texts."""
    return {
        "type": "object",
        "properties": {key: {"type": "string"} for key in keys},
        "required": list(keys),
        "additionalProperties": False,
    }


def origin(reply: Reply, **more: Any) -> dict[str, Any]:
    """Where a row comes from: who answered which request, in which words."""
    return {**more, "model": reply.model, "prompt": reply.prompt, "request": reply.request}
