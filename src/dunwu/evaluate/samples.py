"""What the model writes, for a reader to judge: continuations of held-out text, and answers to prompts."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from dunwu.core.records import Completion, Message
from dunwu.evaluate.heldout import ChosenText

OPENING_CHARACTERS = {"zh": 40}
OPENING_CHARACTERS_ELSE = 120


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """A prompt and what the model of `stage` made of it, with what is needed to get it again."""

    stage: str
    kind: Literal["continuation", "answer"]
    prompt: str
    text: str
    finish_reason: str
    tokens: int
    temperature: float
    seed: int


class Completer(Protocol):
    """What is needed of `infer.generate.Generator`."""

    def complete_batch(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        max_new_tokens: int,
        temperature: float,
        seed: int,
        stop_ids: Sequence[int],
    ) -> list[Completion]: ...


class Encoder(Protocol):
    """What is needed of a tokenizer."""

    @property
    def eos_id(self) -> int: ...
    @property
    def start_ids(self) -> Sequence[int]: ...
    def encode(self, text: str) -> list[int]: ...


class Answerer(Protocol):
    """What is needed of a `Chat`."""

    def reply(self, messages: Sequence[Message], *, max_tokens: int, temperature: float, seed: int) -> Completion: ...


def choose_openings(text: ChosenText, count: int) -> list[str]:
    """The first words of `count` held-out pieces, spread evenly and of all languages in turn, each cut at a border of words."""
    by_language: dict[str, list[str]] = {}
    for piece in text.pieces:
        opening = _opening(piece.text.strip(), OPENING_CHARACTERS.get(piece.language, OPENING_CHARACTERS_ELSE))
        if opening:
            by_language.setdefault(piece.language, []).append(opening)
    chosen: list[str] = []
    languages = list(by_language)
    for i, language in enumerate(languages):
        openings = by_language[language]
        share = min(len(openings), count * (i + 1) // len(languages) - count * i // len(languages))
        chosen += [openings[int((j + 0.5) * len(openings) / share)] for j in range(share)]
    return chosen


def _opening(text: str, characters: int) -> str:
    if len(text) <= characters:
        return text
    cut = text.rfind(" ", characters // 2, characters)
    return text[: cut if cut > 0 else characters]


def continue_openings(
    generator: Completer,
    tokenizer: Encoder,
    openings: Sequence[str],
    *,
    stage: str,
    max_new_tokens: int = 120,
    temperature: float = 0.8,
    seed: int = 0,
) -> list[Sample]:
    """What the model of `stage` writes after each opening."""
    if not openings:
        return []
    completions = generator.complete_batch(
        [[*tokenizer.start_ids, *tokenizer.encode(opening)] for opening in openings],
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        seed=seed,
        stop_ids=[tokenizer.eos_id],
    )
    return [
        _sample("continuation", stage, opening, completion, temperature, seed)
        for opening, completion in zip(openings, completions, strict=True)
    ]


def answer_prompts(
    chat: Answerer,
    prompts: Sequence[str],
    *,
    stage: str,
    system: str = "",
    max_tokens: int = 200,
    temperature: float = 0.0,
    seed: int = 0,
) -> list[Sample]:
    """What the model of `stage` answers to each prompt, as the first turn of a conversation under the system prompt, if any."""
    instructions = [Message(role="system", content=system)] if system else []
    return [
        _sample(
            "answer",
            stage,
            prompt,
            chat.reply(
                [*instructions, Message(role="user", content=prompt)],
                max_tokens=max_tokens,
                temperature=temperature,
                seed=seed,
            ),
            temperature,
            seed,
        )
        for prompt in prompts
    ]


def _sample(
    kind: Literal["continuation", "answer"],
    stage: str,
    prompt: str,
    completion: Completion,
    temperature: float,
    seed: int,
) -> Sample:
    return Sample(
        stage=stage,
        kind=kind,
        prompt=prompt,
        text=completion.text,
        finish_reason=completion.finish_reason,
        tokens=len(completion.ids),
        temperature=temperature,
        seed=seed,
    )
