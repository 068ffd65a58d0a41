"""Self-refine: the model criticises its answer and writes a better one (Madaan et al. 2023, arXiv:2303.17651)."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, ClassVar

from pydantic import Field

from dunwu.chat.options import ChatOptions
from dunwu.core.records import Message
from dunwu.core.section import Count
from dunwu.prompt.strategies.base import Steps, Strategy, ask, assistant, question_of, thinking, user
from dunwu.prompt.strategies.wording import Language, words_for


class SelfRefine(Strategy):
    """At most `rounds` of critique and mending; it ends where the critique finds nothing to mend. Critiques are the `thinking`."""

    title: ClassVar[str] = "self-refine"
    rounds: Annotated[int, Field(ge=1, le=10)] = 2
    tokens: Count = 512
    language: Language = "auto"

    def steps(self, messages: Sequence[Message], options: ChatOptions) -> Steps:
        words = words_for(question_of(messages), self.language)
        answer = yield from ask(messages, options)
        thought: list[str] = []
        for _ in range(self.rounds):
            asked = (*messages, assistant(answer.text), user(words.criticise))
            critique = yield from ask(asked, thinking(options, self.tokens))
            if words.nothing_to_mend.casefold() in critique.text.casefold():
                break
            thought += [answer.text, critique.text]
            answer = yield from ask((*asked, assistant(critique.text), user(words.refine)), options)
        return replace(answer, thinking="\n\n".join(thought))
