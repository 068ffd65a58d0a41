"""A conversation with a model on this machine."""

import dataclasses
from collections.abc import Generator as Steps
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any, Unpack, cast

import torch

from dunwu.chat.asking import AnswerWriter, Question, question
from dunwu.chat.options import ChatOptions, OptionChanges, settled
from dunwu.chat.protocol import Chat, Piece, completion_of
from dunwu.core.devices import pick_device, pick_dtype
from dunwu.core.errors import DataError
from dunwu.core.files import read_json
from dunwu.core.records import Completion, Message
from dunwu.delta.finding import Found, put_on
from dunwu.infer.constrain import Constraint
from dunwu.infer.events import Event, FinishEvent, TokenEvent
from dunwu.infer.generate import FinishReason, Generator, seeds
from dunwu.infer.sampling import SamplingParams
from dunwu.model.hub import load_model
from dunwu.tokenizer.load import load_tokenizer

ANSWER_SHARE = 4  # a quarter of the context, or `max_tokens` if that is less, is kept free for the answer


class LocalChat(Chat):
    """A model, its tokenizer and the chat template, as a `Chat`.

    A conversation that outgrows the context loses its oldest question and answer, again and again, until it fits; the system
    message and the last question always stay. `forgotten` says how many messages that costs.
    `instruction_tuned`: what `dunwu.json` says of the model; where it says nothing, False for a model without a chat template
    and otherwise None. A base model only continues text: see `continue_text`.
    """

    def __init__(
        self,
        generator: Generator,
        *,
        instruction_tuned: bool | None = None,
        system_prompt: str = "",
        name: str = "model",
    ) -> None:
        self.generator = generator
        self.tokenizer = generator.tokenizer
        self.instruction_tuned = instruction_tuned
        self.system_prompt = system_prompt
        self.name = name

    @classmethod
    def load(
        cls,
        folder: Path | str,
        *,
        device: torch.device | None = None,
        delta: Found | None = None,
        any_base: bool = False,
    ) -> "LocalChat":
        """Read a model home, or the folder of any model that we read, with weights and tokenizer, in the dtype that suits the device.

        `delta`: put onto it; one that was trained on another base only with `any_base`. Raises ModelError or TokenizerError.
        """
        folder, device = Path(folder), device or pick_device()
        model = load_model(folder, device=device, dtype=pick_dtype(device)).requires_grad_(False).eval()
        if delta is not None:
            model = put_on(delta, model, folder, any_base=any_base)
        tokenizer = load_tokenizer(folder)
        facts: dict[str, Any] = read_json(folder / "dunwu.json") if (folder / "dunwu.json").exists() else {}
        if delta is not None:
            facts |= {"name": f"{facts.get('name', folder.name)}:{delta.name}", **delta.manner}
        return cls(
            Generator(model, tokenizer),
            instruction_tuned=facts.get("instruction_tuned") if tokenizer.chat_template else False,
            system_prompt=facts.get("system_prompt", ""),
            name=facts.get("name", folder.name),
        )

    def pieces(
        self, messages: Sequence[Message], options: ChatOptions | None = None, **changes: Unpack[OptionChanges]
    ) -> Iterator[Piece]:
        """The answer in whole characters, without special tokens. Raises DataError when the last question alone fills the context."""
        asked, _ = self._question(messages, settled(options, changes))
        self._require_room(asked.prompt_ids)
        return self._answer(asked, self.generator.events(asked.prompt_ids, asked.params))

    def pieces_within(
        self,
        constraint: Constraint,
        messages: Sequence[Message],
        options: ChatOptions | None = None,
        **changes: Unpack[OptionChanges],
    ) -> Iterator[Piece]:
        """An answer that the constraint holds valid as far as it goes. Raises RecipeError for one that cannot be met."""
        asked, _ = self._question(messages, settled(options, changes))
        self._require_room(asked.prompt_ids)
        params = dataclasses.replace(asked.params, constraint=constraint)
        return self._answer(asked, self.generator.events(asked.prompt_ids, params))

    def reply(
        self, messages: Sequence[Message], options: ChatOptions | None = None, **changes: Unpack[OptionChanges]
    ) -> Completion:
        """The whole answer."""
        return self.reply_batch([messages], options, **changes)[0]

    def reply_batch(
        self,
        conversations: Sequence[Sequence[Message]],
        options: ChatOptions | None = None,
        **changes: Unpack[OptionChanges],
    ) -> list[Completion]:
        """One answer for each conversation; an empty one, for reason "context", where the question alone fills the context."""
        options = settled(options, changes)
        return self.reply_each(
            conversations,
            [dataclasses.replace(options, seed=seed) for seed in seeds(options.seed, len(conversations))],
        )

    def reply_each(
        self, conversations: Sequence[Sequence[Message]], options: Sequence[ChatOptions]
    ) -> list[Completion]:
        """See `reply_batch`."""
        asked = [self._question(messages, one)[0] for messages, one in zip(conversations, options, strict=True)]
        told = self.generator.all_events([one.prompt_ids for one in asked], [one.params for one in asked])
        return [completion_of(self._answer(one, events)) for one, events in zip(asked, told, strict=True)]

    def continue_text(
        self,
        text: str,
        *,
        max_tokens: int = 256,
        temperature: float = 0.0,
        seed: int | None = None,
        constraint: Constraint | None = None,
        beams: int | None = None,
    ) -> Steps[str, None, FinishReason]:
        """What the model writes after `text`, without the chat template, in whole characters; ends where a document ends.

        `constraint`: what the continuation must be. `beams`: search for the likeliest one. Raises DataError when `text` alone fills the context, and RecipeError for a
        constraint that cannot be met.
        """
        prompt = [*self.tokenizer.start_ids, *self.tokenizer.encode(text)] or [self.tokenizer.eos_id]
        self._require_room(prompt)
        params = SamplingParams(
            max_tokens=max_tokens, temperature=temperature, seed=seed, constraint=constraint, beams=beams
        )
        with closing(self.generator.events(prompt, params)) as events:
            for event in events:
                if isinstance(event, TokenEvent | FinishEvent) and event.text:
                    yield event.text
                if isinstance(event, FinishEvent):
                    return cast("FinishReason", event.reason)
        raise AssertionError("events end with a FinishEvent")

    def forgotten(self, messages: Sequence[Message], *, max_tokens: int = 256) -> int:
        """How many of the oldest messages do not fit the context and are left out of the prompt."""
        return self._question(messages, ChatOptions(max_tokens=max_tokens))[1]

    def _question(self, messages: Sequence[Message], options: ChatOptions) -> tuple[Question, int]:
        """What the engine is asked, and how many messages were left out for it."""
        context = self.generator.context_length
        share = context // ANSWER_SHARE
        room = context - (share if options.max_tokens is None else min(options.max_tokens, share))
        system, turns = (messages[:1], messages[1:]) if messages and messages[0].role == "system" else ((), messages)
        dropped = 0
        while True:
            asked = question(self.tokenizer, [*system, *turns[dropped:]], options)
            if len(asked.prompt_ids) <= room or len(turns) - dropped <= 2:
                return asked, dropped
            dropped += 2

    def _answer(self, asked: Question, events: Iterable[Event]) -> Iterator[Piece]:
        writer = AnswerWriter(self.tokenizer, asked, model=self.name)
        with closing(events) if isinstance(events, Steps) else nullcontext():  # left early, the request ends now
            for event in events:
                if isinstance(event, TokenEvent):
                    yield from writer.push(event)
                elif isinstance(event, FinishEvent):
                    yield from writer.finish(event)

    def _require_room(self, prompt: Sequence[int]) -> None:
        context = self.generator.context_length
        if len(prompt) >= context:
            raise DataError(f"the text takes {len(prompt)} tokens and this model reads {context}; make it shorter")
