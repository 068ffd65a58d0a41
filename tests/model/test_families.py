"""Every family against transformers: the same weights, the same logits, the same text, and back."""

import dataclasses
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dunwu.core.errors import ModelError
from dunwu.model.blocks import mlp, norms, reading, rotary
from dunwu.model.cache import KeyValueCache
from dunwu.model.config import DecoderConfig, RopeScaling
from dunwu.model.decoder import Decoder, new_decoder
from dunwu.model.families import FAMILIES, config_from_hf, config_to_hf, family_of
from dunwu.model.hub import load_model, read_tensors, save_model, write_tensors

from .helpers import new_twin, to_stored, transformers_twin

BASE: dict[str, Any] = {
    "vocab_size": 100,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 12,
    "max_position_embeddings": 128,
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": (2, 5),
    "pad_token_id": None,
}
LLAMA3 = RopeScaling(kind="llama3", factor=4.0, original_max_position_embeddings=24)
YARN = RopeScaling(kind="yarn", factor=4.0, original_max_position_embeddings=32)
LONGROPE = RopeScaling(
    kind="longrope",
    factor=5.0,
    original_max_position_embeddings=100,
    short_factor=(1.0, 1.1, 1.3),
    long_factor=(1.5, 2.0, 4.0),
)
GEMMA: dict[str, Any] = {
    "norm_offset": 1.0,
    "norm_placement": "both",
    "activation": "gelu_tanh",
    "embedding_scale": 32**0.5,
    "attention_scale": 20**-0.5,
    "sliding_window": 7,
    "sliding_layers": (0, 1),
    "tie_word_embeddings": True,
}


def config_of(architecture: str, **knobs: Any) -> DecoderConfig:
    return DecoderConfig(architecture=architecture, **{**BASE, **knobs})


CONFIGS = {
    "gpt2": config_of(
        "gpt2",
        num_key_value_heads=4,
        head_dim=8,
        positions="learned",
        norm="layer",
        rms_norm_eps=1e-3,
        attention_bias=True,
        attention_output_bias=True,
        attention_scale=1.0,
        mlp="plain",
        mlp_bias=True,
        activation="gelu_tanh",
        tie_word_embeddings=True,
    ),
    "llama": config_of(
        "llama", rope_scaling=LLAMA3, attention_bias=True, attention_output_bias=True, mlp_bias=True, rms_norm_eps=1e-3
    ),
    "mistral": config_of("mistral", sliding_window=9, sliding_layers=(0, 1, 2), rope_theta=1e6),
    "mistral without a window": config_of("mistral", tie_word_embeddings=True),
    "qwen2": config_of(
        "qwen2", attention_bias=True, sliding_window=5, sliding_layers=(1, 2), rope_scaling=YARN, head_dim=8
    ),
    "qwen3": config_of(
        "qwen3",
        qk_norm="head",
        attention_bias=True,
        attention_output_bias=True,
        sliding_window=5,
        sliding_layers=(0, 2),
        tie_word_embeddings=True,
        rope_scaling=dataclasses.replace(YARN, attention_factor=1.3, beta_fast=3.0, beta_slow=0.5, truncate=False),
    ),
    "gemma2": config_of(
        "gemma2", **GEMMA, attention_softcap=2.0, logits_softcap=3.0, attention_bias=True, attention_output_bias=True
    ),
    "gemma3_text": config_of(
        "gemma3_text",
        **GEMMA,
        rope_theta=1e6,
        local_rope_theta=100.0,
        rope_scaling=RopeScaling(kind="linear", factor=8.0),
        qk_norm="head",
        logits_softcap=3.0,
    ),
    "phi3": config_of(
        "phi3", head_dim=8, rotary_dim=6, rope_scaling=LONGROPE, sliding_window=11, sliding_layers=(0, 1, 2)
    ),
    "glm": config_of("glm", rotary_dim=6, rope_interleaved=True, attention_bias=True),
    "glm4": config_of(
        "glm4",
        rotary_dim=8,
        rope_interleaved=True,
        norm_placement="both",
        attention_bias=True,
        tie_word_embeddings=True,
    ),
    "olmo2": config_of(
        "olmo2",
        norm_placement="post",
        qk_norm="all",
        attention_bias=True,
        attention_output_bias=True,
        rms_norm_eps=1e-3,
    ),
    "smollm3": config_of(
        "smollm3",
        nope_layers=(1,),
        sliding_window=6,
        sliding_layers=(1,),
        attention_bias=True,
        attention_output_bias=True,
        mlp_bias=True,
        tie_word_embeddings=True,
    ),
}


@pytest.fixture(params=CONFIGS.values(), ids=list(CONFIGS))
def config(request: pytest.FixtureRequest) -> DecoderConfig:
    return request.param


def strong(config: DecoderConfig) -> Decoder:
    """A decoder whose weights are all different, strong enough that each part of it shows in the logits."""
    model = new_decoder(config, seed=0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim >= 2:
                parameter.copy_(noise * 1.5 / math.sqrt(parameter.shape[-1]))
            elif name.endswith("weight"):
                parameter.add_(0.3 * noise)
            else:
                parameter.copy_(0.3 * noise)
    return model


def ids_of(*shape: int) -> Tensor:
    return torch.randint(0, 100, shape, generator=torch.Generator().manual_seed(3))


def assert_close(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)


def test_every_family_is_tested() -> None:
    read_only = {"gemma3"}
    in_test_mixtures = {"mixtral", "qwen2_moe", "qwen3_moe", "deepseek_v2", "deepseek_v3", "gpt_oss"}
    assert {config.architecture for config in CONFIGS.values()} == set(FAMILIES) - read_only - in_test_mixtures


def test_logits_and_all_gradients_equal_transformers(config: DecoderConfig) -> None:
    model = strong(config)
    twin = transformers_twin(model)
    ids_BT = ids_of(2, 31)
    ours, theirs = model.logits(model(ids_BT)), twin(ids_BT).logits
    assert float(ours.detach().std()) > 0.1
    assert_close(ours, theirs)
    upstream = torch.randn(ours.shape, generator=torch.Generator().manual_seed(4)) / ours.numel()
    ours.backward(upstream)
    theirs.backward(upstream)
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert len(gradients) == len(list(model.parameters()))
    twins = dict(twin.named_parameters())
    for name, gradient in to_stored(gradients, config):
        torch.testing.assert_close(gradient, twins[name].grad, atol=1e-6, rtol=1e-3, msg=lambda m, n=name: f"{n}: {m}")


def test_greedy_text_equals_transformers(config: DecoderConfig) -> None:
    model = strong(config)
    prompt = ids_of(1, 9)
    twin = transformers_twin(model)
    twin.generation_config.eos_token_id = None  # so that the text goes on
    theirs = twin.generate(
        prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=64, do_sample=False, pad_token_id=0
    )
    cache = KeyValueCache(config, 1, 80, "cpu", torch.float32)
    ours = prompt
    with torch.no_grad():
        for _ in range(64):
            hidden = model(ours[:, cache.length :], cache=cache)
            ours = torch.cat((ours, model.logits(hidden[:, -1:]).argmax(-1)), dim=1)
    assert ours.tolist() == theirs.tolist()
    assert len(set(ours[0].tolist())) > 4


@pytest.mark.parametrize("pieces", [[29], [1] * 29, [11, 1, 1, 13, 3]], ids=["at once", "singly", "in chunks"])
def test_cached_equals_uncached(config: DecoderConfig, pieces: list[int]) -> None:
    model = strong(config)
    ids_BT = ids_of(2, 29)
    cache = KeyValueCache(config, 2, 29, "cpu", torch.float32)
    with torch.no_grad():
        parts = [model(part, cache=cache) for part in ids_BT.split(pieces, dim=1)]
        torch.testing.assert_close(torch.cat(parts, dim=1), model(ids_BT), atol=2e-5, rtol=1e-4)


def test_packed_equals_one_by_one(config: DecoderConfig) -> None:
    model = strong(config)
    lengths = [15, 1, 9, 12]
    documents = [ids_of(1, 40)[:, start : start + n] for start, n in enumerate(lengths)]
    positions = torch.cat([torch.arange(n) for n in lengths])[None]
    numbers = torch.repeat_interleave(torch.arange(4), torch.tensor(lengths))[None]
    with torch.no_grad():
        packed = model(torch.cat(documents, dim=1), positions_BT=positions, document_BT=numbers)
        alone = torch.cat([model(d) for d in documents], dim=1)
    torch.testing.assert_close(packed, alone, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", ["longrope", "dynamic"])
def test_packed_equals_one_by_one_where_angles_depend_on_how_long_a_text_is(kind: str) -> None:
    border = dataclasses.replace(LONGROPE, original_max_position_embeddings=12)
    scaling = border if kind == "longrope" else RopeScaling(kind="dynamic", factor=4.0)
    config = config_of("llama", rope_scaling=scaling, max_position_embeddings=12, rotary_dim=None, head_dim=6)
    test_packed_equals_one_by_one(config)


def test_the_plain_formulas_equal_the_kernels(config: DecoderConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """What runs on other devices than CPUs."""
    found: list[list[Tensor]] = []
    for plain in (False, True):
        if plain:
            for module in (norms, rotary, reading, mlp):
                monkeypatch.setattr(module, "by_hand", lambda x: False)
        model = strong(config)
        hidden = model(ids_of(2, 13), document_BT=torch.tensor([[0] * 4 + [1] * 9, [0] * 13]))
        hidden.square().mean().backward()
        found.append([hidden, *(p.grad for p in model.parameters() if p.grad is not None)])
    assert len(found[0]) == len(found[1]) > 10
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, atol=2e-5, rtol=1e-4)


def test_through_the_disk_and_back(config: DecoderConfig, tmp_path: Path) -> None:
    import transformers

    model = strong(config)
    save_model(model, tmp_path / "ours")
    loaded: Any = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "ours", output_loading_info=True, attn_implementation="eager"
    )
    twin, report = loaded
    assert not any(report.values()), report
    ids_BT = ids_of(2, 19)
    with torch.no_grad():
        ours = model.logits(model(ids_BT))
        assert_close(ours, twin(ids_BT).logits)
        twin.save_pretrained(tmp_path / "theirs")
        again = load_model(tmp_path / "theirs")
        assert again.config == config
        assert torch.equal(again.logits(again(ids_BT)), ours)


def test_left_padded_rows_in_a_cache_equal_each_row_alone(config: DecoderConfig) -> None:
    model = strong(config)
    rows = [ids_of(1, n) for n in (19, 8, 1)]
    cache = KeyValueCache(config, 3, 22, "cpu", torch.float32)
    cache.starts_B = torch.tensor([0, 11, 18])
    padded = torch.cat([torch.nn.functional.pad(row, (19 - row.shape[1], 0)) for row in rows])
    with torch.no_grad():
        together = [model(padded, cache=cache)[:, -1], model(torch.tensor([[5], [6], [7]]), cache=cache)[:, -1]]
        for row, ids in enumerate(rows):
            alone = model(torch.cat([ids, torch.tensor([[5 + row]])], dim=1))
            torch.testing.assert_close(together[0][row], alone[0, -2], atol=2e-5, rtol=1e-4)
            torch.testing.assert_close(together[1][row], alone[0, -1], atol=2e-5, rtol=1e-4)


def test_the_list_of_stored_tensors_is_that_of_transformers(config: DecoderConfig) -> None:
    theirs = {name: tuple(tensor.shape) for name, tensor in new_twin(config_to_hf(config)).state_dict().items()}
    if config.tie_word_embeddings:
        del theirs["lm_head.weight"]
    listed = list(family_of(config.architecture).stored(config))
    assert {stored.name: stored.shape for stored in listed} == theirs
    assert len(listed) == len(theirs)


def test_config_json_says_the_same_to_transformers_and_to_us(config: DecoderConfig) -> None:
    values = config_to_hf(config)
    assert config_from_hf(values) == config
    twin = new_twin(values).config
    assert config_from_hf(twin.to_dict()) == config
    assert config_from_hf(twin.to_diff_dict()) == config


def test_bfloat16_stays_near_float32(config: DecoderConfig) -> None:
    model = strong(config)
    ids_BT = ids_of(1, 12)
    with torch.no_grad():
        exact = model.logits(model(ids_BT))
        rounded = model.bfloat16()
        rough = rounded.logits(rounded(ids_BT)).float()
    assert rough.isfinite().all()
    assert float((rough - exact).std() / exact.std()) < 0.2


def old_style(config: DecoderConfig, **replaced: Any) -> dict[str, Any]:
    """config.json as transformers 4 wrote it: no `rope_parameters`, `layer_types` or `dtype`."""
    values = config_to_hf(config)
    for name in ("rope_parameters", "layer_types", "dtype"):
        values.pop(name, None)
    return {**values, "torch_dtype": "bfloat16", "transformers_version": "4.49.0", **replaced}


def old_and_new() -> Iterator[tuple[str, DecoderConfig, dict[str, Any]]]:
    for name in ("gpt2", "llama", "mistral", "glm", "glm4", "olmo2", "smollm3", "phi3", "qwen2"):
        yield name, CONFIGS[name], old_style(CONFIGS[name])
    gemma2 = dataclasses.replace(CONFIGS["gemma2"], sliding_layers=(0, 2))
    yield "gemma2 of old", gemma2, old_style(gemma2)
    gemma3 = dataclasses.replace(CONFIGS["gemma3_text"], num_hidden_layers=5, sliding_layers=(0, 1, 3, 4))
    yield "gemma3 of old", gemma3, old_style(gemma3, sliding_window_pattern=3)
    su = {**config_to_hf(CONFIGS["phi3"])["rope_scaling"], "type": "su"}
    del su["rope_type"], su["original_max_position_embeddings"]
    yield "phi3 of old", CONFIGS["phi3"], old_style(CONFIGS["phi3"], rope_scaling=su)


OLD = list(old_and_new())


@pytest.mark.parametrize(("config", "values"), [item[1:] for item in OLD], ids=[item[0] for item in OLD])
def test_what_transformers_4_wrote_is_read(config: DecoderConfig, values: dict[str, Any]) -> None:
    assert config_from_hf(values) == config


PUBLISHED: dict[str, dict[str, Any]] = {
    "Phi-4-mini": {
        "model_type": "phi3", "attention_bias": False, "hidden_act": "silu", "hidden_size": 3072, "mlp_bias": False,
        "intermediate_size": 8192, "max_position_embeddings": 131072, "num_attention_heads": 24, "num_hidden_layers": 32,
        "num_key_value_heads": 8, "original_max_position_embeddings": 4096, "partial_rotary_factor": 0.75,
        "rms_norm_eps": 1e-05, "rope_theta": 10000.0, "sliding_window": 262144, "tie_word_embeddings": True,
        "rope_scaling": {"type": "longrope", "long_factor": [1.5] * 48, "short_factor": [1.0] * 48}, "vocab_size": 200064,
    },
    "Gemma 3 4B": {
        "model_type": "gemma3", "eos_token_id": [1, 106], "vision_config": {}, "text_config": {
            "hidden_size": 2560, "intermediate_size": 10240, "model_type": "gemma3_text", "num_hidden_layers": 34,
            "rope_scaling": {"factor": 8.0, "rope_type": "linear"}, "sliding_window": 1024,
        },
    },
}  # fmt: skip
"""Parts of config.json as the makers publish it, long lists shortened."""


def test_what_makers_publish_is_read_as_it_is_meant() -> None:
    phi = config_from_hf(PUBLISHED["Phi-4-mini"])
    assert (phi.head_dim, phi.rotary_dim, phi.window(31)) == (128, 96, 262144)
    assert phi.rope_scaling is not None
    assert (phi.rope_scaling.kind, phi.rope_scaling.factor) == ("longrope", 32.0)
    gemma = config_from_hf(PUBLISHED["Gemma 3 4B"])
    assert (gemma.architecture, gemma.vocab_size, gemma.num_attention_heads) == ("gemma3_text", 262208, 8)
    assert [layer for layer in range(34) if gemma.window(layer) is None] == [5, 11, 17, 23, 29]
    assert (gemma.rope_theta, gemma.local_rope_theta, gemma.eos_token_id) == (1e6, 1e4, (1, 106))
    assert gemma.rope_scaling == RopeScaling(kind="linear", factor=8.0)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx=True"),
        ("gpt2", {"activation_function": "relu"}, "activation_function='relu'"),
        ("gpt2", {"n_embd": None}, "lacks n_embd"),
        ("llama", {"rope_scaling": {"rope_type": "mrope"}}, "rope type='mrope'"),
        ("llama", {"rope_scaling": {"rope_type": "linear"}}, "lacks factor"),
        ("llama", {"rope_scaling": {"rope_type": "linear", "factor": 0.0}}, "factor=0.0"),
        ("llama", {"rope_scaling": None, "rope_parameters": {"a": {"rope_theta": 5}, "b": {}}}, "differ by layer"),
        ("mistral", {"layer_types": ["full_attention", "sliding_attention", "full_attention"]}, "disagree"),
        ("qwen2", {"layer_types": ["linear_attention"] * 3}, "layer type 'linear_attention'"),
        ("qwen2", {"rope_theta": 1.0, "rope_parameters": None}, "rope_theta=1.0"),
        ("gemma2", {"hidden_activation": "relu"}, "hidden_activation='relu'"),
        ("gemma2", {"use_bidirectional_attention": True}, "use_bidirectional_attention=True"),
        ("gemma3_text", {"attn_logit_softcapping": 50.0}, "attn_logit_softcapping=50.0"),
        ("phi3", {"rope_scaling": {"type": "su", "factor": 2.0, "short_factor": [1.0]}}, "lacks long_factor"),
        ("phi3", {"partial_rotary_factor": 1.0, "rope_parameters": None}, "8 rotated channels need 4"),
        ("smollm3", {"no_rope_layers": [1]}, "1 of 3 layers"),
        ("smollm3", {"use_sliding_window": False}, "use_sliding_window"),
    ],
)
def test_what_we_do_not_have_is_refused(name: str, change: dict[str, Any], message: str) -> None:
    values = config_to_hf(CONFIGS[name])
    with pytest.raises(ModelError, match=message):
        config_from_hf(values | change)


@pytest.mark.parametrize(
    ("name", "knob", "value"),
    [
        ("llama", "qk_norm", "head"),
        ("mistral", "sliding_layers", (1,)),
        ("gpt2", "num_key_value_heads", 2),
        ("gemma2", "attention_scale", 0.33),
        ("gemma3_text", "attention_softcap", 9.0),
        ("phi3", "head_dim", 16),
        ("olmo2", "norm_placement", "pre"),
        ("llama", "hidden_size", 30),
    ],
)
def test_a_knob_that_the_architecture_lacks_is_never_dropped_silently(name: str, knob: str, value: Any) -> None:
    with pytest.raises(ModelError, match=f"{name}.*{knob}|{knob}"):
        config_to_hf(dataclasses.replace(CONFIGS[name], **{knob: value}))


def test_the_language_model_inside_one_that_sees() -> None:
    text = config_to_hf(CONFIGS["gemma3_text"])
    del text["eos_token_id"]
    values = {"model_type": "gemma3", "text_config": text, "eos_token_id": [2, 5], "vision_config": {"hidden_size": 9}}
    assert config_from_hf(values) == CONFIGS["gemma3_text"]
    rename = family_of("gemma3_text").rename
    for name in ("language_model.model.norm.weight", "model.language_model.norm.weight", "model.norm.weight"):
        assert rename(name) == "model.norm.weight"
    for name in ("vision_tower.a.weight", "multi_modal_projector.b", "model.vision_tower.a.weight"):
        assert rename(name) is None
    with pytest.raises(ModelError, match="text_config"):
        config_from_hf({"model_type": "gemma3"})


def test_a_folder_of_a_model_that_sees_gives_its_language_model(tmp_path: Path) -> None:
    model = new_decoder(CONFIGS["gemma3_text"], seed=3)
    save_model(model, tmp_path)
    tensors = {
        f"language_model.{name}": values for name, values in read_tensors(tmp_path / "model.safetensors").items()
    }
    write_tensors(tmp_path / "model.safetensors", tensors | {"vision_tower.a.weight": torch.zeros(2, 2)})
    values = {"model_type": "gemma3", "text_config": config_to_hf(model.config), "vision_config": {"hidden_size": 9}}
    (tmp_path / "config.json").write_text(json.dumps(values))
    read = load_model(tmp_path)
    for name, weight in model.state_dict().items():
        assert torch.equal(read.state_dict()[name], weight), name


def test_text_beyond_learned_positions_is_refused() -> None:
    config = dataclasses.replace(CONFIGS["gpt2"], max_position_embeddings=8)
    model = new_decoder(config, seed=0)
    model(ids_of(1, 8))
    with pytest.raises(ModelError, match="9 tokens are more than the 8"):
        model(ids_of(1, 9))
    cache = KeyValueCache(config, 1, 20, "cpu", torch.float32)
    model(ids_of(1, 8), cache=cache)
    with pytest.raises(ModelError, match="9 tokens are more than the 8"):
        model(ids_of(1, 1), cache=cache)
