"""Self-consistency: several answers are drawn, and the one that most come to stands (Wang et al. 2022, arXiv:2203.11171)."""

from collections.abc import Sequence
from typing import Annotated, ClassVar

from pydantic import Field

from dunwu.chat.options import ChatOptions
from dunwu.core.records import Message
from dunwu.core.section import Count
from dunwu.prompt.answers import vote
from dunwu.prompt.strategies.base import Ask, Steps, Strategy, sampled


class SelfConsistency(Strategy):
    """`n` answers at a temperature. Those that were cut off before their end have no vote, unless all were. Where two answers have
    as many votes, that which was drawn first stands. The text is that of the first answer with the winning conclusion."""

    title: ClassVar[str] = "self-consistency"
    n: Count = 8
    temperature: Annotated[float, Field(gt=0)] = 0.7

    def steps(self, messages: Sequence[Message], options: ChatOptions) -> Steps:
        told = yield [
            Ask(messages=tuple(messages), options=sampled(options, self.temperature, self.title, number))
            for number in range(self.n)
        ]
        finished = [one for one in told if one.finish_reason == "stop"] or list(told)
        found = vote([one.text for one in finished])
        return finished[0 if found is None else found.place]
