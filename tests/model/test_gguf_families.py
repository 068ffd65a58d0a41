"""Every architecture that llama.cpp has: to GGUF and back bit for bit, and llama.cpp computes what we compute."""

import dataclasses
import math

import pytest
import torch

from dunwu.core.errors import ModelError
from dunwu.model.config import DecoderConfig, Experts, Latent, RopeScaling
from dunwu.model.decoder import Decoder, new_decoder
from dunwu.model.families import FAMILIES
from dunwu.model.gguf import export_gguf, import_gguf
from dunwu.model.gguf.metadata import GGUF_NAME
from dunwu.model.gguf.names import TABLES
from dunwu.model.hub import load_model, save_model
from dunwu.tokenizer.bpe import train_tokenizer
from dunwu.tokenizer.pattern import PATTERN

RULES, NAMES = {PATTERN: "qwen35"}, {"qwen35": PATTERN}
LLAMA3 = RopeScaling(kind="llama3", factor=4.0, original_max_position_embeddings=32)
YARN = RopeScaling(kind="yarn", factor=4.0, original_max_position_embeddings=64)
LONGROPE = RopeScaling(
    kind="longrope", factor=2.0, original_max_position_embeddings=256,
    short_factor=(1.0, 1.1, 1.3, 1.2), long_factor=(1.5, 2.0, 4.0, 3.0),
)  # fmt: skip
GEMMA = {
    "norm_offset": 1.0, "norm_placement": "both", "activation": "gelu_tanh", "embedding_scale": 32**0.5,
    "attention_scale": 16**-0.5, "sliding_window": 7, "tie_word_embeddings": True, "head_dim": 16,
}  # fmt: skip


V2 = Experts(count=4, per_token=2, intermediate_size=32, shared_intermediate_size=64, router_float32=True)
DEEPSEEK = {
    "latent": Latent(q_rank=24, kv_rank=16, rope_dim=4, nope_dim=8, value_dim=6), "head_dim": 12, "num_key_value_heads": 4,
    "rope_interleaved": True, "dense_layers": (0,),
}  # fmt: skip


def config_of(architecture, **knobs):
    base = {
        "vocab_size": 290, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 256, "tie_word_embeddings": False,
        "bos_token_id": None, "eos_token_id": 0, "pad_token_id": 0,
    }  # fmt: skip
    return DecoderConfig(architecture=architecture, **{**base, **knobs})


CONFIGS = {
    "llama": config_of("llama", rope_scaling=LLAMA3, rms_norm_eps=1e-3),
    "llama with biases": config_of(
        "llama", attention_bias=True, attention_output_bias=True, mlp_bias=True, rope_theta=5e5
    ),
    "llama stretched": config_of("llama", rope_scaling=RopeScaling(kind="linear", factor=3.0), head_dim=16),
    "mistral": config_of("mistral", sliding_window=100, sliding_layers=(0, 1, 2, 3), rope_theta=1e6),
    "smollm3": config_of("smollm3", nope_layers=(3,), tie_word_embeddings=True, attention_bias=False),
    "qwen2": config_of("qwen2", attention_bias=True, rope_scaling=YARN),
    "qwen3": config_of(
        "qwen3",
        qk_norm="head",
        tie_word_embeddings=True,
        rope_scaling=dataclasses.replace(YARN, attention_factor=1.3, beta_fast=3.0, beta_slow=0.5),
    ),
    "gemma2": config_of("gemma2", **GEMMA, sliding_layers=(0, 2), attention_softcap=2.0, logits_softcap=3.0),
    "gemma3_text": config_of(
        "gemma3_text",
        **{**GEMMA, "num_hidden_layers": 7},
        sliding_layers=(0, 1, 2, 3, 4, 6),
        rope_theta=1e6,
        local_rope_theta=10_000.0,
        rope_scaling=RopeScaling(kind="linear", factor=8.0),
        qk_norm="head",
    ),
    "olmo2": config_of("olmo2", norm_placement="post", qk_norm="all", rms_norm_eps=1e-3),
    "phi3": config_of("phi3", rope_scaling=LONGROPE, max_position_embeddings=512),
    "glm4": config_of(
        "glm4", rotary_dim=8, head_dim=16, rope_interleaved=True, norm_placement="both", attention_bias=True
    ),
    "gpt2": config_of(
        "gpt2", num_key_value_heads=4, positions="learned", norm="layer", rms_norm_eps=1e-3, attention_bias=True,
        attention_output_bias=True, mlp="plain", mlp_bias=True, activation="gelu_tanh", tie_word_embeddings=True,
    ),
    "mixtral": config_of(
        "mixtral", experts=Experts(count=4, per_token=2, intermediate_size=64, scores="softmax_after"), rope_theta=1e6
    ),
    "qwen2_moe": config_of(
        "qwen2_moe", attention_bias=True,
        experts=Experts(count=4, per_token=2, intermediate_size=32, shared_intermediate_size=64, shared_gate=True),
    ),
    "deepseek_v2": config_of(
        "deepseek_v2", **DEEPSEEK, experts=dataclasses.replace(V2, scale=2.0),
        rope_scaling=dataclasses.replace(YARN, mscale=0.707, mscale_all_dim=0.707),
        attention_scale=12**-0.5 * (0.0707 * math.log(4.0) + 1.0) ** 2,
    ),
    "deepseek_v3": config_of(
        "deepseek_v3", **DEEPSEEK,
        experts=dataclasses.replace(
            V2, count=8, scores="sigmoid", normalise=True, scale=2.5, groups=4, groups_per_token=2, group_score="best_two",
            correction=True,
        ),
    ),
    "gpt_oss": config_of(
        "gpt_oss", attention_bias=True, attention_output_bias=True, sinks=True, sliding_window=6, sliding_layers=(0, 2),
        activation="clamped_silu", activation_limit=7.0, intermediate_size=32, rope_theta=150_000.0,
        experts=Experts(
            count=4, per_token=2, intermediate_size=32, scores="softmax_after", router_bias=True, bias=True
        ),
    ),
    "qwen3_moe": config_of(
        "qwen3_moe", qk_norm="head", experts=Experts(count=4, per_token=2, intermediate_size=32, normalise=True)
    ),
}  # fmt: skip


def strong(config: DecoderConfig) -> Decoder:
    """Weights all different and strong enough that each part shows in the logits."""
    model = new_decoder(config, seed=0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim >= 2:
                parameter.copy_(noise * 1.5 / math.sqrt(parameter.shape[-1]))
            else:
                parameter.copy_(0.3 * noise + (parameter if name.endswith("weight") else 0))
        for name, buffer in model.named_buffers():
            if name in model.state_dict():
                buffer.copy_(0.1 * torch.randn(buffer.shape, generator=generator))
    return model


@pytest.fixture(scope="module")
def tokenizer_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    assert train_tokenizer(["a cat sat. 猫坐着。" * 3], vocab_size=280, out=folder).vocab_size <= 290
    return folder


@pytest.fixture(scope="module", params=CONFIGS)
def exported(request, tmp_path_factory, tokenizer_folder):
    folder = tmp_path_factory.mktemp("model")
    model = strong(CONFIGS[request.param]).requires_grad_(False)
    save_model(model, folder)
    for file in tokenizer_folder.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    path = folder / "x.gguf"
    export_gguf(folder, path, dtype="f32", rules=RULES)
    return model, path


def test_every_table_is_tested():
    assert set(TABLES) == set(GGUF_NAME) == {config.architecture for config in CONFIGS.values()}
    assert set(TABLES) <= set(FAMILIES)


def test_it_comes_back_bit_for_bit(exported, tmp_path):
    model, path = exported
    import_gguf(path, tmp_path / "back", rules=NAMES)
    back = load_model(tmp_path / "back")
    if model.config.architecture == "mistral":  # a llama within the window
        assert back.config.max_position_embeddings == model.config.sliding_window
    else:
        assert back.config == model.config
    tolerance = 1e-7 if model.config.norm_offset else 0.0  # Gemma's norms are stored with one added
    for name, tensor in model.state_dict().items():
        assert (back.state_dict()[name] - tensor).abs().max() <= tolerance, name


def test_names_are_those_of_the_reference_package(exported):
    """Its table of names (tensor_mapping.py), independent of ours, takes their names to the same."""
    gguf = pytest.importorskip("gguf")
    model, path = exported
    arch = next((a for a, name in gguf.MODEL_ARCH_NAMES.items() if name == GGUF_NAME[model.config.architecture]), None)
    if arch is None:
        pytest.skip("the installed package does not know this architecture")
    table = gguf.get_tensor_name_map(arch, model.config.num_hidden_layers)
    known = {f"{name}{end}" for _, name in table.mapping.values() for end in (".weight", ".bias")}
    assert {tensor.name for tensor in gguf.GGUFReader(path).tensors} <= known


def test_llama_cpp_computes_the_same(exported):
    llama_cpp = pytest.importorskip("llama_cpp")
    model, path = exported
    ids = torch.randint(0, 280, (24,), generator=torch.Generator().manual_seed(2)).tolist()
    llama = llama_cpp.Llama(
        str(path), n_ctx=64, n_batch=64, logits_all=True, verbose=False, n_threads=1, type_k=0, type_v=0, swa_full=True,
        yarn_attn_factor=-1.0, yarn_beta_fast=-1.0, yarn_beta_slow=-1.0,
    )  # fmt: skip
    llama.eval(ids)
    theirs = torch.from_numpy(llama.scores[: len(ids)].copy())
    llama.close()
    ours = model.logits(model(torch.tensor([ids])))[0]
    by_table = model.config.activation == "gelu_tanh"  # ggml looks GELU up in a table of float16
    assert (ours - theirs).abs().max() < (2e-2 if by_table else 1e-3)
    assert ours.abs().max() > 1.0


LOST = {
    "a scale of its own": ("gemma2", {"attention_scale": 20**-0.5}, "attention_scale"),
    "positions left out elsewhere": ("smollm3", {"nope_layers": (1,)}, "nope_layers"),
    "experts in some layers": ("qwen3_moe", {"dense_layers": (1,)}, "dense_layers"),
    "weights of experts not summed to one": (
        "qwen3_moe", {"experts": Experts(count=4, per_token=2, intermediate_size=32)}, "experts",
    ),
    "dynamic stretching": ("llama", {"rope_scaling": RopeScaling(kind="dynamic", factor=2.0)}, "dynamic NTK"),
    "untruncated YaRN": (
        "qwen2", {"rope_scaling": dataclasses.replace(YARN, truncate=False)}, "rope_scaling",
    ),
    "queries without a bottleneck": (
        "deepseek_v2", {"latent": dataclasses.replace(DEEPSEEK["latent"], q_rank=None)}, "q_lora_rank null",
    ),
    "groups by their best expert": (
        "deepseek_v2", {"experts": dataclasses.replace(V2, groups=2, groups_per_token=1)}, "best two",
    ),
    "another limit": ("gpt_oss", {"activation_limit": 5.0}, "activation_limit"),
    "another activation": ("gpt2", {"activation": "gelu"}, "activation"),
}  # fmt: skip


@pytest.mark.parametrize(("name", "knobs", "message"), LOST.values(), ids=LOST)
def test_what_gguf_cannot_say_is_refused(tmp_path, tokenizer_folder, name, knobs, message):
    save_model(new_decoder(dataclasses.replace(CONFIGS[name], **knobs), seed=0), tmp_path)
    (tmp_path / "tokenizer.json").write_bytes((tokenizer_folder / "tokenizer.json").read_bytes())
    with pytest.raises(ModelError, match=message):
        export_gguf(tmp_path, tmp_path / "x.gguf", dtype="f32", rules=RULES)
    assert not (tmp_path / "x.gguf").exists()
