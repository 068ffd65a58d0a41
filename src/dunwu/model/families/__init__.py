"""The architectures that we read and write. A new one is one file here and one line below."""

import difflib
from collections.abc import Mapping
from typing import Any

from dunwu.core.errors import ModelError
from dunwu.model.config import DecoderConfig, differing_knobs
from dunwu.model.families.base import Family, Piece, StoredTensor
from dunwu.model.families.llama import LLAMA
from dunwu.model.families.qwen3 import QWEN3

__all__ = ["FAMILIES", "Family", "Piece", "StoredTensor", "config_from_hf", "config_to_hf", "family_of"]

FAMILIES: Mapping[str, Family] = {family.model_type: family for family in (LLAMA, QWEN3)}


def family_of(model_type: object) -> Family:
    """The family of that `model_type`. Raises ModelError naming the nearest that we have."""
    family = FAMILIES.get(str(model_type))
    if family is not None:
        return family
    near = difflib.get_close_matches(str(model_type), FAMILIES, n=1, cutoff=0.5)
    hint = f", nearest {near[0]!r}" if near else ""
    raise ModelError(
        f"config.json has model_type={model_type!r}, which dunwu does not read{hint}; it reads {', '.join(sorted(FAMILIES))}"
    )


def config_from_hf(values: Mapping[str, Any]) -> DecoderConfig:
    """Read what `config.json` holds. Raises ModelError on an architecture or a feature that we do not have."""
    return family_of(values.get("model_type")).read(values)


def config_to_hf(config: DecoderConfig) -> dict[str, Any]:
    """What `config.json` holds: transformers 5 reads it as it is, and 4 wherever it has the architecture.

    Raises ModelError when the architecture cannot express a knob that is set.
    """
    family = family_of(config.architecture)
    values = {"architectures": [family.class_name], "model_type": family.model_type, **family.write(config)}
    lost = differing_knobs(config, family.read(values))
    if lost:
        raise ModelError(
            f"the architecture {config.architecture!r} cannot have {lost[0]}={getattr(config, lost[0])!r}; "
            "choose another architecture, or leave it at its default"
        )
    return values | {"dtype": "float32"}
