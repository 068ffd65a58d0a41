"""Think first, then answer: what was thought is kept apart from the answer."""

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar, Literal

from dunwu.chat.options import ChatOptions
from dunwu.core.records import Message
from dunwu.core.section import Count
from dunwu.prompt.strategies.base import Steps, Strategy, ask, asked_with, assistant, question_of, thinking, user
from dunwu.prompt.strategies.wording import Language, words_for

_THOUGHT = re.compile(r"<think(?:ing)?>(.*?)(?:</think(?:ing)?>|\Z)", re.DOTALL)
_END = re.compile(r"</think(?:ing)?>")


class ThinkFirst(Strategy):
    """`calls` 1: the model thinks between tags, which models that were trained to think write anyway, and goes on with the answer.
    2: it is asked for its thoughts, and then for the answer: for models that keep to no tags. `instruct` false leaves the
    question as it is: for models that think without being told to."""

    title: ClassVar[str] = "think-first"
    calls: Literal["1", "2"] = "1"
    instruct: bool = True
    tokens: Count = 1024
    language: Language = "auto"

    def steps(self, messages: Sequence[Message], options: ChatOptions) -> Steps:
        words = words_for(question_of(messages), self.language)
        room = thinking(options, self.tokens)
        if self.calls == "1":
            done = yield from ask(asked_with(messages, words.think_tags) if self.instruct else messages, room)
            thought, answer = parted(done.text)
            return replace(done, text=answer, thinking=thought, ids=done.ids if answer == done.text else ())
        asked = asked_with(messages, words.think_only)
        thought = yield from ask(asked, room)
        done = yield from ask((*asked, assistant(thought.text), user(words.now_answer)), options)
        return replace(done, thinking=thought.text)


def parted(text: str) -> tuple[str, str]:
    """(thoughts, answer) of a text with thoughts between tags. One that never closes its tag has no answer yet; a closing tag
    alone ends thoughts that the template began."""
    if not _THOUGHT.search(text):
        before, tag, after = text, "", ""
        if end := _END.search(text):
            before, tag, after = text[: end.start()], end[0], text[end.end() :]
        return (before.strip(), after.strip()) if tag else ("", text)
    thoughts = [thought.strip() for thought in _THOUGHT.findall(text)]
    return "\n\n".join(thoughts), _THOUGHT.sub("", text).strip()
