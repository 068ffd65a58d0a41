"""Where a model that is served lies."""

from dataclasses import dataclass
from pathlib import Path

from dunwu.delta.finding import Found


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSource:
    """A model's folder and the name that it is served under. `stage`: which of a build it came from; "" is a finished model.
    `instruction_tuned` None: nobody said. `lazy`: read when it is first asked for. `created`: seconds since 1970.
    `delta`: over the model that is served as `base`, whose folder this is, and whose engine answers."""

    id: str
    folder: Path
    stage: str = ""
    instruction_tuned: bool | None = None
    system_prompt: str = ""
    lazy: bool = False
    created: int = 0
    base: str = ""
    delta: Found | None = None
