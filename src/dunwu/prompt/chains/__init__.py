"""Chains: steps that pass named values, each a template, a question to a model, a parser or a function.

names = Ask("Five names for a company that makes {{ product }}, one a line.", gives="answer") | Lines("names")
result = names.run({"product": "kites"}, chat)
result.values["names"], result.trace
"""

import inspect
from typing import Any

from pydantic import BaseModel

from dunwu.chat.protocol import AsyncChat, Chat
from dunwu.core.templates import Template
from dunwu.prompt.chains.ask import Ask
from dunwu.prompt.chains.call import Call
from dunwu.prompt.chains.fill import Fill
from dunwu.prompt.chains.over import Branch, Map, Reduce, Split
from dunwu.prompt.chains.parse import Json, Lines, Regex, Schema
from dunwu.prompt.chains.running import Again, Began, Ended, Event, Result, Retry, StepError, Text
from dunwu.prompt.chains.step import COERCIONS, Chain, Inputs, Parallel, Step
from dunwu.prompt.chains.trace import Span, Trace

__all__ = [
    "Again",
    "Ask",
    "Began",
    "Branch",
    "Call",
    "Chain",
    "Ended",
    "Event",
    "Fill",
    "Inputs",
    "Json",
    "Lines",
    "Map",
    "Parallel",
    "Reduce",
    "Regex",
    "Result",
    "Retry",
    "Schema",
    "Span",
    "Split",
    "Step",
    "StepError",
    "Template",
    "Text",
    "Trace",
]


def _is_model(value: Any) -> bool:
    return isinstance(value, type) and issubclass(value, BaseModel)


def _is_chat(value: Any) -> bool:
    return isinstance(value, Chat | AsyncChat)


def _is_template(value: Any) -> bool:
    return isinstance(value, Template)


def _is_function(value: Any) -> bool:
    return callable(value) and not inspect.isclass(value)


COERCIONS += [
    (_is_template, Fill),
    (_is_chat, lambda chat: Ask(chat=chat)),
    (_is_model, Schema),
    (_is_function, Call),
]
