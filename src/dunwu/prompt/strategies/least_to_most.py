"""Least to most: simpler questions first, each answered with the answers before it (Zhou et al. 2022, arXiv:2205.10625)."""

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, ClassVar

from pydantic import Field

from dunwu.chat.options import ChatOptions
from dunwu.core.records import Message
from dunwu.core.section import Count
from dunwu.prompt.strategies.base import Steps, Strategy, ask, assistant, question_of, thinking, user
from dunwu.prompt.strategies.wording import Language, filled, words_for

_ITEM = re.compile(r"^\s*(?:\d+\s*[.)、:：．]|[-*•])\s*(.+?)\s*$", re.MULTILINE)


class LeastToMost(Strategy):
    """At most `most` simpler questions, then the question itself in the same conversation. Where the model names none, the
    question alone. The simpler questions and their answers are the `thinking`."""

    title: ClassVar[str] = "least-to-most"
    most: Annotated[int, Field(ge=1, le=20)] = 4
    tokens: Count = 512
    language: Language = "auto"

    def steps(self, messages: Sequence[Message], options: ChatOptions) -> Steps:
        question = question_of(messages)
        words = words_for(question, self.language)
        wanted = user(filled(words.decompose, most=self.most, question=question))
        room = thinking(options, self.tokens)
        plan = yield from ask((*messages[:-1], wanted), room)
        talk, thought = list(messages[:-1]), list[str]()
        for simpler in listed(plan.text)[: self.most]:
            if simpler.casefold() == question.strip().casefold():
                continue
            talk.append(user(filled(words.subquestion, question=simpler)))
            answer = yield from ask(talk, room)
            talk.append(assistant(answer.text))
            thought.append(f"{simpler}\n{answer.text}")
        done = yield from ask((*talk, messages[-1]), options)
        return replace(done, thinking="\n\n".join(thought))


def listed(text: str) -> list[str]:
    """The items of a list with numbers or bullets; each once."""
    return list(dict.fromkeys(_ITEM.findall(text)))
