"""Tools in a conversation: as chat templates want to be given them, and spelled out for templates that know none.

The spelling is that of Hermes and Qwen: tools as JSON lines between `<tools>` and `</tools>` in the system turn, calls between
`<tool_call>` and `</tool_call>`, results between `<tool_response>` and `</tool_response>` in a user turn.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from dunwu.core.errors import DataError
from dunwu.core.records import Message, Role

Tool = Mapping[str, Any]

TOOLS_BEFORE = "You can call functions. Each line between <tools> and </tools> describes one as JSON:\n<tools>"
TOOLS_AFTER = (
    "\n</tools>\n\nTo call a function, write its name and its arguments as one JSON object between tags, and wait for the result:\n"
    '<tool_call>\n{"name": NAME, "arguments": OBJECT}\n</tool_call>'
)


def message_rows(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """The messages as `apply_chat_template` takes them: what is empty is left out, arguments are objects where they are JSON
    objects, and a result that does not name its tool gets the name from the call that it answers."""
    called: dict[str, str] = {}
    rows: list[dict[str, Any]] = []
    for message in messages:
        row: dict[str, Any] = {"role": message.role, "content": message.content}
        if message.tool_calls:
            called |= {call.id: call.name for call in message.tool_calls}
            row["tool_calls"] = [
                {
                    "id": call.id,
                    "type": "function",
                    "function": {"name": call.name, "arguments": parsed_arguments(call.arguments)},
                }
                for call in message.tool_calls
            ]
        name = message.name or (called.get(message.tool_call_id or "") if message.role == "tool" else None)
        row |= {key: value for key, value in (("tool_call_id", message.tool_call_id), ("name", name)) if value}
        rows.append(row)
    return rows


def mapped(value: Any, change: Callable[[str], str]) -> Any:
    """`change` on every string within, keys of mappings too."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict | Mapping):  # the first for speed
        return {mapped(key, change): mapped(item, change) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [mapped(item, change) for item in value]
    return value


def parsed_arguments(text: str) -> Any:
    """The object that `text` is as JSON; `text` itself where it is none."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return text
    return value if isinstance(value, dict) else text


def require_json(tools: Sequence[Tool]) -> None:
    """Raise DataError for tools that cannot be written as JSON."""
    try:
        json.dumps(list(tools), allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise DataError(f"tools cannot be written as JSON ({str(error)[:200]}); mend or flatten them") from error


def uses_tools(messages: Sequence[Message], tools: Sequence[Tool]) -> bool:
    return bool(tools) or any(message.tool_calls or message.role == "tool" for message in messages)


def spelled_out(messages: Sequence[Message], tools: Sequence[Tool], *, role: Role = "system") -> list[Message]:
    """The same conversation with tools, calls and results as plain text of system, assistant and user. `role`: whose first
    turn describes the tools."""
    turns: list[Message] = []
    for place, message in enumerate(messages):
        if message.role == "tool":
            result = f"<tool_response>\n{message.content.strip()}\n</tool_response>"
            if place and messages[place - 1].role == "tool":
                turns[-1] = Message(role="user", content=f"{turns[-1].content}\n{result}")
            else:
                turns.append(Message(role="user", content=result))
        elif message.tool_calls:
            said = [message.content.strip(), *(_spelled_call(call.name, call.arguments) for call in message.tool_calls)]
            turns.append(Message(role="assistant", content="\n".join(part for part in said if part)))
        else:
            turns.append(message)
    if not tools:
        return turns
    lines = "".join(f"\n{json.dumps(tool, ensure_ascii=False)}" for tool in tools)
    text = TOOLS_BEFORE + lines + TOOLS_AFTER
    if turns and turns[0].role == role:
        said = turns[0].content.strip()
        parts = (said, text) if role == "system" else (text, said)
        return [Message(role=role, content="\n\n".join(part for part in parts if part)), *turns[1:]]
    return [Message(role=role, content=text), *turns]


def _spelled_call(name: str, arguments: str) -> str:
    value = parsed_arguments(arguments)
    written = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return f'<tool_call>\n{{"name": {json.dumps(name, ensure_ascii=False)}, "arguments": {written}}}\n</tool_call>'
