"""1 where an answer is JSON that a schema holds valid, 0 otherwise."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dunwu.core.errors import DataError, MissingExtraError
from dunwu.core.files import read_json
from dunwu.core.lineage import stable_hash
from dunwu.core.rewards import SchemaReward
from dunwu.evaluate.scorers.base import Case, asked, column

_FENCED = re.compile(r"\A\s*```\w*[ \t]*\n(.*)\n[ \t]*```\s*\Z", re.DOTALL)


class SchemaScorer:
    """The schema is that of `spec.file`, or the row's own in the column `spec.column`, as an object or as text."""

    def __init__(self, spec: SchemaReward, *, name: str = "schema") -> None:
        """Raises MissingExtraError without `jsonschema`, and DataError for a file that holds no schema."""
        self.spec, self.name = spec, name
        self._validators: dict[str, Any] = {}
        self._fixed = self._validator(read_json(Path(spec.file).expanduser()), spec.file) if spec.file else None

    def __call__(self, cases: Sequence[Case]) -> list[float]:
        return [float(self._is_valid(case)) for case in cases]

    def _is_valid(self, case: Case) -> bool:
        validator = self._fixed or self._validator(self._own(case), f"the column {self.spec.column!r} of {asked(case)}")
        try:
            value = json.loads(self._json_in(case.completion.text), parse_constant=_refuse)
            return bool(validator.is_valid(value))
        except (ValueError, RecursionError):
            return False
        except Exception as error:  # `referencing`, which jsonschema brings, names no error of its own that is public
            raise DataError(
                f"the schema for {asked(case)} refers to what is not within it ({error}); write that out in the schema"
            ) from error

    def _json_in(self, text: str) -> str:
        fenced = _FENCED.match(text) if self.spec.fenced else None
        return fenced[1] if fenced else text

    def _own(self, case: Case) -> Any:
        value = column(case, self.spec.column, self.name)
        if not isinstance(value, str):
            return value
        try:
            return json.loads(value)
        except ValueError as error:
            raise DataError(
                f"the column {self.spec.column!r} of {asked(case)} is not valid JSON ({error}); write a JSON schema"
            ) from error

    def _validator(self, schema: Any, where: str) -> Any:
        if not isinstance(schema, Mapping | bool):
            raise DataError(f"{where} holds no JSON schema but a {type(schema).__name__}; write an object")
        key = stable_hash(schema)
        if key not in self._validators:
            self._validators[key] = _built(schema, where)
        return self._validators[key]


def _built(schema: Any, where: str) -> Any:
    try:
        from jsonschema import SchemaError
        from jsonschema.validators import Draft202012Validator, validator_for
        from jsonschema_specifications import REGISTRY
    except ImportError as error:
        raise MissingExtraError("jsonschema", "rewards", "the reward schema") from error
    kind = validator_for(schema, default=Draft202012Validator)
    try:
        kind.check_schema(schema)
    except SchemaError as error:
        raise DataError(f"{where} holds no valid JSON schema: {error.message[:200]}; mend it") from error
    return kind(schema, registry=REGISTRY)  # what it refers to must be within it: nothing is fetched


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is no JSON")
