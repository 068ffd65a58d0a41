"""DeepSeek-V3 and R1 (arXiv:2412.19437): V2 with sigmoid scores and a correction that balances load.

Their checkpoints hold one more layer than the model has, `model.layers.61`: it predicts the token after the next, in training
or to speculate. We read past it, as transformers does, and write `num_nextn_predict_layers: 0`.
"""

from collections.abc import Mapping
from typing import Any

from dunwu.model.config import DecoderConfig, Experts
from dunwu.model.families.base import Family, refuse, required, usual_name
from dunwu.model.families.deepseek_v2 import deepseek_tensors, read_latent, shared_size, written_latent

_EXTRA_LAYER = "model.layers.61."


def _read(values: Mapping[str, Any]) -> DecoderConfig:
    refuse(values, scoring_func="sigmoid", topk_method="noaux_tc")
    required(values, "n_group", "topk_group")
    common = read_latent(values)
    return DecoderConfig(
        architecture="deepseek_v3",
        **common,
        rope_interleaved=bool(values.get("rope_interleave", True)),
        experts=Experts(
            count=int(values["n_routed_experts"]),
            per_token=int(values["num_experts_per_tok"]),
            intermediate_size=int(values["moe_intermediate_size"]),
            shared_intermediate_size=shared_size(values),
            scores="sigmoid",
            normalise=bool(values.get("norm_topk_prob", True)),
            scale=float(values.get("routed_scaling_factor", 2.5)),
            groups=int(values["n_group"]),
            groups_per_token=int(values["topk_group"]),
            group_score="best_two",
            correction=True,
            router_float32=True,
        ),
    )


def _write(config: DecoderConfig) -> dict[str, Any]:
    return {
        **written_latent(config),
        "rope_interleave": config.rope_interleaved,
        "scoring_func": "sigmoid",
        "topk_method": "noaux_tc",
        "num_nextn_predict_layers": 0,
    }


def _name(name: str) -> str | None:
    return None if name.startswith(_EXTRA_LAYER) else usual_name(name)


DEEPSEEK_V3 = Family(
    model_type="deepseek_v3",
    class_name="DeepseekV3ForCausalLM",
    read=_read,
    write=_write,
    stored=deepseek_tensors,
    rename=_name,
)
