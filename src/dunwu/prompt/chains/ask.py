"""A step that asks a model."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Unpack, cast

from dunwu.chat.options import ChatOptions, OptionChanges
from dunwu.core.errors import DunwuError, PromptError
from dunwu.core.records import Message
from dunwu.core.templates import Template, nearest_name
from dunwu.prompt.chains.fill import as_template, takes_of, text_of, together
from dunwu.prompt.chains.running import DEFAULT, AnyChat, Outcome, Run, StepError, Text, Values, require_answer
from dunwu.prompt.chains.step import Step

SAVED = frozenset(
    ("max_tokens", "temperature", "top_p", "presence_penalty", "frequency_penalty", "seed", "stop", "schema", "beams")
)
"""The options that a YAML file may give."""


class Ask(Step):
    """Asks what `template` says, or without one what the value `reads` holds: text, or a list of messages.

    `system`: a template of its own. `chat`: who answers; without it the run's partner called `model`, by default the one that the
    run is given. Options are those of the run but for the ones given here; at another attempt the seed is another.
    """

    kind = "ask"

    def __init__(
        self,
        template: str | Template | None = None,
        *,
        gives: str = "answer",
        reads: str = "prompt",
        system: str | Template | None = None,
        chat: AnyChat | None = None,
        model: str = DEFAULT,
        **options: Unpack[OptionChanges],
    ) -> None:
        self.template = None if template is None else as_template(template, "the template of ask")
        self.system = None if system is None else as_template(system, "the system prompt of ask")
        self.reads, self.chat, self.model, self.options = reads, chat, model, options
        ChatOptions(**options)
        asked = ({reads: str | list[Any]}, frozenset[str]()) if self.template is None else takes_of(self.template)
        self.takes, self.optional = together(asked, *([] if self.system is None else [takes_of(self.system)]))
        self.gives = {gives: str}

    async def do(self, items: Sequence[Values], run: Run, path: str, attempt: int) -> list[Outcome]:
        partner = run.partner(self.chat, self.model, self.name)
        outcomes = [self._question(item) for item in items]
        asking = [outcome for outcome in outcomes if outcome.error is None]
        options = self._options(run.options, attempt)
        if run.hear is not None and len(asking) == 1:
            heard = run.tell
            replies = [await partner.spoken(asking[0].asked, options, lambda text: heard(Text(path=path, text=text)))]
        else:
            replies = await partner.replies([outcome.asked for outcome in asking], options) if asking else []
        for outcome, reply in zip(asking, replies, strict=True):
            if isinstance(reply, Exception):
                outcome.error = reply if isinstance(reply, DunwuError) else _failed(self.name, reply)
            else:
                outcome.completion = reply
                outcome.values = {self.answer: reply.text}
                outcome.error = require_answer(reply, self.name)
        return outcomes

    def _question(self, item: Values) -> Outcome:
        try:
            return Outcome(asked=self._messages(item))
        except DunwuError as error:
            return Outcome(error=error)

    def _messages(self, item: Values) -> tuple[Message, ...]:
        before = () if self.system is None else (Message(role="system", content=self.system.render(item)),)
        if self.template is not None:
            return (*before, Message(role="user", content=self.template.render(item)))
        asked = item[self.reads]
        if isinstance(asked, str):
            return (*before, Message(role="user", content=asked))
        return (*before, *(_message(one, self.reads) for one in asked))

    def _options(self, options: ChatOptions, attempt: int) -> ChatOptions:
        options = dataclasses.replace(options, **self.options)
        if attempt and options.seed is not None:
            options = dataclasses.replace(options, seed=options.seed + attempt)
        return options

    def spec(self) -> dict[str, Any]:
        if self.chat is not None:
            raise PromptError(f"{self.name} has a partner of its own, which YAML cannot hold; name it: model=…")
        if unknown := sorted(self.options.keys() - SAVED):
            raise PromptError(f"{self.name} has the option {unknown[0]}, which YAML cannot hold; give it to the run")
        found: dict[str, Any] = {"ask": None if self.template is None else text_of(self.template), "gives": self.answer}
        if self.template is None:
            found["reads"] = self.reads
        if self.system is not None:
            found["system"] = text_of(self.system)
        if self.model:
            found["model"] = self.model
        if self.options:
            found["options"] = {
                name: list(value) if isinstance(value, tuple) else value
                for name, value in cast("Mapping[str, Any]", self.options).items()
            }
        return found


def options_from(given: Mapping[str, Any], where: str) -> OptionChanges:
    """Raises PromptError for an option that there is not, or out of range."""
    for name in given:
        if name not in SAVED:
            raise PromptError(f"{where} has the unknown option {name!r}; {nearest_name(name, sorted(SAVED))}")
    stop = given.get("stop")
    changed: dict[str, Any] = dict(given) | (
        {} if stop is None else {"stop": (stop,) if isinstance(stop, str) else tuple(stop)}
    )
    try:
        ChatOptions(**changed)
    except (DunwuError, TypeError) as error:
        raise PromptError(f"{where}: {error}") from error
    return cast("OptionChanges", changed)


def _message(given: Any, name: str) -> Message:
    if isinstance(given, Message):
        return given
    if isinstance(given, Mapping):
        fields = cast("Mapping[str, Any]", given)
        role, content = fields.get("role"), fields.get("content")
        if role in ("system", "developer", "user", "assistant", "tool") and isinstance(content, str):
            return Message(role=role, content=content)
    raise PromptError(
        f"{name} holds {str(given)[:80]!r}, which is no message; give text, or messages with a role and content"
    )


def _failed(step: str, error: Exception) -> StepError:
    return StepError(f"{step}: {type(error).__name__}: {error}")
