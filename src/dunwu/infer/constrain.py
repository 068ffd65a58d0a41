"""Output that a grammar allows and no other: what a request asks for."""

from dataclasses import dataclass
from typing import Literal

ConstraintKind = Literal["json_schema", "regex", "choice", "grammar", "tools"]


@dataclass(frozen=True, slots=True)
class Constraint:
    """What the completion must be. `source`: the schema, the choices or the tools as JSON text, the expression or the grammar."""

    kind: ConstraintKind
    source: str
