"""What `dunwu eval` is given, as one record."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Evaluating:
    """See the help of each option in `commands/evaluating.py`."""

    tasks: tuple[str, ...]
    data: tuple[str, ...] = ()
    solver: str = "auto"
    shots: int | None = None
    demonstrations: str | None = None
    calibrate: Literal["none", "contextual", "domain"] = "none"
    limit: int | None = None
    samples: int = 1
    pass_at: tuple[int, ...] = ()
    temperature: float = 0.0
    seed: int = 1234
    max_tokens: int | None = None
    system: str | None = None
    corpus: str = "auto"
    out: Path | None = None
    anew: bool = False
    delta: str | None = None
    registry: Path | None = None
    any_base: bool = False
    url: str | None = None
    key_env: str = "OPENAI_API_KEY"
    as_json: bool = False
