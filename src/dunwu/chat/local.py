"""A conversation with a model on this machine."""

from collections.abc import Generator as Steps
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Unpack

import torch

from dunwu.chat.options import ChatOptions, OptionChanges, settled
from dunwu.chat.protocol import Chat, Delta, Finish, Piece
from dunwu.core.devices import pick_device, pick_dtype
from dunwu.core.errors import DataError, RecipeError
from dunwu.core.files import read_json
from dunwu.core.records import Completion, Message
from dunwu.infer.generate import FinishReason, Generator
from dunwu.model.hub import load_model
from dunwu.tokenizer.load import load_tokenizer
from dunwu.tokenizer.stream import StreamDecoder
from dunwu.tokenizer.template import encode_prompt

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
    def load(cls, folder: Path | str, *, device: torch.device | None = None) -> "LocalChat":
        """Read a model home, or the folder of any model that we read, with weights and tokenizer, in the dtype that suits the device.

        Raises ModelError or TokenizerError.
        """
        folder, device = Path(folder), device or pick_device()
        model = load_model(folder, device=device, dtype=pick_dtype(device)).requires_grad_(False).eval()
        tokenizer = load_tokenizer(folder)
        facts: dict[str, Any] = read_json(folder / "dunwu.json") if (folder / "dunwu.json").exists() else {}
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
        options = settled(options, changes)
        prompt, _ = self._prompt(messages, options)
        self._require_room(prompt)
        text = self._text(prompt, _most(options), options.temperature, options.seed)
        while True:
            try:
                yield Delta(text=next(text))
            except StopIteration as end:
                yield Finish(reason=end.value, model=self.name)
                return

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
        prompts = [self._prompt(messages, options)[0] for messages in conversations]
        return self.generator.complete_batch(
            prompts, max_new_tokens=_most(options), temperature=options.temperature, seed=options.seed
        )

    def continue_text(
        self, text: str, *, max_tokens: int = 256, temperature: float = 0.0, seed: int | None = None
    ) -> Steps[str, None, FinishReason]:
        """What the model writes after `text`, without the chat template, in whole characters; ends where a document ends.

        Raises DataError when `text` alone fills the context.
        """
        prompt = [*self.tokenizer.start_ids, *self.tokenizer.encode(text)] or [self.tokenizer.eos_id]
        self._require_room(prompt)
        return (yield from self._text(prompt, max_tokens, temperature, seed))

    def forgotten(self, messages: Sequence[Message], *, max_tokens: int = 256) -> int:
        """How many of the oldest messages do not fit the context and are left out of the prompt."""
        return self._prompt(messages, ChatOptions(max_tokens=max_tokens))[1]

    def _prompt(self, messages: Sequence[Message], options: ChatOptions) -> tuple[list[int], int]:
        _require_offered(options)
        context = self.generator.context_length
        room = context - min(_most(options), context // ANSWER_SHARE)
        system, turns = (messages[:1], messages[1:]) if messages and messages[0].role == "system" else ((), messages)
        dropped = 0
        while True:
            ids = encode_prompt(self.tokenizer, [*system, *turns[dropped:]])
            if len(ids) <= room or len(turns) - dropped <= 2:
                return ids, dropped
            dropped += 2

    def _require_room(self, prompt: Sequence[int]) -> None:
        context = self.generator.context_length
        if len(prompt) >= context:
            raise DataError(f"the text takes {len(prompt)} tokens and this model reads {context}; make it shorter")

    def _text(
        self, prompt: Sequence[int], max_tokens: int, temperature: float, seed: int | None
    ) -> Steps[str, None, FinishReason]:
        decoder = StreamDecoder(self.tokenizer, prompt)
        steps = self.generator.stream(prompt, max_new_tokens=max_tokens, temperature=temperature, seed=seed)
        while True:
            try:
                text = decoder.push(next(steps))
            except StopIteration as end:
                if rest := decoder.finish():
                    yield rest
                return end.value
            if text:
                yield text


def _most(options: ChatOptions) -> int:
    return 1 << 30 if options.max_tokens is None else options.max_tokens


def _require_offered(options: ChatOptions) -> None:
    plain = ChatOptions(max_tokens=options.max_tokens, temperature=options.temperature, seed=options.seed)
    if options != plain:
        raise RecipeError(
            "a model in this process takes max_tokens, temperature and seed; `dunwu serve` offers the rest"
        )
