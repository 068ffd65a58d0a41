"""A conversation in an open model's own chat template: its text, its ids, and which of them are to be learned.

Nothing that was typed becomes a control token: in the contents, names of control tokens are broken up by a character that
occurs nowhere else, the template is rendered over them, what is then found whole was written by the template, and the breaks
are taken out. Within an answer the model's own markup (`<think>`, `<tool_call>`) stays whole, for the model wrote it.
"""

import itertools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from dunwu.core.errors import DataError, TokenizerError
from dunwu.core.records import Message, Tokens
from dunwu.tokenizer.open import OpenTokenizer
from dunwu.tokenizer.render import marks_generation, render_template
from dunwu.tokenizer.tool_text import mapped, message_rows

Span = tuple[int, int]
_PRIVATE_USE = range(0xE000, 0xF900)
_THINKING = re.compile(r"(</?think(?:ing)?>)")


def render_open_chat(
    tokenizer: OpenTokenizer, messages: Sequence[Message], *, add_generation_prompt: bool = False, **settings: Any
) -> str:
    """The text of a conversation, as transformers' `apply_chat_template(tokenize=False)` gives it."""
    return _render(tokenizer, message_rows(messages), add_generation_prompt, settings)


def encode_open_chat(
    tokenizer: OpenTokenizer,
    messages: Sequence[Message],
    *,
    add_generation_prompt: bool = False,
    beginning: str = "",
    **settings: Any,
) -> Tokens:
    """The ids of a conversation; `learned` is true on what the model has to write of it, its end-of-turn tokens included.

    That is what stands between `{% generation %}` markers. In a template without them it begins where the generation prompt
    would end, or else with the answer, and ends with the stop token after the answer. A prompt (`add_generation_prompt`)
    learns nothing, and the answer to it may have a `beginning`. `settings` go to the template (`tools`, `enable_thinking`,
    ...). Raises DataError for calls of tools to be learned in a template without the markers whose turns do not show.
    """
    template = _template(tokenizer, settings)
    rows = message_rows(messages)
    marks = free_characters(rows, settings, template, beginning)
    guard = next_mark(marks)
    rows = [_disarm_row(tokenizer, row, guard) for row in rows]
    settings = {name: _disarm_all(tokenizer, value, guard) for name, value in settings.items()}
    if add_generation_prompt:
        text, spans = _render(tokenizer, rows, True, settings) + _disarm(tokenizer, beginning, guard, own=True), []
    elif marks_generation(template):
        text, spans = _generation_spans(tokenizer, rows, settings, next_mark(marks), next_mark(marks))
    elif any(message.tool_calls for message in messages):
        text, spans = _turn_spans(tokenizer, rows, settings)
    else:
        text, spans = _answer_spans(tokenizer, rows, settings, marks)
    return _encode(tokenizer, text, spans, guard)


def verify_open_mask(tokenizer: OpenTokenizer) -> None:
    """Raise TokenizerError unless, in this template, each answer is learned together with a stop token after it, and a prompt
    is the beginning of the conversation that answers it."""
    talk = _SAMPLE
    try:
        tokens = encode_open_chat(tokenizer, talk)
    except DataError:  # a template without system messages
        talk = _SAMPLE[1:]
        tokens = encode_open_chat(tokenizer, talk)
    runs = list(_runs(tokens))
    answers = [message.content for message in talk if message.role == "assistant"]
    texts = [tokenizer.decode(run) for run in runs]
    if len(runs) != len(answers) or not all(answer in text for answer, text in zip(answers, texts, strict=True)):
        raise TokenizerError(
            f"the chat template does not show which tokens are the model's: {len(runs)} runs for {len(answers)} answers; "
            "put {% generation %} and {% endgeneration %} around the answer and its end-of-turn token in it"
        )
    ends = [any(number in tokenizer.stop_ids for number in run) for run in runs]
    if not all(ends):
        raise TokenizerError(
            f"in the chat template no token ends answer {ends.index(False) + 1}, so that a model trained on it would never "
            "stop; write one of the model's end-of-turn tokens after each answer, the last too"
        )
    prompt = encode_open_chat(tokenizer, talk[:-1], add_generation_prompt=True).ids
    if not np.array_equal(prompt, tokens.ids[: len(prompt)]):
        raise TokenizerError(
            "with this chat template a prompt is not the beginning of the conversation that answers it; "
            "a model trained on it would meet other prompts in use: try the template's settings, such as enable_thinking=False"
        )


_SAMPLE = (
    Message(role="system", content="Be brief."),
    Message(role="user", content="What is 12 + 30?"),
    Message(role="assistant", content="It is 42."),
    Message(role="user", content="Sure?"),
    Message(role="assistant", content="Yes, quite."),
)


def _template(tokenizer: OpenTokenizer, settings: Mapping[str, Any]) -> str:
    template = tokenizer.template_for(tools=bool(settings.get("tools")))
    if template is None:
        raise TokenizerError(
            f"the model in {tokenizer.folder} has no chat template: it only continues text; "
            "use `dunwu generate --raw`, or take the version of the model that was trained to chat"
        )
    return template


def _render(
    tokenizer: OpenTokenizer,
    rows: Sequence[Any],
    add_generation_prompt: bool,
    settings: Mapping[str, Any],
    **marks: str,
) -> str:
    context = {**tokenizer.template_tokens, **settings, **marks}
    context |= {"messages": list(rows), "add_generation_prompt": add_generation_prompt}
    return render_template(_template(tokenizer, settings), context)


def free_characters(*values: Any) -> Iterator[str]:
    """Private-use characters that occur nowhere in what was typed, nor in the template."""
    taken = json.dumps(values, ensure_ascii=False, default=str)
    return (chr(code) for code in _PRIVATE_USE if chr(code) not in taken)


def next_mark(marks: Iterator[str]) -> str:
    """Raises DataError when a text uses them all."""
    if mark := next(marks, ""):
        return mark
    raise DataError("the text uses every private-use character from U+E000 to U+F8FF; leave some of them out")


def _disarm_row(tokenizer: OpenTokenizer, row: dict[str, Any], guard: str) -> dict[str, Any]:
    safe = _disarm_all(tokenizer, {key: value for key, value in row.items() if key != "content"}, guard)
    return {**safe, "content": _disarm(tokenizer, row["content"], guard, own=row["role"] == "assistant")}


def _disarm(tokenizer: OpenTokenizer, text: str, guard: str, *, own: bool) -> str:
    """`own`: the model wrote it, and its markup stays whole."""

    def broken(found: re.Match[str]) -> str:
        return found[0] if own and tokenizer.is_markup(found[0]) else guard.join(found[0])

    return tokenizer.control_pattern.sub(broken, text)


def _disarm_all(tokenizer: OpenTokenizer, value: Any, guard: str) -> Any:
    return mapped(value, lambda text: tokenizer.control_pattern.sub(lambda found: guard.join(found[0]), text))


def _generation_spans(
    tokenizer: OpenTokenizer, rows: Sequence[Any], settings: Mapping[str, Any], mark_from: str, mark_to: str
) -> tuple[str, list[Span]]:
    marked = _render(tokenizer, rows, False, settings, mark_from=mark_from, mark_to=mark_to)
    text, places = _without_marks(marked, {mark_from, mark_to})
    return text, list(zip(places[mark_from], places[mark_to], strict=True))


def _answer_spans(
    tokenizer: OpenTokenizer, rows: Sequence[dict[str, str]], settings: Mapping[str, Any], marks: Iterator[str]
) -> tuple[str, list[Span]]:
    """Find the answers in the text of a template that does not mark them."""
    text = _render(tokenizer, rows, False, settings)
    header = _prompt_header(tokenizer, settings)
    spans: list[Span] = []
    done = 0
    for span in _marked_answers(tokenizer, rows, settings, text, marks) or _literal_answers(text, rows):
        at = text.rfind(header, done, span[0]) if header else -1
        done = _turn_end(tokenizer, text, span[1])
        spans.append((at + len(header) if at >= 0 else span[0], done))
    return text, spans


def _turn_spans(
    tokenizer: OpenTokenizer, rows: Sequence[dict[str, Any]], settings: Mapping[str, Any]
) -> tuple[str, list[Span]]:
    """The assistant's turns, calls of tools among them: from each generation prompt to the stop token after it."""
    text = _render(tokenizer, rows, False, settings)
    header = _prompt_header(tokenizer, settings)
    starts = [found.end() for found in re.finditer(re.escape(header), text)] if header else []
    spans = [(start, _first_stop(tokenizer, text, start)) for start in starts]
    closed = all(end <= after for (_, end), after in zip(spans, [*starts[1:], len(text)], strict=False))
    if len(spans) != sum(row["role"] == "assistant" for row in rows) or not closed:
        raise DataError(
            "this chat template does not show which tokens of a call of tools are the model's; put {% generation %} and "
            "{% endgeneration %} around the assistant's turn in it"
        )
    return text, spans


def _first_stop(tokenizer: OpenTokenizer, text: str, start: int) -> int:
    """Where the first stop token at or after `start` ends; beyond the text where there is none."""
    for found in tokenizer.control_pattern.finditer(text, start):
        if tokenizer.control_ids[found[0]] in tokenizer.stop_ids:
            return found.end()
    return len(text) + 1


def _marked_answers(
    tokenizer: OpenTokenizer,
    rows: Sequence[dict[str, str]],
    settings: Mapping[str, Any],
    text: str,
    marks: Iterator[str],
) -> list[Span]:
    """Where the answers stand, found by marks set around what they say; none where marks would change the text."""
    pairs: list[tuple[str, str]] = []
    marked_rows = list(rows)
    for place, row in enumerate(rows):
        if row["role"] == "assistant" and row["content"].strip():
            pair = (next(marks, ""), next(marks, ""))
            if not pair[1]:
                return []  # more answers than there are marks
            pairs.append(pair)
            marked_rows[place] = {**row, "content": _wrap(row["content"], *pair)}
    try:
        marked = _render(tokenizer, marked_rows, False, settings)
    except (DataError, TokenizerError):
        return []
    clean, places = _without_marks(marked, set(itertools.chain(*pairs)))
    if clean != text:
        return []
    return [(places[start][0], places[end][-1]) for start, end in pairs if places[start] and places[end]]


def _wrap(content: str, mark_from: str, mark_to: str) -> str:
    """Marks close around what is said, before and after the tags of thinking: templates trim answers and leave thoughts out."""
    parts = _THINKING.split(content)
    for place in range(0, len(parts), 2):
        if core := parts[place].strip():
            parts[place] = parts[place].replace(core, f"{mark_from}{core}{mark_to}", 1)
    return "".join(parts)


def _literal_answers(text: str, rows: Sequence[dict[str, str]]) -> list[Span]:
    spans: list[Span] = []
    end = 0
    for row in rows:
        said = row["content"].strip()
        if row["role"] == "assistant" and said:
            start = text.find(said, end)
            if start < 0:
                raise TokenizerError(
                    "the chat template changes what the assistant says, so that the answers cannot be told from the rest; "
                    "put {% generation %} and {% endgeneration %} around the answer in it"
                )
            end = start + len(said)
            spans.append((start, end))
    return spans


def _turn_end(tokenizer: OpenTokenizer, text: str, end: int) -> int:
    """The end of the stop token right after an answer, or of the answer where there is none."""
    found = tokenizer.control_pattern.search(text, end)
    closes = found and not text[end : found.start()].strip() and tokenizer.control_ids[found[0]] in tokenizer.stop_ids
    return found.end() if found and closes else end


def _prompt_header(tokenizer: OpenTokenizer, settings: Mapping[str, Any]) -> str:
    """What the generation prompt adds, such as `<|im_start|>assistant`; empty for templates that add nothing."""
    rows = [{"role": "user", "content": "x"}]
    try:
        bare, asked = (_render(tokenizer, rows, prompt, settings) for prompt in (False, True))
    except (DataError, TokenizerError):
        return ""
    return asked[len(bare) :] if asked.startswith(bare) else ""


def _without_marks(marked: str, marks: set[str]) -> tuple[str, dict[str, list[int]]]:
    """The text without `marks`, and where in it each stood."""
    places: dict[str, list[int]] = {mark: [] for mark in marks}
    if not marks:
        return marked, places
    kept: list[str] = []
    length = 0
    for piece in re.split("([" + "".join(marks) + "])", marked):
        if piece in places:
            places[piece].append(length)
        else:
            kept.append(piece)
            length += len(piece)
    return "".join(kept), places


def _encode(tokenizer: OpenTokenizer, text: str, spans: Sequence[Span], guard: str) -> Tokens:
    """Give the template's control tokens their ids, take the breaks out, and find the tokens that touch the spans."""
    pieces: list[str] = []
    borders = sorted({border for span in spans for border in span})
    moved: dict[int, int] = {}
    length = at = 0
    cuts = re.compile(f"{tokenizer.control_pattern.pattern}|{guard}")
    for found in itertools.chain(cuts.finditer(text), [None]):
        start = found.start() if found else len(text)
        while borders and borders[0] <= start:
            border = borders.pop(0)
            moved[border] = length + border - at
        written = "" if found is None or found[0] == guard else tokenizer.hidden(found[0])
        pieces += [text[at:start], written]
        length += start - at + len(written)
        at = found.end() if found else at
    encoded = tokenizer.encode_spans("".join(pieces))
    learned = np.zeros(len(encoded.ids), dtype=np.bool_)
    starts, ends = np.array(encoded.spans, dtype=np.int64).reshape(-1, 2).T
    for first, last in spans:
        learned |= (starts < moved[last]) & (ends > moved[first])
    return Tokens(ids=np.array(encoded.ids, dtype=np.int32), learned=learned)


def _runs(tokens: Tokens) -> Iterator[list[int]]:
    for learned, group in itertools.groupby(
        zip(tokens.ids.tolist(), tokens.learned.tolist(), strict=True), _is_learned
    ):
        if learned:
            yield [number for number, _ in group]


def _is_learned(pair: tuple[int, bool]) -> bool:
    return pair[1]
