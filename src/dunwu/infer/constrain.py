"""Output that a grammar allows and no other: JSON of a schema, an expression, a choice, a grammar, calls of tools.

The grammar works on bytes, so that any tokenizer serves: each id stands for its bytes, ids of control tokens for nothing that a
text can hold (a grammar must ask for them by `<name>` or `<[id]>`), and ids beyond the tokenizer's for nothing at all. The
masks come from llguidance (derivatives of regular expressions and an Earley parser; its work is bounded at every step).

Shapes: `V` vocabulary.
"""

import importlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from dunwu.core.errors import MissingExtraError, RecipeError
from dunwu.tokenizer.like import TokenizerLike

ConstraintKind = Literal["json_schema", "regex", "choice", "grammar", "tools"]
MOST_SOURCE_CHARACTERS = 1 << 17  # a schema of this size takes about a second to read
MOST_KEPT = 64  # grammars read once and kept for the next request
_SHOWN_CHARACTERS = 300
_JSON = {
    "whitespace_pattern": r"[ \t\n]{0,40}"
}  # enough to indent, not enough for a weak model to write spaces for ever


@dataclass(frozen=True, slots=True)
class Constraint:
    """What a completion must be. `source`: the expression, the grammar, or what else there is as JSON text.

    Raises RecipeError when it is too long, or nested too deep to be written; what it means is looked at by
    `Grammars.matcher`.
    """

    kind: ConstraintKind
    source: str

    def __post_init__(self) -> None:
        if len(self.source) > MOST_SOURCE_CHARACTERS:
            raise RecipeError(
                f"{self.kind} of {len(self.source)} characters is longer than {MOST_SOURCE_CHARACTERS}; make it shorter"
            )

    @classmethod
    def json_schema(cls, schema: Mapping[str, Any] | bool | str) -> "Constraint":
        """JSON that the schema (an object, or its text) holds valid. `{}` is any JSON, `{"type": "object"}` any object."""
        return cls("json_schema", schema if isinstance(schema, str) else _json_text(schema, "json_schema"))

    @classmethod
    def regex(cls, expression: str) -> "Constraint":
        """Text that the expression matches from beginning to end; Rust's syntax (no look-around, no
        back-references), but `\\d` is 0 to 9 alone."""
        return cls("regex", expression)

    @classmethod
    def choice(cls, texts: Sequence[str]) -> "Constraint":
        """One of these texts."""
        if isinstance(texts, str) or not texts or not all(isinstance(text, str) and text for text in texts):
            raise RecipeError(f"choice={_shown(repr(texts))} must be a list of texts, none empty; give at least one")
        return cls("choice", _json_text(list(texts), "choice"))

    @classmethod
    def grammar(cls, lark: str) -> "Constraint":
        """A context-free grammar in Lark's syntax, as llguidance reads it: rules in small letters, the first is `start`."""
        return cls("grammar", lark)

    @classmethod
    def tools(
        cls,
        tools: Sequence[Mapping[str, Any]],
        *,
        required: bool = True,
        most: int = 1,
        opening: str = "<tool_call>\n",
        closing: str = "\n</tool_call>",
        key: str = "arguments",
    ) -> "Constraint":
        """Calls of tools: `{"name": …, key: …}` between `opening` and `closing` (Qwen's and Hermes' by default).

        `tools`: each with "name", and "parameters" as a JSON schema. With `required` the completion is one call, or up to
        `most`; without, any text, in which what begins as a call must be one. Names of control tokens in `opening` and
        `closing` are these tokens. To force one tool give no other.
        """
        for tool in tools:
            if not isinstance(tool.get("name"), str) or not isinstance(tool.get("parameters", {}), (dict, bool)):
                raise RecipeError(
                    f'tool {_shown(repr(tool))} must have a "name" and, as "parameters", a JSON schema; see OpenAI\'s form'
                )
        if not tools or most < 1 or not (opening or required):
            raise RecipeError(f"{len(tools)} tools, most={most}, opening={opening!r}; give at least one of each")
        wanted = {"required": required, "most": most, "opening": opening, "closing": closing, "key": key}
        return cls("tools", _json_text({"tools": list(tools), **wanted}, "tools"))


class Grammars:
    """Makes matchers for one tokenizer and a model of `rows` ids (≥ the tokenizer's: the rest is padding, never allowed).

    Costs about a tenth of a second for a large vocabulary: make one per engine. Matchers may be made on any thread.
    Raises MissingExtraError without llguidance.
    """

    def __init__(self, tokenizer: TokenizerLike, rows: int) -> None:
        self._library = _library()
        self.rows = rows
        self.size = min(tokenizer.vocab_size, rows)
        self.special: Mapping[str, int] = getattr(tokenizer, "control_ids", tokenizer.special_ids)
        self.stop_ids = tuple(number for number in tokenizer.stop_ids if number < self.size)
        wrapped = self._library.TokenizerWrapper(_Vocabulary(tokenizer, self.size, self.special, self.stop_ids))
        self._tokens = self._library.LLTokenizer(wrapped, n_vocab=self.size, eos_token=list(self.stop_ids))
        self._limits = self._library.LLParserLimits(verbose_errors=False)
        self._read: dict[Constraint, Any] = {}

    def matcher(self, constraint: Constraint, stop_ids: Iterable[int] | None = None) -> "Matcher":
        """The state of one completion, at its beginning. `stop_ids` None: the tokenizer's.

        Raises RecipeError for a constraint that cannot be read, that nothing can satisfy, or that is too large.
        """
        first = self._read.get(constraint)
        if first is None:
            first = self._library.LLMatcher(self._tokens, self._written(constraint), log_level=0, limits=self._limits)
            _require_sound(first, constraint)
            if not any(first.compute_bitmask()) or first.is_error():
                _require_sound(first, constraint)
                raise RecipeError(f"{constraint.kind} {_shown(constraint.source)!r} allows no text at all; loosen it")
            while len(self._read) >= MOST_KEPT:
                self._read.pop(next(iter(self._read)), None)
            self._read[constraint] = first
        stops = self.stop_ids if stop_ids is None else tuple(number for number in stop_ids if number < self.rows)
        return Matcher(first.deep_copy(), constraint, self.rows, stops or self.stop_ids)

    def _written(self, constraint: Constraint) -> str:
        """The constraint in llguidance's own form."""
        reader, source = self._library.LLMatcher, constraint.source
        match constraint.kind:
            case "json_schema":
                return reader.grammar_from_json_schema(_mended(source), defaults=_JSON)
            case "regex":
                return reader.grammar_from_lark(f"start: /{self._library.regex_to_lark(source, use_ascii='d')}/")
            case "choice":
                return reader.grammar_from_lark("start: " + " | ".join(map(_quoted, json.loads(source))))
            case "grammar":
                return reader.grammar_from_lark(source)
            case "tools":
                return reader.grammar_from_lark(_tools_lark(json.loads(source), self.special))


class Matcher:
    """How far a completion has come in its grammar: tokens go in one by one, and out again by `rollback`."""

    def __init__(self, state: Any, constraint: Constraint, rows: int, stop_ids: tuple[int, ...]) -> None:
        self._state = state
        self._constraint = constraint
        self._rows = rows
        self._stop_ids = stop_ids
        self._fed: list[bool] = []  # for each token accepted, whether the grammar saw it: it does not see the end

    @property
    def accepting(self) -> bool:
        """Whether what is there is whole: exactly then may the completion end."""
        return self._state.is_accepting()

    @property
    def finished(self) -> bool:
        """Whether nothing may follow but the end: an engine can stop here without asking the model."""
        return self._state.is_stopped() or (bool(self._fed) and not self._fed[-1])

    def mask(self) -> Tensor:
        """Which ids may come next, [V] bool; never none. Raises RecipeError where the grammar turns out too large."""
        allowed_V = torch.zeros(self._rows, dtype=torch.bool)
        if not self.finished:
            bits = np.frombuffer(self._state.compute_bitmask(), dtype=np.uint8)
            _require_sound(self._state, self._constraint)
            known = np.unpackbits(bits, bitorder="little", count=min(self._rows, bits.size * 8))
            allowed_V[: known.size] = torch.from_numpy(known).bool()
        if self.finished or self.accepting:
            _require_sound(self._state, self._constraint)
            allowed_V[list(self._stop_ids)] = True
        return allowed_V

    def accept(self, number: int) -> None:
        """Take a token. Raises RecipeError when the grammar does not allow it."""
        at_end = number in self._stop_ids and (self.finished or self.accepting)
        if not at_end and self._state.try_consume_tokens([number]) != 1:
            _require_sound(self._state, self._constraint)
            raise RecipeError(
                f"id {number} does not fit {self._constraint.kind} {_shown(self._constraint.source)!r}; choose within `mask`"
            )
        self._fed.append(not at_end)

    def accepted(self, numbers: Sequence[int]) -> int:
        """How many of these, from the first on, the grammar would take; the state stays. The end counts where it may stand."""
        taken = 0
        for number in numbers:
            if self.finished and self._fed and not self._fed[-1]:
                break
            try:
                self.accept(number)
            except RecipeError:
                if self._state.is_error():
                    raise
                break
            taken += 1
        self.rollback(taken)
        return taken

    def rollback(self, count: int) -> None:
        """Take back the last `count` tokens, as speculation must where its draft was refused."""
        assert count <= len(self._fed)
        taken = self._fed[len(self._fed) - count :]
        del self._fed[len(self._fed) - count :]
        if sum(taken) and not self._state.rollback(sum(taken)):
            _require_sound(self._state, self._constraint)

    def copy(self) -> "Matcher":
        """One more completion from here: for `n` > 1 and beams."""
        twin = Matcher(self._state.deep_copy(), self._constraint, self._rows, self._stop_ids)
        twin._fed = [*self._fed]
        return twin


class _Vocabulary:
    """A tokenizer as llguidance wants to see it."""

    bos_token_id = None

    def __init__(
        self, tokenizer: TokenizerLike, size: int, special: Mapping[str, int], stop_ids: tuple[int, ...]
    ) -> None:
        unused = frozenset(tokenizer.unused_ids)
        self.eos_token_id = stop_ids[0] if stop_ids else tokenizer.eos_id
        self.tokens = [b"" if number in unused else tokenizer.id_bytes(number) for number in range(size)]
        self.special_token_ids = sorted({*(number for number in special.values() if number < size), *stop_ids})
        self._encode = tokenizer.encode
        named = {*self.special_token_ids, *unused}
        self._spelled = {piece: number for number, piece in enumerate(self.tokens) if piece and number not in named}
        self._longest = max(map(len, self._spelled), default=1)

    def __call__(self, text: str | bytes) -> list[int]:
        """How the tokenizer writes a text that a grammar forces. Where that is not the text itself (many put a space before
        it, or normalise it), the longest pieces, one after the other."""
        wanted = text.encode() if isinstance(text, str) else text
        ids = self._encode(wanted.decode("utf-8", errors="replace"))
        if b"".join(self.tokens[number] for number in ids if number < len(self.tokens)) == wanted:
            return ids
        ids, place = [], 0
        while place < len(wanted):
            ends = range(min(place + self._longest, len(wanted)), place, -1)
            end = next((end for end in ends if wanted[place:end] in self._spelled), None)
            if end is None:
                break  # the rest cannot be written; the mask decides
            ids.append(self._spelled[wanted[place:end]])
            place = end
        return ids


def _tools_lark(wanted: Mapping[str, Any], special: Mapping[str, int]) -> str:
    """Each tool's schema stays a document of its own, so that its references (`#/$defs/…`) still mean what they say."""
    tools = wanted["tools"]
    lines = ["call: " + " | ".join(f"call_{place}" for place in range(len(tools)))]
    for place, tool in enumerate(tools):
        head = _quoted(f"{_json_text({'name': tool['name']}, 'tools')[:-1]}, {_quoted(wanted['key'])}: ")
        parameters = tool.get("parameters", {"type": "object"})
        parameters = {"x-guidance": _JSON, **parameters} if isinstance(parameters, dict) else parameters
        arguments = _mended(_json_text(parameters, "tools"))
        lines.append(f'call_{place}: {head} %json {arguments} "}}"')
    opening, closing = wanted["opening"], _parts(wanted["closing"], special)
    block = " ".join([*_parts(opening, special), "call", *closing])
    if wanted["required"]:
        more = f"(block){{1,{wanted['most']}}}" if wanted["most"] > 1 else "block"
        return "\n".join([f"start: {more}", f"block: {block}", *lines])
    first, *rest = _parts(opening, special)
    control = first.startswith("<[")
    follows = " ".join(["trigger", *rest, "call", *closing])
    tail = "TEXT" if control else f"TEXT & ~/(.|\\n)*{_escaped(opening)}(.|\\n)*/"
    return "\n".join(
        [
            f"start: (block){{0,{wanted['most']}}} TAIL",
            f"block: {follows}",
            f"trigger: TEXT {first}" if control else f"trigger[lazy]: TEXT {first}",
            *lines,
            "TEXT: /(.|\\n)*/",
            f"TAIL: {tail}",
        ]
    )


def _mended(schema: str) -> str:
    """A schema without what llguidance 1.9 gets wrong: of the numbers above 40 and up to 40.5 it allows 40 (not 40.0)."""

    def mend(value: Any) -> Any:
        if isinstance(value, list):
            return [mend(one) for one in value]
        if not isinstance(value, dict):
            return value
        value = {name: one if name in ("const", "enum") else mend(one) for name, one in value.items()}
        low, high = _bound(value, "exclusiveMinimum", "minimum"), _bound(value, "exclusiveMaximum", "maximum")
        if low is not None and high is not None and 0 < high - low < 1:
            step = (high - low) / 1000
            for name, bound in (("Minimum", low + step), ("Maximum", high - step)):
                if value.pop(f"exclusive{name}", None) is not None:
                    value[name.lower()] = bound
        return value

    try:
        value = mend(json.loads(schema))
    except RecursionError as error:
        raise RecipeError(f"json_schema {_shown(schema)!r} is nested too deep; flatten it") from error
    except ValueError as error:
        raise RecipeError(f"json_schema {_shown(schema)!r} is no JSON: {_shown(str(error))}") from error
    value = {} if value is True else value
    if not isinstance(value, dict):
        raise RecipeError(f"json_schema {_shown(schema)!r} must be an object; use {{}} for any JSON")
    return _json_text(value, "json_schema")


def _bound(schema: Mapping[str, Any], exclusive: str, inclusive: str) -> float | None:
    """The one bound on this side; with both, whichever holds is llguidance's affair."""
    found = [schema[name] for name in (exclusive, inclusive) if isinstance(schema.get(name), (int, float))]
    return float(found[0]) if len(found) == 1 and abs(found[0]) < 2**53 else None


def _parts(text: str, special: Mapping[str, int]) -> list[str]:
    """Text as Lark's literals, with control tokens by their ids."""
    names = "|".join(map(re.escape, sorted(special, key=len, reverse=True))) or r"(?!)"
    pieces = [piece for piece in re.split(f"({names})", text) if piece]
    return [f"<[{special[piece]}]>" if piece in special else _quoted(piece) for piece in pieces]


def _escaped(text: str) -> str:
    return re.escape(text).replace("/", r"\/").replace("\n", "n")


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _json_text(value: Any, kind: str) -> str:
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    except (RecursionError, TypeError, ValueError) as error:
        raise RecipeError(f"{kind} cannot be written as JSON ({_shown(str(error))}); mend or flatten it") from error


def _require_sound(state: Any, constraint: Constraint) -> None:
    if state.is_error():
        fault = state.get_error().split("\n<state>")[0].strip() or "the grammar cannot go on"
        raise RecipeError(
            f"{constraint.kind} {_shown(constraint.source)!r} cannot be used: {_shown(fault)}; mend or simplify it"
        )


def _shown(text: str) -> str:
    return text if len(text) <= _SHOWN_CHARACTERS else text[:_SHOWN_CHARACTERS] + "…"


def _library() -> Any:
    try:
        return importlib.import_module("llguidance")
    except ImportError as error:
        raise MissingExtraError("llguidance", "constrained", "constrained output") from error
