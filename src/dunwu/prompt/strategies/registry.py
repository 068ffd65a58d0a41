"""Strategies by name, from a text such as `cot+self-consistency:n=8,temperature=0.7`.

Parts joined by `+` lie around each other, the first nearest to the model: here each of eight answers is a chain of thought.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from dunwu.chat.protocol import AsyncChat, Chat
from dunwu.core.errors import RecipeError
from dunwu.core.nearest import validated
from dunwu.core.problems import Problem
from dunwu.core.section import Count, Section
from dunwu.prompt.demonstrations.base import Embed
from dunwu.prompt.demonstrations.registry import CHOICES, Chosen, Means, Shots, choose
from dunwu.prompt.problems import read_problems
from dunwu.prompt.search.candidate import Prompted, read_candidate
from dunwu.prompt.spelling import named_options, require_known
from dunwu.prompt.strategies.auto_cot import AutoCot, questions
from dunwu.prompt.strategies.base import AsyncStrategyChat, Strategy, StrategyChat
from dunwu.prompt.strategies.chain_of_thought import ChainOfThought
from dunwu.prompt.strategies.few_shot import FewShot, chain_of
from dunwu.prompt.strategies.least_to_most import LeastToMost
from dunwu.prompt.strategies.self_consistency import SelfConsistency
from dunwu.prompt.strategies.self_refine import SelfRefine
from dunwu.prompt.strategies.think_first import ThinkFirst
from dunwu.prompt.strategies.tree import TreeOfThoughts


@dataclass(frozen=True, kw_only=True)
class Help:
    """What some strategies need. `pool`: where demonstrations come from when no file is named. `count_tokens`: of a text. `told`
    hears what a budget leaves out."""

    pool: Sequence[Problem] = ()
    count_tokens: Callable[[str], int | None] | None = None
    embed: Embed | None = None
    told: Callable[[str], object] = lambda text: None


class Shown(Shots):
    """Demonstrations and where they come from: a file of questions and answers."""

    pool: str = ""
    choose: Literal["random", "balanced", "similar", "diverse"] = "similar"
    tokens: Count = 512


class Made(Shots):
    """The pool from which Auto-CoT takes its questions."""

    pool: str = ""
    tokens: Count = 512


def _few_shot(options: Mapping[str, str], help_: Help, chat: Chat | None) -> Strategy:
    given = validated(Shown, options)
    return FewShot(shown=_chosen(given, help_, lambda one: one.target), tokens=given.tokens)


def _few_shot_cot(options: Mapping[str, str], help_: Help, chat: Chat | None) -> Strategy:
    given = validated(Shown, options)
    return FewShot(shown=_chosen(given, help_, chain_of), answers="chain", tokens=given.tokens)


def _auto_cot(options: Mapping[str, str], help_: Help, chat: Chat | None) -> Strategy:
    """With a chat at hand the chains are written now; a server has them written for the first question."""
    given = validated(Made, options)
    asked = questions(_pool(given.pool, help_), given.k, given.seed)
    made = AutoCot(asked=asked, seed=given.seed, tokens=given.tokens)
    if chat is not None:
        made.write(chat)
    return made


class PromptFile(Section):
    """A prompt that a search found."""

    file: str


def _prompted(options: Mapping[str, str], help_: Help, chat: Chat | None) -> Strategy:
    return Prompted(candidate=read_candidate(validated(PromptFile, options).file))


def _chosen(given: Shown, help_: Help, answer: Callable[[Problem], str]) -> Chosen:
    count = help_.count_tokens

    def counted(problem: Problem) -> int:
        text = f"{problem.input}\n{answer(problem)}\n"
        tokens = None if count is None else count(text)
        if tokens is None:
            raise RecipeError("budget: the model does not tell how many tokens a text takes; leave it out")
        return tokens

    means = Means(embed=help_.embed, count_tokens=None if count is None else counted, told=help_.told)
    assert given.choose in CHOICES
    return choose(given.choose, given, _pool(given.pool, help_), means)


def _pool(path: str, help_: Help) -> Sequence[Problem]:
    return read_problems(path) if path else help_.pool


def _plain(kind: type[Strategy]) -> "_Build":
    return lambda options, help_, chat: validated(kind, options)


_Build = Callable[[Mapping[str, str], Help, Chat | None], Strategy]
STRATEGIES: Mapping[str, _Build] = {
    "few-shot": _few_shot,
    "few-shot-cot": _few_shot_cot,
    "auto-cot": _auto_cot,
    "prompted": _prompted,
    **{
        kind.title: _plain(kind)
        for kind in (ChainOfThought, SelfConsistency, LeastToMost, SelfRefine, TreeOfThoughts, ThinkFirst)
    },
}


def strategy(text: str, chat: Chat, help_: Help | None = None) -> Chat:
    """The chat with the strategies around it; "direct" is the chat itself. Raises RecipeError for an unknown name, with the nearest
    one, or an option out of range."""
    for name, options in _parts(text):
        chat = StrategyChat(STRATEGIES[name](options, help_ or Help(), chat), chat)
    return chat


def async_strategy(text: str, chat: AsyncChat, help_: Help | None = None) -> AsyncChat:
    """`strategy` for callers in asyncio."""
    for name, options in _parts(text):
        chat = AsyncStrategyChat(STRATEGIES[name](options, help_ or Help(), None), chat)
    return chat


def require_strategy(text: str) -> None:
    """Raises RecipeError for a text that names no strategy, before anybody is asked."""
    _parts(text)


def _parts(text: str) -> list[tuple[str, dict[str, Any]]]:
    if text.strip() == "direct":
        return []
    parts = [named_options(part) for part in text.split("+")]
    for name, _ in parts:
        require_known(name, ["direct", *STRATEGIES], "strategy")
        if name == "direct":
            raise RecipeError(f"{text!r}: direct is no strategy among others; leave it out")
    return parts
