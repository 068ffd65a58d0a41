"""Answers to be judged, from their text alone."""

from dunwu.core.records import Completion, Message
from dunwu.evaluate.scorers.base import Case


def case(text, *, asked="Q?", ids=(), finish="stop", **columns):
    return Case(
        prompt=(Message(role="user", content=asked),),
        completion=Completion(text=text, ids=tuple(ids), finish_reason=finish),
        columns=columns,
    )
