"""Families with experts against transformers: weights through the disk both ways, logits, routing token by token, gradients."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dunwu.core.errors import ModelError
from dunwu.model import count
from dunwu.model.blocks.experts import Router
from dunwu.model.cache import KeyValueCache
from dunwu.model.config import DecoderConfig, Experts, Latent, RopeScaling
from dunwu.model.decoder import Decoder, new_decoder
from dunwu.model.families import FAMILIES, config_from_hf, config_to_hf
from dunwu.model.hub import load_model, read_tensors, save_model, write_tensors

from .helpers import TINY, lively

EXPERTS = Experts(count=8, per_token=3, intermediate_size=20)
LATENT = Latent(q_rank=10, kv_rank=12, rope_dim=4, nope_dim=6, value_dim=5)
YARN = RopeScaling(kind="yarn", factor=4.0, original_max_position_embeddings=32, mscale=0.8, mscale_all_dim=0.6)
DEEPSEEK = replace(
    TINY, max_position_embeddings=128, latent=LATENT, head_dim=10, rope_interleaved=True, rms_norm_eps=1e-3, dense_layers=(0,)
)  # fmt: skip
V2_EXPERTS = replace(EXPERTS, shared_intermediate_size=40, scale=1.7, router_float32=True)
V3_EXPERTS = replace(
    V2_EXPERTS, scores="sigmoid", normalise=True, groups=4, groups_per_token=2, group_score="best_two", correction=True
)

VARIANTS = {
    "mixtral": replace(
        TINY,
        architecture="mixtral",
        max_position_embeddings=128,
        num_key_value_heads=2,
        sliding_window=7,
        sliding_layers=(0, 1),
        intermediate_size=20,
        experts=replace(EXPERTS, scores="softmax_after"),
    ),
    "qwen2_moe": replace(
        TINY,
        architecture="qwen2_moe",
        max_position_embeddings=128,
        num_key_value_heads=2,
        attention_bias=True,
        dense_layers=(1,),
        experts=replace(EXPERTS, shared_intermediate_size=28, shared_gate=True),
    ),
    "qwen3_moe": replace(
        TINY,
        architecture="qwen3_moe",
        max_position_embeddings=128,
        num_key_value_heads=2,
        head_dim=8,
        qk_norm="head",
        attention_bias=True,
        attention_output_bias=True,
        dense_layers=(0,),
        experts=replace(EXPERTS, normalise=True),
    ),
    "deepseek_v2": replace(
        DEEPSEEK,
        architecture="deepseek_v2",
        attention_bias=True,
        attention_output_bias=True,
        mlp_bias=True,
        rope_scaling=YARN,
        attention_scale=10**-0.5 * (0.1 * 0.6 * 1.3862943611198906 + 1.0) ** 2,
        experts=replace(V2_EXPERTS, groups=4, groups_per_token=2),
    ),
    "deepseek_v2 lite": replace(
        DEEPSEEK, architecture="deepseek_v2", latent=replace(LATENT, q_rank=None), experts=V2_EXPERTS
    ),
    "deepseek_v3": replace(
        DEEPSEEK,
        architecture="deepseek_v3",
        attention_bias=True,
        attention_output_bias=True,
        rope_scaling=YARN,
        attention_scale=10**-0.5 * (0.1 * 0.6 * 1.3862943611198906 + 1.0) ** 2,
        experts=V3_EXPERTS,
    ),
    "deepseek_v3 half turns, one group": replace(
        DEEPSEEK,
        architecture="deepseek_v3",
        rope_interleaved=False,
        experts=replace(V3_EXPERTS, groups=1, groups_per_token=1, normalise=False),
    ),
    "gpt_oss": replace(
        TINY,
        architecture="gpt_oss",
        max_position_embeddings=128,
        num_key_value_heads=2,
        attention_bias=True,
        attention_output_bias=True,
        sinks=True,
        sliding_window=6,
        sliding_layers=(1,),
        activation="clamped_silu",
        activation_limit=1.5,
        intermediate_size=20,
        rope_scaling=RopeScaling(kind="yarn", factor=4.0, original_max_position_embeddings=32, truncate=False),
        experts=replace(EXPERTS, scores="softmax_after", router_bias=True, bias=True),
    ),
}


@dataclass(frozen=True)
class Pair:
    """Our model and transformers' own that was loaded from what we saved."""

    ours: Decoder
    theirs: Any
    folder: Path


@pytest.fixture(scope="module", params=VARIANTS.values(), ids=VARIANTS.keys())
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    import transformers

    folder = tmp_path_factory.mktemp("model")
    model = lively(request.param)
    save_model(model, folder)
    theirs, report = transformers.AutoModelForCausalLM.from_pretrained(
        folder, output_loading_info=True, attn_implementation="eager"
    )
    assert not any(report.values()), report
    return Pair(model, theirs.eval(), folder)


def some_ids(*shape: int) -> Tensor:
    return torch.randint(0, TINY.vocab_size, shape, generator=torch.Generator().manual_seed(3))


class Routes:
    """Writes down what the routers of a network choose, as weights `[N, E]`, zero for who is not chosen."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.seen: list[Tensor] = []
        for module in model.modules():
            if isinstance(module, Router):
                module.register_forward_hook(lambda _m, _x, out: self._note(*out))
            elif type(module).__name__.lower().endswith("topkrouter"):
                module.register_forward_hook(lambda _m, _x, out: self._note(out[2], out[1]))

    def _note(self, chosen_NP: Tensor, weights_NP: Tensor) -> None:
        zeros_NE = torch.zeros(len(chosen_NP), EXPERTS.count)
        self.seen.append(zeros_NE.scatter_(1, chosen_NP, weights_NP.detach().float()))

    def take(self) -> Tensor:
        seen, self.seen = torch.stack(self.seen), []
        return seen


def test_logits_and_routes_equal_transformers_token_by_token(pair: Pair) -> None:
    ours, theirs = Routes(pair.ours), Routes(pair.theirs)
    ids_BT = some_ids(3, 17)
    cache, past = KeyValueCache(pair.ours.config, 3, 40, "cpu", torch.float32), None
    for part in (ids_BT, some_ids(3, 1), some_ids(3, 1)):  # the later ones alone, as in decoding
        with torch.no_grad():
            given = pair.theirs(part, past_key_values=past, use_cache=True)
            past = given.past_key_values
            torch.testing.assert_close(
                pair.ours.logits(pair.ours(part, cache=cache)), given.logits, atol=1e-4, rtol=1e-4
            )
        routes, wanted = ours.take(), theirs.take()
        assert torch.equal(routes != 0, wanted != 0)
        assert ((routes != 0).sum(-1) == EXPERTS.per_token).all()
        torch.testing.assert_close(routes, wanted, atol=1e-5, rtol=1e-5)


def test_gradients_equal_transformers(pair: Pair) -> None:
    ids_BT = some_ids(2, 13)
    pair.ours.zero_grad()
    pair.theirs.zero_grad()
    pair.ours.logits(pair.ours(ids_BT)).square().mean().backward()
    pair.theirs(ids_BT).logits.square().mean().backward()
    theirs = {name: parameter.grad for name, parameter in pair.theirs.named_parameters()}
    compared = 0
    for name, wanted in _in_our_layout(pair.ours.config, theirs):
        ours = pair.ours.get_parameter(name).grad
        torch.testing.assert_close(ours, wanted, atol=1e-4, rtol=1e-3, msg=lambda m, n=name: f"{n}: {m}")
        compared += 1
    assert compared == sum(parameter.requires_grad for parameter in pair.ours.parameters())


def _in_our_layout(config: DecoderConfig, theirs: dict[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """What transformers holds in memory, where gate and up are fused, by our names."""
    turned = config.architecture == "gpt_oss"
    for name, tensor in theirs.items():
        name = name.replace("mlp.gate.", "mlp.router.").replace("mlp.shared_expert_gate.", "mlp.shared_gate.")
        name = name.replace("mlp.shared_experts.", "mlp.shared.").replace("mlp.shared_expert.", "mlp.shared.")
        if "gate_up_proj" not in name:
            yield name, tensor.mT if turned and name.endswith("experts.down_proj") else tensor
            continue
        parts = (tensor[..., ::2], tensor[..., 1::2]) if turned else tensor.chunk(2, dim=1)
        for ours, part in zip(("gate_proj", "up_proj"), parts, strict=True):
            yield name.replace("gate_up_proj", ours), part.mT if turned and part.ndim == 3 else part


def test_64_greedy_tokens_equal_transformers(pair: Pair) -> None:
    prompt = some_ids(1, 9)
    theirs = pair.theirs.generate(prompt, max_new_tokens=64, do_sample=False, pad_token_id=0)[0, 9:]
    cache = KeyValueCache(pair.ours.config, 1, 80, "cpu", torch.float32)
    ours, ids = [], prompt
    with torch.no_grad():
        for _ in range(64):
            ids = pair.ours.logits(pair.ours(ids, cache=cache)[:, -1]).argmax(-1, keepdim=True)
            ours.append(int(ids))
    assert ours == theirs.tolist()
    assert len(set(ours)) > 1


@pytest.mark.parametrize("pieces", [[17], [1] * 17, [9, 1, 3, 4]])
def test_reading_in_pieces_with_a_cache_equals_reading_at_once(pair: Pair, pieces: list[int]) -> None:
    ids_BT = some_ids(2, 17)
    cache = KeyValueCache(pair.ours.config, 2, 20, "cpu", torch.float32)
    with torch.no_grad():
        parts = [pair.ours(part, cache=cache) for part in ids_BT.split(pieces, dim=1)]
        torch.testing.assert_close(torch.cat(parts, dim=1), pair.ours(ids_BT), atol=2e-5, rtol=1e-4)


def test_left_padded_rows_in_a_cache_equal_each_row_alone(pair: Pair) -> None:
    rows = [some_ids(1, n) for n in (9, 4, 1)]
    cache = KeyValueCache(pair.ours.config, 3, 12, "cpu", torch.float32)
    cache.starts_B = torch.tensor([0, 5, 8])
    padded = torch.cat([torch.nn.functional.pad(r, (9 - r.shape[1], 0)) for r in rows])
    with torch.no_grad():
        pair.ours(padded, cache=cache)
        last = pair.ours(torch.tensor([[5], [6], [7]]), cache=cache)[:, -1]
        for row, ids in enumerate(rows):
            alone = pair.ours(torch.cat([ids, torch.tensor([[5 + row]])], dim=1))[0, -1]
            torch.testing.assert_close(last[row], alone, atol=2e-5, rtol=1e-4)


def test_packed_documents_equal_each_document_alone(pair: Pair) -> None:
    lengths = [5, 1, 7, 4]
    documents = [some_ids(1, n) for n in lengths]
    positions = torch.cat([torch.arange(n) for n in lengths])[None]
    numbers = torch.repeat_interleave(torch.arange(4), torch.tensor(lengths))[None]
    with torch.no_grad():
        packed = pair.ours(torch.cat(documents, dim=1), positions_BT=positions, document_BT=numbers)
        alone = torch.cat([pair.ours(d) for d in documents], dim=1)
    torch.testing.assert_close(packed, alone, atol=2e-5, rtol=1e-4)


def test_what_transformers_saves_is_read_with_every_weight_the_same(pair: Pair, tmp_path: Path) -> None:
    pair.theirs.save_pretrained(tmp_path)
    again = load_model(tmp_path)
    assert again.config == pair.ours.config
    for (name, ours), theirs in zip(pair.ours.state_dict().items(), again.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs), name


def test_our_own_folder_is_read_back_with_every_weight_the_same(pair: Pair) -> None:
    again = load_model(pair.folder)
    assert again.config == pair.ours.config
    for (name, ours), theirs in zip(pair.ours.state_dict().items(), again.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs), name


HUB: dict[str, tuple[dict[str, Any], float, float, bool]] = {
    # What the models' own pages have in config.json; billions of parameters, all and active, as they publish them, and whether
    # the embedding is among the active ones.
    "mistralai/Mixtral-8x7B-v0.1": (
        {
            "architectures": ["MixtralForCausalLM"], "bos_token_id": 1, "eos_token_id": 2, "hidden_act": "silu",
            "hidden_size": 4096, "intermediate_size": 14336, "max_position_embeddings": 32768, "model_type": "mixtral",
            "num_attention_heads": 32, "num_experts_per_tok": 2, "num_hidden_layers": 32, "num_key_value_heads": 8,
            "num_local_experts": 8, "rms_norm_eps": 1e-05, "rope_theta": 1000000.0, "sliding_window": None,
            "tie_word_embeddings": False, "vocab_size": 32000,
        },
        46.7,
        12.9,
        True,
    ),
    "Qwen/Qwen1.5-MoE-A2.7B": (
        {
            "bos_token_id": 151643, "decoder_sparse_step": 1, "eos_token_id": 151643, "hidden_act": "silu",
            "hidden_size": 2048, "intermediate_size": 5632, "max_position_embeddings": 8192, "max_window_layers": 21,
            "model_type": "qwen2_moe", "moe_intermediate_size": 1408, "norm_topk_prob": False,
            "num_attention_heads": 16, "num_experts": 60, "num_experts_per_tok": 4, "num_hidden_layers": 24,
            "num_key_value_heads": 16, "rms_norm_eps": 1e-06, "rope_theta": 1000000.0,
            "shared_expert_intermediate_size": 5632, "sliding_window": 32768, "tie_word_embeddings": False,
            "use_sliding_window": False, "vocab_size": 151936,
        },
        14.3,
        2.7,
        True,
    ),
    "Qwen/Qwen3-30B-A3B": (
        {
            "attention_bias": False, "bos_token_id": 151643, "decoder_sparse_step": 1, "eos_token_id": 151645,
            "head_dim": 128, "hidden_act": "silu", "hidden_size": 2048, "intermediate_size": 6144,
            "max_position_embeddings": 40960, "max_window_layers": 48, "mlp_only_layers": [], "model_type": "qwen3_moe",
            "moe_intermediate_size": 768, "norm_topk_prob": True, "num_attention_heads": 32, "num_experts": 128,
            "num_experts_per_tok": 8, "num_hidden_layers": 48, "num_key_value_heads": 4, "rms_norm_eps": 1e-06,
            "rope_scaling": None, "rope_theta": 1000000.0, "sliding_window": None, "tie_word_embeddings": False,
            "use_sliding_window": False, "vocab_size": 151936,
        },
        30.5,
        3.3,
        True,
    ),
    "deepseek-ai/DeepSeek-V2-Lite": (
        {
            "attention_bias": False, "aux_loss_alpha": 0.001, "bos_token_id": 100000, "eos_token_id": 100001,
            "first_k_dense_replace": 1, "hidden_act": "silu", "hidden_size": 2048, "intermediate_size": 10944,
            "kv_lora_rank": 512, "max_position_embeddings": 163840, "model_type": "deepseek_v2",
            "moe_intermediate_size": 1408, "moe_layer_freq": 1, "n_group": 1, "n_routed_experts": 64,
            "n_shared_experts": 2, "norm_topk_prob": False, "num_attention_heads": 16, "num_experts_per_tok": 6,
            "num_hidden_layers": 27, "num_key_value_heads": 16, "q_lora_rank": None, "qk_nope_head_dim": 128,
            "qk_rope_head_dim": 64, "rms_norm_eps": 1e-06,
            "rope_scaling": {
                "beta_fast": 32, "beta_slow": 1, "factor": 40, "mscale": 0.707, "mscale_all_dim": 0.707,
                "original_max_position_embeddings": 4096, "type": "yarn",
            },
            "rope_theta": 10000, "routed_scaling_factor": 1.0, "scoring_func": "softmax", "seq_aux": True,
            "tie_word_embeddings": False, "topk_group": 1, "topk_method": "greedy", "v_head_dim": 128,
            "vocab_size": 102400,
        },
        15.7,
        2.4,
        False,
    ),
    "deepseek-ai/DeepSeek-V3, in bfloat16": (
        {
            "attention_bias": False, "bos_token_id": 0, "eos_token_id": 1, "ep_size": 1, "first_k_dense_replace": 3,
            "hidden_act": "silu", "hidden_size": 7168, "intermediate_size": 18432, "kv_lora_rank": 512,
            "max_position_embeddings": 163840, "model_type": "deepseek_v3", "moe_intermediate_size": 2048,
            "moe_layer_freq": 1, "n_group": 8, "n_routed_experts": 256, "n_shared_experts": 1, "norm_topk_prob": True,
            "num_attention_heads": 128, "num_experts_per_tok": 8, "num_hidden_layers": 61, "num_key_value_heads": 128,
            "num_nextn_predict_layers": 1, "q_lora_rank": 1536, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64,
            "rms_norm_eps": 1e-06,
            "rope_scaling": {
                "beta_fast": 32, "beta_slow": 1, "factor": 40, "mscale": 1.0, "mscale_all_dim": 1.0,
                "original_max_position_embeddings": 4096, "type": "yarn",
            },
            "rope_theta": 10000, "routed_scaling_factor": 2.5, "scoring_func": "sigmoid", "tie_word_embeddings": False,
            "topk_group": 4, "topk_method": "noaux_tc", "v_head_dim": 128, "vocab_size": 129280,
        },
        671.0,
        37.0,
        False,
    ),
    "openai/gpt-oss-20b, in bfloat16": (
        {
            "attention_bias": True, "eos_token_id": 200002, "experts_per_token": 4, "head_dim": 64,
            "hidden_act": "silu", "hidden_size": 2880, "initial_context_length": 4096, "intermediate_size": 2880,
            "layer_types": ["sliding_attention", "full_attention"] * 12, "max_position_embeddings": 131072,
            "model_type": "gpt_oss", "num_attention_heads": 64, "num_experts_per_tok": 4, "num_hidden_layers": 24,
            "num_key_value_heads": 8, "num_local_experts": 32, "output_router_logits": False, "pad_token_id": 199999,
            "rms_norm_eps": 1e-05,
            "rope_scaling": {
                "beta_fast": 32.0, "beta_slow": 1.0, "factor": 32.0, "original_max_position_embeddings": 4096,
                "rope_type": "yarn", "truncate": False,
            },
            "rope_theta": 150000, "router_aux_loss_coef": 0.9, "sliding_window": 128, "swiglu_limit": 7.0,
            "tie_word_embeddings": False, "vocab_size": 201088,
        },
        20.9,
        3.6,
        False,
    ),
}  # fmt: skip


@pytest.mark.parametrize(("values", "billions", "active_billions", "with_embedding"), HUB.values(), ids=HUB.keys())
def test_published_models_have_their_published_parameters(
    values: dict[str, Any], billions: float, active_billions: float, with_embedding: bool
) -> None:
    config = config_from_hf(values)
    active = count.active_parameters(config) - (0 if with_embedding else config.vocab_size * config.hidden_size)
    assert count.parameters(config) / 1e9 == pytest.approx(billions, rel=0.005)
    assert active / 1e9 == pytest.approx(active_billions, rel=0.025)
    assert config_from_hf(json.loads(json.dumps(config_to_hf(config)))) == config


def test_latent_attention_caches_the_published_bytes_a_token() -> None:
    config = config_from_hf(HUB["deepseek-ai/DeepSeek-V3, in bfloat16"][0])
    assert count.kv_bytes_per_token(config, 2) == 61 * (512 + 64) * 2  # arXiv:2505.09343, table 1: 70.272 KB


def test_config_json_says_the_same_to_transformers_and_to_us(pair: Pair) -> None:
    values = config_to_hf(pair.ours.config)
    assert config_from_hf(values) == pair.ours.config
    assert config_from_hf(pair.theirs.config.to_dict()) == pair.ours.config


def test_in_bfloat16_routes_and_text_are_those_of_transformers(pair: Pair, tmp_path: Path) -> None:
    import transformers

    save_model(load_model(pair.folder, dtype=torch.bfloat16), tmp_path)
    ours = load_model(tmp_path)
    theirs: Any = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path, dtype="auto", attn_implementation="eager", experts_implementation="eager"
    ).eval()
    routes, wanted = Routes(ours), Routes(theirs)
    ids_BT = some_ids(2, 13)
    with torch.no_grad():
        rough, other = ours.logits(ours(ids_BT)), theirs(ids_BT).logits
    assert rough.dtype == other.dtype == torch.bfloat16
    same = ((routes.take() != 0) == (wanted.take() != 0)).float().mean()
    assert same > 0.9  # rounding decides between experts that are nearly as good
    assert (rough.float() - other.float()).std() < 0.25 * other.float().std()


@pytest.mark.parametrize(
    ("model", "changes", "message"),
    [
        ("deepseek-ai/DeepSeek-V3, in bfloat16", {"quantization_config": {"quant_method": "fp8"}}, "'fp8'.*bfloat16"),
        (
            "openai/gpt-oss-20b, in bfloat16",
            {"quantization_config": {"quant_method": "mxfp4"}},
            "'mxfp4'.*dequantize=True",
        ),
        ("openai/gpt-oss-20b, in bfloat16", {"swiglu_alpha": 1.5}, r"swiglu_alpha=1.5.*1\.702"),
        ("openai/gpt-oss-20b, in bfloat16", {"layer_types": ["linear_attention"] * 24}, "linear_attention"),
        ("deepseek-ai/DeepSeek-V2-Lite", {"norm_topk_prob": True}, "norm_topk_prob"),
        ("deepseek-ai/DeepSeek-V2-Lite", {"topk_method": "noaux_tc"}, "topk_method='noaux_tc'.*group_limited_greedy"),
        ("deepseek-ai/DeepSeek-V2-Lite", {"moe_layer_freq": 2}, "moe_layer_freq=2"),
        ("deepseek-ai/DeepSeek-V2-Lite", {"num_key_value_heads": 4}, "num_key_value_heads=4"),
        ("deepseek-ai/DeepSeek-V2-Lite", {"v_head_dim": None}, "lacks v_head_dim"),
        ("deepseek-ai/DeepSeek-V2-Lite", {"topk_method": "group_limited_greedy", "n_group": None}, "lacks n_group"),
        ("deepseek-ai/DeepSeek-V3, in bfloat16", {"scoring_func": "softmax"}, "scoring_func='softmax'"),
        ("deepseek-ai/DeepSeek-V3, in bfloat16", {"n_group": 7}, "count=256 is not divisible by .*groups=7"),
        ("deepseek-ai/DeepSeek-V3, in bfloat16", {"topk_group": 9}, "groups_per_token=9 is more than the 8"),
        ("deepseek-ai/DeepSeek-V3, in bfloat16", {"n_group": 256, "topk_group": 8}, "one expert a group"),
        ("mistralai/Mixtral-8x7B-v0.1", {"num_experts_per_tok": 9}, "per_token=9 must lie between 1 and the 8"),
        ("mistralai/Mixtral-8x7B-v0.1", {"num_local_experts": None}, "lacks num_local_experts"),
        ("Qwen/Qwen3-30B-A3B", {"use_sliding_window": True}, "use_sliding_window=True"),
        ("Qwen/Qwen3-30B-A3B", {"num_experts": 0}, "experts.count=0 must be at least 1"),
    ],
)
def test_what_we_do_not_have_is_refused_by_name(model: str, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        config_from_hf({**HUB[model][0], **changes})


def test_a_mixture_without_experts_is_refused() -> None:
    with pytest.raises(ModelError, match="'mixtral' has experts; give model"):
        config_to_hf(replace(TINY, architecture="mixtral"))


def test_the_layer_that_predicts_a_second_token_is_passed_over() -> None:
    rename = FAMILIES["deepseek_v3"].rename
    assert rename("model.layers.61.eh_proj.weight") is None
    assert rename("model.layers.61.mlp.experts.0.up_proj.weight") is None
    assert rename("model.layers.6.mlp.gate.weight") == "model.layers.6.mlp.gate.weight"


def test_a_folder_with_the_extra_layer_is_read_and_the_correction_keeps_its_precision(tmp_path: Path) -> None:
    model = lively(VARIANTS["deepseek_v3"])
    correction = next(module for module in model.modules() if isinstance(module, Router)).correction
    assert correction is not None
    correction.data.add_(100.0).mul_(1.0 + 1e-5)
    save_model(model, tmp_path)
    tensors = read_tensors(tmp_path / "model.safetensors")
    extra = {"model.layers.61.eh_proj.weight": torch.zeros(3, 3)}
    write_tensors(tmp_path / "model.safetensors", tensors | extra)
    read = load_model(tmp_path, dtype=torch.bfloat16)
    kept = next(module for module in read.modules() if isinstance(module, Router)).correction
    assert kept is not None
    assert torch.equal(kept, correction)
    assert read.head_weight.dtype == torch.bfloat16


def test_biases_of_experts_start_at_nothing() -> None:
    for name, parameter in new_decoder(VARIANTS["gpt_oss"], seed=0).named_parameters():
        if name.endswith("bias"):
            assert not parameter.any(), name
