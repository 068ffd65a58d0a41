"""The kinds of rows that instruction files have, and the conversations that they hold."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

from dunwu.core.records import Message, Role
from dunwu.corpus import preferences
from dunwu.corpus.json_rows import BadRow
from dunwu.corpus.preferences import TURN_LISTS, Chosen
from dunwu.corpus.turns import Row, messages_of

INSTRUCTIONS = ("instruction", "instruction_zh", "指令", "任务")
INPUTS = ("input", "input_zh", "context", "输入")
OUTPUTS = ("output", "output_zh", "response", "输出", "回复", "回答", "答案")
# (question, answer) in files that name them otherwise; Firefly has input and target
PAIRS = (
    ("prompt", "completion"),
    ("prompt", "response"),
    ("prompt", "output"),
    ("question", "answer"),
    ("question", "response"),
    ("query", "response"),
    ("input", "target"),
    ("input", "output"),
    ("问题", "答案"),
    ("问题", "回答"),
    ("提问", "回答"),
    ("q", "a"),
    ("问", "答"),
)
NOTHING = frozenset({"", "<noinput>", "<nooutput>", "<无输入>", "<无输出>", "<没有输入>", "<no input>"})


@dataclass(frozen=True, slots=True)
class RowFormat:
    """How rows of one kind are told from others, and what conversations they hold. `open_calls`: a call of tools is the answer."""

    name: str
    fits: Callable[[Row], bool]
    conversations: Callable[[Row], list[Chosen]]
    open_calls: bool = False


def _first(row: Row, keys: Sequence[str]) -> str | None:
    return next((key for key in keys if key in row), None)


def _text(row: Row, key: str | None) -> str:
    value = "" if key is None else row.get(key)
    if value is None or value != value:  # NaN: what pandas writes for an empty cell
        return ""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise BadRow("has something that is no text", f"{key!r} is a {type(value).__name__}")
    text = str(value)
    return "" if text.strip().lower() in NOTHING else text


def with_system(row: Row, chosen: Chosen) -> Chosen:
    """With the row's system prompt before it, where it has one and the conversation has none; without an empty one."""
    messages = chosen.messages
    shift = 0
    if messages and messages[0].role == "system":
        shift, messages = (0, messages) if messages[0].content.strip() else (-1, messages[1:])
    elif text := _text(row, _first(row, ("system", "system_prompt", "系统"))):
        shift, messages = 1, (Message(role="system", content=text), *messages)
    return replace(chosen, messages=messages, only_read=frozenset(place + shift for place in chosen.only_read))


def _all_learned(row: Row, *messages: Message) -> Chosen:
    return with_system(row, Chosen(messages))


# ---- Alpaca: instruction, input, output; LLaMA-Factory adds system and history


def _is_alpaca(row: Row) -> bool:
    return _first(row, INSTRUCTIONS) is not None and _first(row, OUTPUTS) is not None


def _alpaca(row: Row) -> list[Chosen]:
    given = (_text(row, _first(row, INSTRUCTIONS)), _text(row, _first(row, INPUTS)))
    question = Message(role="user", content="\n\n".join(part.strip("\n") for part in given if part))
    answer = Message(role="assistant", content=_text(row, _first(row, OUTPUTS)))
    return [_all_learned(row, *_history(row.get("history")), question, answer)]


def _history(history: Any) -> Iterator[Message]:
    for turn in history or ():
        match turn:
            case [str(question), str(answer)]:
                yield Message(role="user", content=question)
                yield Message(role="assistant", content=answer)
            case _:
                raise BadRow("has a history that is no list of [question, answer]", repr(turn)[:80])


# ---- Self-Instruct seeds: one instruction, several instances


def _is_self_instruct(row: Row) -> bool:
    return _first(row, INSTRUCTIONS) is not None and isinstance(row.get("instances"), list)


def _self_instruct(row: Row) -> list[Chosen]:
    instances = [{**row, **instance} for instance in row["instances"] if isinstance(instance, dict)]
    if not instances or len(instances) < len(row["instances"]):
        raise BadRow("has no proper instances", "`instances` must be a list of objects with input and output")
    return [conversation for instance in instances for conversation in _alpaca(instance)]


# ---- messages (role, content) and ShareGPT (from, value)


def _is_turns(row: Row) -> bool:
    return any(isinstance(row.get(key), list) for key in TURN_LISTS)


def _turns(row: Row) -> list[Chosen]:
    turns = cast("list[Any]", next(row[key] for key in TURN_LISTS if isinstance(row.get(key), list)))
    messages = messages_of(turns)
    whole = len(messages) == len(turns)
    return [with_system(row, Chosen(tuple(messages), _unweighted(turns) if whole else frozenset()))]


def _unweighted(turns: Sequence[Any]) -> frozenset[int]:
    """Answers that the file itself takes out of the loss: OpenAI's `weight: 0`."""
    return frozenset(
        place
        for place, turn in enumerate(turns)
        if isinstance(turn, dict) and turn.get("weight") == 0 and turn.get("role") == "assistant"
    )


# ---- a question, tools, and the calls that answer it


def _is_calls(row: Row) -> bool:
    return "query" in row and "answers" in row and "tools" in row


def _calls(row: Row) -> list[Chosen]:
    question = Message(role="user", content=_text(row, "query"))
    (call,) = messages_of([{"from": "function_call", "value": row["answers"]}])
    return [_all_learned(row, question, call)]


# ---- prompt/completion and its cousins


def _pair_keys(row: Row) -> tuple[str, str] | None:
    return next(((question, answer) for question, answer in PAIRS if question in row and answer in row), None)


def _pair(row: Row) -> list[Chosen]:
    question, answer = cast(tuple[str, str], _pair_keys(row))
    return [_all_learned(row, *_said(row, question, "user"), *_said(row, answer, "assistant"))]


def _said(row: Row, key: str, role: Role) -> list[Message]:
    if isinstance(row[key], list):  # TRL's conversational form: each side is a list of messages
        return messages_of(row[key])
    return [Message(role=role, content=_text(row, key))]


def _preferred(choose: Callable[[Row], Chosen]) -> Callable[[Row], list[Chosen]]:
    return lambda row: [with_system(row, choose(row))]


# A row is of the first format that it fits: preferences also look like what they contain.
FORMATS = (
    RowFormat("chosen and rejected", preferences.is_pair, _preferred(preferences.chosen_of_pair)),
    RowFormat("judged pairs", preferences.is_judged, _preferred(preferences.chosen_of_judged)),
    RowFormat("scored answers", preferences.is_scored, _preferred(preferences.chosen_of_scored)),
    RowFormat("labelled answers", preferences.is_labelled, _preferred(preferences.chosen_of_labelled)),
    RowFormat("messages or ShareGPT", _is_turns, _turns),
    RowFormat("Self-Instruct", _is_self_instruct, _self_instruct),
    RowFormat("questions and calls", _is_calls, _calls, open_calls=True),
    RowFormat("Alpaca", _is_alpaca, _alpaca),
    RowFormat("prompt and completion", lambda row: _pair_keys(row) is not None, _pair),
)
