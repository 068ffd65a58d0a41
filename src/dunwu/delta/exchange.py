"""An adapter in the form that peft has."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

PREFIX = "base_model.model."
"""In front of the names of what peft puts beside a model's modules."""


@dataclass(frozen=True, kw_only=True)
class Exchange:
    """Configuration (`adapter_config.json` without the base's name), and tensors by their names there."""

    config: dict[str, Any]
    tensors: dict[str, Tensor]
