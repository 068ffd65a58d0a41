"""Chain of thought without demonstrations: "let's think step by step" (Kojima et al. 2022, arXiv:2205.11916)."""

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar, Literal

from dunwu.chat.options import ChatOptions
from dunwu.core.records import Message
from dunwu.core.section import Count
from dunwu.prompt.answers import concluded
from dunwu.prompt.strategies.base import Steps, Strategy, ask, asked_with, assistant, question_of, thinking, user
from dunwu.prompt.strategies.wording import Language, words_for


class ChainOfThought(Strategy):
    """The question with a line that asks for steps.

    `extract`: "text" takes the answer as the chain gives it; "ask" asks for the answer alone once the chain is there, as the paper
    does. `show`: the chain and the answer, or the answer alone, the chain being its `thinking`. `trigger`: other words than ours.
    `tokens`: that the chain may take beyond `max_tokens`.
    """

    title: ClassVar[str] = "cot"
    extract: Literal["text", "ask"] = "text"
    show: Literal["all", "answer"] = "all"
    trigger: str = ""
    tokens: Count = 512
    language: Language = "auto"

    def steps(self, messages: Sequence[Message], options: ChatOptions) -> Steps:
        words = words_for(question_of(messages), self.language)
        asked = asked_with(messages, self.trigger or words.step_by_step)
        plain = self.extract == "text" and self.show == "all"
        chain = yield from ask(asked, thinking(options, self.tokens), last=plain)
        if plain:
            return chain
        if self.extract == "text":
            return replace(chain, text=concluded(chain.text) or chain.text, thinking=chain.text, ids=())
        answer = yield from ask((*asked, assistant(chain.text), user(words.conclude)), options)
        if self.show == "answer":
            return replace(answer, thinking=chain.text)
        return replace(answer, text=f"{chain.text.rstrip()}\n{answer.text}", ids=())
