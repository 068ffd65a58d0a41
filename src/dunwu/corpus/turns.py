"""One turn of a conversation in whatever spelling a file has, as messages: words, calls of tools and their results."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

from dunwu.core.records import Message, Role, ToolCall
from dunwu.corpus.json_rows import BadRow

Row = Mapping[str, Any]

ROLES: Mapping[str, Role] = {
    **dict.fromkeys(("system", "developer", "系统"), "system"),
    **dict.fromkeys(("user", "human", "prompter", "用户", "人类", "问"), "user"),
    **dict.fromkeys(
        (
            "assistant",
            "gpt",
            "chatgpt",
            "model",
            "bot",
            "bing",
            "bard",
            "ai",
            "function_call",
            "tool_call",
            "助手",
            "答",
        ),
        "assistant",
    ),
    **dict.fromkeys(
        ("tool", "observation", "function", "function_response", "tool_response", "ipython", "工具"), "tool"
    ),
}
CALLS = ("function_call", "tool_call")  # in ShareGPT a role of its own
NOT_TEXT = ("image", "images", "video", "videos", "audio", "audios")
_SPEAKER = re.compile(r"(?:\A\s*|\n\n)(Human|Assistant):")


def messages_of(turns: Iterable[Any]) -> list[Message]:
    """The messages of a list of turns. Raises BadRow for a turn that cannot be used.

    What an assistant says and the calls that follow it are one message; results answer the calls in their order where they do
    not name one.
    """
    messages: list[Message] = []
    for turn in turns:
        for message in _turn(turn):
            before = messages[-1] if messages else None
            if before is not None and before.role == message.role == "assistant" and message.tool_calls:
                said = "\n".join(filter(None, (before.content, message.content)))
                calls = before.tool_calls + message.tool_calls
                messages[-1] = replace(before, content=said, tool_calls=calls)
            else:
                messages.append(message)
    return _numbered(messages)


def tools_of(row: Row) -> tuple[Mapping[str, Any], ...]:
    """The tools of a row in OpenAI's form, from a list or the JSON of one. Raises BadRow where it is none."""
    tools = next((row[key] for key in ("tools", "functions", "工具") if row.get(key)), None)
    if isinstance(tools, str):
        tools = _parsed(tools, "has tools that are no JSON") if tools.strip() else None
    if tools is None:
        return ()
    if isinstance(tools, dict):
        tools = [tools]
    if not isinstance(tools, list):
        raise BadRow("has tools that are no list", f"they are a {type(tools).__name__}")
    return tuple(_tool(tool) for tool in cast("list[Any]", tools))


def transcript(text: str) -> list[Message] | None:
    r"""The messages of a text such as "\n\nHuman: …\n\nAssistant: …"; None where it is no such text.

    An answer that is still to come ("\n\nAssistant:" at the end) is left out.
    """
    if _SPEAKER.match(text) is None:
        return None
    _, *parts = _SPEAKER.split(text)
    roles = ["user" if speaker == "Human" else "assistant" for speaker in parts[::2]]
    messages = [
        Message(role=cast(Role, role), content=said.strip()) for role, said in zip(roles, parts[1::2], strict=True)
    ]
    return messages[:-1] if messages[-1].role == "assistant" and not messages[-1].content else messages


def require_text_alone(row: Row) -> None:
    """Raise BadRow for a row that comes with pictures, sound or film: its words alone would not be what was asked."""
    if key := next((key for key in NOT_TEXT if row.get(key)), None):
        raise BadRow("has something that is no text", f"the row comes with {key!r}; only text can be learned here")


def _turn(turn: Any) -> list[Message]:
    match turn:
        case {"api_name": str(name), "param_dict": arguments, "result": result}:  # API-Bank: call and result in one
            call = ToolCall(id="", name=name, arguments=_arguments(arguments))
            return [Message(role="assistant", tool_calls=(call,)), Message(role="tool", content=_result(result))]
        case {"role": str(role), "content": content} | {"from": str(role), "value": content}:
            return [_message(role, content, cast(Row, turn))]
        case {"role": str(role), "tool_calls": [*_]} | {"role": str(role), "function_call": {}}:
            return [_message(role, None, cast(Row, turn))]
        case {"role": str(role), "text": content}:
            return [_message(role, content, cast(Row, turn))]
        case {"human": str(question), "assistant": str(answer)}:
            return [Message(role="user", content=question), Message(role="assistant", content=answer)]
        case _:
            keys = sorted(map(str, turn)) if isinstance(turn, dict) else type(turn).__name__
            raise BadRow("has a turn without role and content", f"it has {keys}")


def _message(name: str, content: Any, turn: Row) -> Message:
    role = ROLES.get(name.strip().lower())
    if role is None:
        known = "system, user (human), assistant (gpt), function_call and tool (observation)"
        raise BadRow(f"has the role {name[:40]!r}", f"known are {known}")
    if name.strip().lower() in CALLS:
        calls = _parsed(content, "has a call of tools that is no JSON") if isinstance(content, str) else content
        return Message(role="assistant", tool_calls=_calls(calls))
    if role == "tool":
        named = {key: turn[key] for key in ("tool_call_id", "name") if isinstance(turn.get(key), str)}
        return Message(role="tool", content=_result(content), **named)
    calls = turn.get("tool_calls") or turn.get("function_call")
    if calls and role == "assistant":
        return Message(role=role, content=_words(content or ""), tool_calls=_calls(calls))
    return Message(role=role, content=_words(content))


def _calls(calls: Any) -> tuple[ToolCall, ...]:
    found = cast("list[Any]", calls) if isinstance(calls, list) else [calls]
    if not found:
        raise BadRow("has a call of tools that calls none")
    return tuple(_call(call) for call in found)


def _call(call: Any) -> ToolCall:
    match call:
        case {"function": {"name": str(name), "arguments": arguments}} | {"name": str(name), "arguments": arguments}:
            number = cast(Row, call).get("id")
            return ToolCall(id=number if isinstance(number, str) else "", name=name, arguments=_arguments(arguments))
        case {"name": str(name), "parameters": dict() as arguments}:
            return ToolCall(id="", name=name, arguments=_arguments(arguments))
        case _:
            raise BadRow("has a call of tools without name and arguments", repr(call)[:80])


def _arguments(value: Any) -> str:
    parsed = _parsed(value or "{}", "has a call whose arguments are no JSON") if isinstance(value, str) else value
    if parsed is None:
        parsed = {}
    if not isinstance(parsed, dict):
        raise BadRow("has a call whose arguments are no JSON object", repr(value)[:80])
    return _json(parsed)


def _result(content: Any) -> str:
    """What a tool gave back: text as it is, anything else as JSON."""
    if isinstance(content, str):
        return content
    if isinstance(content, list) and content and all(isinstance(part, dict) and "type" in part for part in content):
        return _words(content)
    return _json(content)


def _words(content: Any) -> str:
    match content:
        case str():
            return content
        case [*parts] if parts and all(isinstance(part, dict) and part.get("type") == "text" for part in parts):
            return "".join(str(part.get("text", "")) for part in parts)
        case [*parts]:
            kinds = {str(part.get("type", "?")) if isinstance(part, dict) else type(part).__name__ for part in parts}
            what = " and ".join(sorted(kinds - {"text"})) or "nothing"
            raise BadRow("has something that is no text", f"its content holds {what}; only text can be learned here")
        case _:
            raise BadRow("has something that is no text", f"its content is a {type(content).__name__}")


def _tool(tool: Any) -> Mapping[str, Any]:
    match tool:
        case {"function": {"name": str()}}:
            return {"type": "function", **tool}
        case {"name": str()}:
            return {"type": "function", "function": tool}
        case _:
            raise BadRow("has a tool without a name", repr(tool)[:80])


def _numbered(messages: Sequence[Message]) -> list[Message]:
    """Calls get ids where they have none, and results the id and the name of the call that they answer."""
    numbered: list[Message] = []
    waiting: list[ToolCall] = []
    count = 0
    for message in messages:
        if message.tool_calls:
            calls = [
                call if call.id else replace(call, id=f"call_{count + at}")
                for at, call in enumerate(message.tool_calls)
            ]
            count += len(calls)
            waiting = list(calls)
            message = replace(message, tool_calls=tuple(calls))
        elif message.role == "tool" and waiting:
            number = message.tool_call_id
            at = next((at for at, call in enumerate(waiting) if call.id == number), None if number else 0)
            if at is not None:
                call = waiting.pop(at)
                message = replace(message, tool_call_id=call.id, name=message.name or call.name)
        numbered.append(message)
    return numbered


def require_results(messages: Sequence[Message], *, open_end: bool) -> None:
    """Raise BadRow unless every call is followed by its own result. `open_end`: the last message may call."""
    turns = iter(enumerate(messages, 1))
    waiting: dict[str, int] = {}
    for place, message in turns:
        if message.role == "tool":
            if message.tool_call_id not in waiting:
                raise BadRow("has a result that answers no call", f"message {place}, of {message.tool_call_id!r}")
            del waiting[message.tool_call_id]
            continue
        _require_none_waiting(waiting)
        waiting = {call.id: place for call in message.tool_calls}
        if len(waiting) < len(message.tool_calls):
            raise BadRow("has two calls with one id", f"message {place}")
    if not (open_end and messages[-1].tool_calls):
        _require_none_waiting(waiting)


def _require_none_waiting(waiting: Mapping[str, int]) -> None:
    for number, place in waiting.items():
        raise BadRow("has a call of tools without its result", f"message {place}, call {number!r}")


def _parsed(text: str, fault: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadRow(fault, f"{text[:60]!r}: {error}"[:160]) from error


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def answers_before(messages: Sequence[Message], end: int) -> Iterator[int]:
    """The places, below `end`, of what the assistant says."""
    return (place for place, message in enumerate(messages[:end]) if message.role == "assistant")
