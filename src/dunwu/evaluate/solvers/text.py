"""Answers written freely: by continuing plain text, or in a conversation.

A prompt that does not fit the context loses demonstrations, the first ones first, before it loses anything else; a problem
that does not fit without any is not asked, as half a question has no answer.
"""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from dunwu.chat.options import ChatOptions
from dunwu.chat.protocol import Chat
from dunwu.chat.text_model import TextModel
from dunwu.core.lineage import stable_hash
from dunwu.core.problems import Problem
from dunwu.core.records import Completion, Message
from dunwu.evaluate.solvers.base import Demonstrations, Response, no_demonstrations
from dunwu.evaluate.tasks.task import Task


class WrittenText:
    """Continues `task.text`. `temperature` and `seed`: see `TextModel.complete`; `max_tokens` None: as many as the task says."""

    def __init__(
        self,
        model: TextModel,
        demonstrations: Demonstrations = no_demonstrations,
        *,
        max_tokens: int | None = None,
        temperature: float = 0.0,
        seed: int | None = 0,
    ) -> None:
        self.model, self.demonstrations = model, demonstrations
        self.max_tokens, self.temperature, self.seed = max_tokens, temperature, seed

    def __call__(self, task: Task, problems: Sequence[Problem]) -> list[Response]:
        max_tokens = self.max_tokens or task.spec.max_tokens
        prompts = [self._prompt(task, problem, max_tokens) for problem in problems]
        asked = [text for text, response in prompts if not response.refused]
        written = iter(self._complete(task, asked, max_tokens))
        return [response if response.refused else _answered(response, next(written)) for _, response in prompts]

    def _complete(self, task: Task, prompts: Sequence[str], max_tokens: int) -> list[Completion]:
        if not prompts:
            return []
        return self.model.complete(
            prompts,
            max_tokens=max_tokens,
            stop=tuple(task.spec.stop),
            temperature=self.temperature,
            seed=self.seed,
        )

    def _prompt(self, task: Task, problem: Problem, max_tokens: int) -> tuple[str, Response]:
        """The prompt with as many demonstrations as fit, and a response that says so."""
        shots = list(self.demonstrations(problem))
        context = self.model.context_length
        tokens: int | None = None
        for dropped in range(len(shots) + 1):
            shown = shots[dropped:]
            text = task.text(problem, shown)
            tokens = None if context is None else self.model.count_tokens(text)
            if context is None or tokens is None or tokens + max_tokens < context:  # one more may mark the beginning
                return text, Response(problem=problem, shots=len(shown), dropped=dropped)
        refused = (
            f"the problem takes {tokens} tokens without demonstrations, its answer up to {max_tokens}, and the model reads {context}; "
            "use a model that reads more, or a smaller --max-tokens"
        )
        return "", Response(problem=problem, dropped=len(shots), refused=refused)


@runtime_checkable
class Forgetful(Protocol):
    """A chat that says how many of the oldest messages of a conversation do not fit its context."""

    def forgotten(self, messages: Sequence[Message], *, max_tokens: int = 256) -> int: ...


class WrittenReplies:
    """Answers `task.messages`. A prompt strategy is a chat, so it goes in here. `max_tokens` None: as many as the task says.
    `system`: instructions that stand first, where the task gives none."""

    def __init__(
        self,
        chat: Chat,
        demonstrations: Demonstrations = no_demonstrations,
        *,
        system: str = "",
        max_tokens: int | None = None,
        temperature: float = 0.0,
        seed: int | None = 0,
    ) -> None:
        self.chat, self.demonstrations, self.system = chat, demonstrations, system
        self.max_tokens, self.temperature, self.seed = max_tokens, temperature, seed

    def __call__(self, task: Task, problems: Sequence[Problem]) -> list[Response]:
        max_tokens = self.max_tokens or task.spec.max_tokens
        options = [
            ChatOptions(
                max_tokens=max_tokens,
                temperature=self.temperature,
                seed=self._seed(problem),
                stop=tuple(task.spec.stop),
            )
            for problem in problems
        ]
        shots = [list(self.demonstrations(problem)) for problem in problems]
        conversations = [
            self._led(task.messages(problem, shown)) for problem, shown in zip(problems, shots, strict=True)
        ]
        replies = self.chat.reply_each(conversations, options)
        return [
            _answered(
                Response(problem=problem, shots=len(shown), cut=self._forgotten(messages, max_tokens)), completion
            )
            for problem, shown, messages, completion in zip(problems, shots, conversations, replies, strict=True)
        ]

    def _led(self, messages: Sequence[Message]) -> Sequence[Message]:
        if not self.system or (messages and messages[0].role == "system"):
            return messages
        return (Message(role="system", content=self.system), *messages)

    def _seed(self, problem: Problem) -> int | None:
        """A problem's own, so that its answer does not depend on which others are asked with it."""
        if self.seed is None or self.temperature == 0.0:
            return self.seed
        return int(stable_hash([self.seed, problem.id])[:8], 16)

    def _forgotten(self, messages: Sequence[Message], max_tokens: int) -> int:
        return self.chat.forgotten(messages, max_tokens=max_tokens) if isinstance(self.chat, Forgetful) else 0


def _answered(response: Response, completion: Completion) -> Response:
    """The response with what was written; a chat says by an empty answer for reason "context" that it could not read the question."""
    refused = ""
    if completion.finish_reason == "context" and not completion.text:
        refused = "the question alone fills the model's context; use a model that reads more"
    return Response(
        problem=response.problem,
        completion=None if refused else completion,
        shots=response.shots,
        cut=response.cut,
        dropped=response.dropped,
        refused=refused,
    )
