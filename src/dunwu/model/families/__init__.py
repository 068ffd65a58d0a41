"""The architectures that we read and write. A new one is one file here and one line below."""

import difflib
from collections.abc import Mapping
from typing import Any

from dunwu.core.errors import ModelError
from dunwu.model.config import DecoderConfig, differing_knobs
from dunwu.model.families.base import Family, Piece, StoredTensor
from dunwu.model.families.deepseek_v2 import DEEPSEEK_V2
from dunwu.model.families.deepseek_v3 import DEEPSEEK_V3
from dunwu.model.families.gemma import GEMMA2, GEMMA3, GEMMA3_TEXT
from dunwu.model.families.glm import GLM, GLM4
from dunwu.model.families.gpt2 import GPT2
from dunwu.model.families.gpt_oss import GPT_OSS
from dunwu.model.families.llama import LLAMA
from dunwu.model.families.mistral import MISTRAL
from dunwu.model.families.mixtral import MIXTRAL
from dunwu.model.families.olmo2 import OLMO2
from dunwu.model.families.phi3 import PHI3
from dunwu.model.families.qwen2 import QWEN2
from dunwu.model.families.qwen2_moe import QWEN2_MOE
from dunwu.model.families.qwen3 import QWEN3
from dunwu.model.families.qwen3_moe import QWEN3_MOE
from dunwu.model.families.smollm3 import SMOLLM3

__all__ = ["FAMILIES", "Family", "Piece", "StoredTensor", "config_from_hf", "config_to_hf", "family_of"]

_ALL = (
    LLAMA, MISTRAL, QWEN2, QWEN3, GPT2, GEMMA2, GEMMA3, GEMMA3_TEXT, GLM, GLM4, OLMO2, PHI3, SMOLLM3,
    MIXTRAL, QWEN2_MOE, QWEN3_MOE, DEEPSEEK_V2, DEEPSEEK_V3, GPT_OSS,
)  # fmt: skip
FAMILIES: Mapping[str, Family] = {family.model_type: family for family in _ALL}


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
