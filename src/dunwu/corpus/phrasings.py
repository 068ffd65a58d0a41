"""One task in many words: templates that make a question and an answer out of the columns of a row (after FLAN, arXiv:2109.01652).

A set comes with dunwu (`phrasing_sets/`) or is a YAML or JSON file of one's own:

    answer: "{{ modern }}"
    phrasings:
      - "Put this into modern Chinese: {{ classical }}"
      - {user: "Write this in classical Chinese: {{ modern }}", answer: "{{ classical }}"}

Templates are Jinja, rendered by minijinja with bounded work. What stands in the data is only ever a value: braces in it stay text.
"""

import difflib
import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import minijinja
from ruamel.yaml.error import YAMLError

from dunwu.core.errors import DataError, RecipeError
from dunwu.core.modelfiles import is_phrasings_file
from dunwu.core.recipe import SftFileSource
from dunwu.core.records import Message
from dunwu.core.yaml import parse_yaml
from dunwu.corpus.json_rows import BadRow
from dunwu.corpus.turns import Row

SETS = Path(__file__).parent / "phrasing_sets"
FUEL = 100_000
SEPARATORS = {"zh": "、"}
_FUNCTIONS = {"range", "dict", "namespace", "debug"}  # of minijinja
_PARTS = ("system", "user", "answer")


@dataclass(frozen=True, slots=True)
class Phrasing:
    """Templates of a question, its answer and perhaps a system prompt. `origin`: set and number, for messages."""

    origin: str
    user: str
    answer: str
    system: str
    separator: str

    @property
    def variables(self) -> frozenset[str]:
        """What the templates need."""
        return frozenset[str]().union(*(_variables(text) for text in (self.user, self.answer, self.system)))


class Phrasings:
    """The phrasings of a source; each row takes one, chosen by the seed and its own name."""

    def __init__(
        self, phrasings: Sequence[Phrasing], columns: Mapping[str, str], constants: Mapping[str, str], seed: int
    ) -> None:
        self.phrasings, self.columns, self.constants, self.seed = phrasings, columns, constants, seed
        self.variables = frozenset[str]().union(*(phrasing.variables for phrasing in phrasings))
        if unused := sorted((columns.keys() | constants.keys()) - self.variables):
            raise RecipeError(
                f"sft.sources[].columns or constants name {unused[0]!r}, which no phrasing uses; "
                f"the phrasings use {', '.join(sorted(self.variables))}"
            )

    def fits(self, row: Row) -> bool:
        """Whether the row has all that the phrasings need."""
        return all(_found(self._value(row, name)) for name in self.variables)

    def require_columns(self, rows: Sequence[Row], path: Path) -> None:
        """Raise DataError for a variable that none of `rows` has."""
        if not rows:
            raise DataError(f"{path} is no file of rows: none of them is an object; write one object a line")
        for name in sorted(self.variables):
            if not any(_found(self._value(row, name)) for row in rows):
                keys = ", ".join(sorted({str(key) for row in rows for key in row})[:12])
                raise DataError(
                    f"{path}: the phrasings need {name!r}, which no row has under {self.columns.get(name, name)!r}; its keys "
                    f"are {keys}: name the right one in sft.sources[].columns, or give the text in sft.sources[].constants"
                )

    def conversation(self, row: Row, name: str) -> tuple[Message, ...]:
        """Question and answer of a row; `name` is its own. Raises BadRow where a template cannot be filled."""
        digest = hashlib.blake2b(f"phrasing/{self.seed}/{name}".encode(), digest_size=8).digest()
        phrasing = self.phrasings[int.from_bytes(digest, "little") % len(self.phrasings)]
        values = {variable: self._value(row, variable) for variable in phrasing.variables}
        system = _filled(phrasing, phrasing.system, values)
        return (
            *((Message(role="system", content=system),) if system else ()),
            Message(role="user", content=_filled(phrasing, phrasing.user, values)),
            Message(role="assistant", content=_filled(phrasing, phrasing.answer, values)),
        )

    def _value(self, row: Row, name: str) -> Any:
        if name in self.constants:
            return self.constants[name]
        column = self.columns.get(name, name)
        if column in row:
            return row[column]
        value: Any = row
        for part in column.split("."):  # answers.text.0
            if isinstance(value, dict):
                value = cast(Row, value).get(part)
            elif isinstance(value, list) and part.isdigit() and int(part) < len(value):
                value = value[int(part)]
            else:
                return None
        return value


def load_phrasings(source: SftFileSource, seed: int) -> Phrasings:
    """The phrasings that a source names. Raises RecipeError for a set that is not there or not well formed."""
    found = [phrasing for name in source.phrasings for phrasing in _set(name)]
    return Phrasings(found, source.columns, source.constants, seed)


def shipped_sets() -> list[str]:
    """The names of the sets that come with dunwu."""
    return sorted(file.stem for file in SETS.glob("*.yaml"))


def _set(name: str) -> list[Phrasing]:
    path = Path(name) if is_phrasings_file(name) else SETS / f"{name}.yaml"
    if not is_phrasings_file(name) and name not in shipped_sets():
        near = difflib.get_close_matches(name, shipped_sets(), n=1)
        hint = f"did you mean {near[0]}" if near else f"take one of {', '.join(shipped_sets())}"
        raise RecipeError(
            f"sft.sources[].phrasings has {name!r}, which is no set; {hint}, or the path of a .yaml or .json file"
        )
    try:
        text = path.read_text("utf-8-sig")
        content = json.loads(text) if path.suffix.lower() == ".json" else parse_yaml(text)
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"cannot read the phrasings {path}: {error}; name a YAML or JSON file in UTF-8") from error
    except (YAMLError, ValueError) as error:
        raise RecipeError(f"{path} is not valid: {str(error).splitlines()[0]}; mend it") from error
    return _phrasings(content, path, name if not is_phrasings_file(name) else path.name)


def _phrasings(content: Any, path: Path, name: str) -> list[Phrasing]:
    given = {"phrasings": content} if isinstance(content, list) else content
    if not isinstance(given, dict) or not isinstance(given.get("phrasings"), list) or not given["phrasings"]:
        raise RecipeError(f"{path} holds no list of phrasings; write `phrasings:` and below it one template an item")
    shared = cast("dict[str, Any]", given)
    if unknown := sorted(map(str, shared.keys() - {"phrasings", "language", "answer", "system"})):
        raise RecipeError(f"{path} has the unknown key {unknown[0]!r}; it takes language, system, answer and phrasings")
    return [_phrasing(item, shared, f"{name} {number}") for number, item in enumerate(shared["phrasings"], 1)]


def _phrasing(item: Any, shared: Mapping[str, Any], origin: str) -> Phrasing:
    parts = {"user": item} if isinstance(item, str) else item
    if not isinstance(parts, dict) or parts.keys() - set(_PARTS) or "user" not in parts:
        raise RecipeError(
            f"phrasing {origin} is neither a template nor has it user, answer and system; it is {item!r}"[:300]
        )
    texts = {part: parts.get(part, shared.get(part) if part != "user" else None) or "" for part in _PARTS}
    if not texts["answer"]:
        raise RecipeError(f"phrasing {origin} has no answer; add `answer: ...` beside it or for the whole file")
    for text in texts.values():
        if not isinstance(text, str):
            raise RecipeError(f"phrasing {origin} has {text!r} where a template is due; write text")
        _require_template(text, origin)
    return Phrasing(origin, **texts, separator=SEPARATORS.get(str(shared.get("language")), ", "))


def _require_template(text: str, origin: str) -> None:
    try:
        _variables(text)
    except minijinja.TemplateError as error:
        raise RecipeError(f"phrasing {origin} is no valid template: {error}; mend {text[:80]!r}") from error


@functools.lru_cache(maxsize=1024)
def _variables(text: str) -> frozenset[str]:
    return frozenset(_environment(", ").undeclared_variables_in_str(text)) - _FUNCTIONS


@functools.lru_cache(maxsize=4)
def _environment(separator: str) -> minijinja.Environment:
    environment = minijinja.Environment(
        fuel=FUEL,
        undefined_behavior="strict",
        auto_escape_callback=lambda name: False,
        keep_trailing_newline=True,
        debug=False,
    )

    def listed(value: Any) -> str:
        return separator.join(map(str, value)) if isinstance(value, list | tuple) else str(value)

    environment.add_filter("listed", listed)
    return environment


def _filled(phrasing: Phrasing, template: str, values: Mapping[str, Any]) -> str:
    if not template:
        return ""
    try:
        return _environment(phrasing.separator).render_str(template, **values)
    except minijinja.TemplateError as error:
        raise BadRow("does not fill its phrasing", f"{phrasing.origin}: {str(error).splitlines()[0]}") from error


def _found(value: Any) -> bool:
    return value is not None and value == value  # NaN: what pandas writes for an empty cell
