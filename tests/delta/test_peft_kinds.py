"""peft as the judge of what is not LoRA: scales, norms, prefixes and prompts give the same logits there and here."""

import json

import pytest
import torch

from dunwu.core.deltas import Ia3Spec, NormsSpec, PrefixSpec, PromptSpec
from dunwu.core.errors import ModelError
from dunwu.delta.registry import attach
from dunwu.delta.storing import load_delta, save_delta
from dunwu.model.hub import write_tensors
from tests.delta.helpers import ALL, base, ids_of, logits, shake

from .test_peft import assert_close, reads, theirs, twin_of

peft = pytest.importorskip("peft", reason="peft is not installed; pip install 'dunwu[dev]'")

DENSE = [name for name, config in ALL.items() if config.experts is None]


def assert_both_ways(name, spec, tmp_path):
    model = base(name)
    said = logits(model)
    delta = shake(attach(model, spec, seed=0), size=0.3)
    changed = logits(model)
    assert not torch.allclose(said, changed, atol=1e-2 * float(said.abs().max()))
    save_delta(delta, tmp_path)
    assert (tmp_path / "adapter_config.json").is_file()
    adapted = reads(tmp_path, base(name))
    assert_close(theirs(adapted, model), changed)
    again = load_delta(tmp_path, base(name))
    assert_close(logits(again.model), changed)
    assert again.count == delta.count
    return adapted


def assert_reads_what_peft_writes(name, config, tmp_path, size=0.3):
    """An adapter that peft made and wrote, and that we read."""
    model = base(name)
    torch.manual_seed(0)
    adapted = peft.get_peft_model(twin_of(model), config).eval()
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter += size * torch.randn(parameter.shape)
    adapted.save_pretrained(tmp_path)
    delta = load_delta(tmp_path, model)
    assert_close(logits(model), theirs(adapted, model))
    return delta


@pytest.mark.parametrize("name", DENSE)
def test_scales_are_written_as_peft_reads_them(name, tmp_path):
    assert_both_ways(name, Ia3Spec(), tmp_path)


@pytest.mark.parametrize(
    ("name", "targets", "inputs"),
    [
        ("tiny", ["k_proj", "v_proj", "down_proj"], ["down_proj"]),
        ("phi3", ["qkv_proj", "gate_up_proj", "o_proj"], ["o_proj"]),
        ("gpt2", ["attn.c_attn", "mlp.c_fc", "mlp.c_proj"], ["mlp.c_proj"]),
        ("glm4", r".*\.(qkv_proj|q_proj|down_proj)", r".*\.down_proj"),
        ("deepseek_v3", ["kv_b_proj", "o_proj"], []),
    ],
)
def test_scales_that_peft_writes(name, targets, inputs, tmp_path):
    config = peft.IA3Config(
        target_modules=targets, feedforward_modules=inputs, fan_in_fan_out=name == "gpt2", task_type="CAUSAL_LM"
    )
    delta = assert_reads_what_peft_writes(name, config, tmp_path)
    save_delta(delta, tmp_path / "ours")
    assert_close(theirs(reads(tmp_path / "ours", base(name)), delta.model), logits(delta.model))


@pytest.mark.parametrize("name", list(ALL))
def test_norms_are_written_as_peft_reads_them(name, tmp_path):
    assert_both_ways(name, NormsSpec(), tmp_path)


@pytest.mark.parametrize(("name", "target"), [("tiny", ["input_layernorm", "norm"]), ("gpt2", ["ln_1", "ln_f"])])
def test_norms_that_peft_writes(name, target, tmp_path):
    assert_reads_what_peft_writes(name, peft.LNTuningConfig(target_modules=target, task_type="CAUSAL_LM"), tmp_path)


@pytest.mark.parametrize(
    ("kind", "tensors", "message"),
    [
        ("IA3", {"base_model.model.model.layers.0.mlp.down_proj.ia4": [1.0]}, "no part of"),
        ("IA3", {"base_model.model.model.layers.7.mlp.down_proj.ia3_l": [1.0]}, "which this model does not have"),
        ("IA3", {"base_model.model.model.layers.0.mlp.down_proj.ia3_l": [1.0] * 3}, "belongs to another base"),
        ("LN_TUNING", {"base_model.model.model.layers.0.mlp.down_proj.weight": [1.0]}, "no norm of this model"),
        ("LN_TUNING", {"base_model.model.model.norm.ln_tuning_layers.weight": [1.0]}, "belongs to another base"),
    ],
)
def test_files_that_do_not_fit(kind, tensors, message, tmp_path):
    write_tensors(tmp_path / "adapter_model.safetensors", {name: torch.tensor(one) for name, one in tensors.items()})
    config = {"peft_type": kind, "feedforward_modules": ["down_proj"]}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    model = base()
    with pytest.raises(ModelError, match=message):
        load_delta(tmp_path, model)
    assert model.changes == ()


FRONTS = ["tiny", "gpt2", "llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3_text", "phi3", "glm4", "olmo2", "smollm3", "mixtral", "gpt_oss"]  # fmt: skip


@torch.no_grad()
def theirs_behind(network, model, columns):
    """What is said of the text, where peft also says something of the columns in front."""
    return network(ids_of(model)).logits[:, columns:]


@pytest.mark.parametrize(
    ("name", "spec"),
    [
        *((name, spec) for name in FRONTS for spec in (PrefixSpec(length=3), PromptSpec(length=3))),
        ("qwen3", PrefixSpec(length=3, mlp=4)),
        ("gpt2", PrefixSpec(length=3, mlp=4)),
    ],
)
def test_fronts_are_written_as_peft_reads_them(name, spec, tmp_path):
    model = base(name)
    shake(attach(model, spec, seed=0), size=0.3)
    save_delta(model.changes[0], tmp_path)
    changed = logits(model)
    adapted = reads(tmp_path, base(name))
    assert_close(theirs_behind(adapted, model, 3 if spec.name == "prompt" else 0), changed)
    again = load_delta(tmp_path, base(name))
    assert_close(logits(again.model), changed)


@pytest.mark.parametrize("name", ["tiny", "qwen3", "gpt2"])
@pytest.mark.parametrize(
    ("kind", "columns", "options"),
    [
        ("PrefixTuningConfig", 0, {}),
        ("PrefixTuningConfig", 0, {"prefix_projection": True, "encoder_hidden_size": 7}),
        ("PromptTuningConfig", 3, {}),
        ("PromptEncoderConfig", 3, {"encoder_hidden_size": 7}),
    ],
    ids=["prefix", "mlp", "prompt", "p-tuning"],
)
def test_fronts_that_peft_writes(name, kind, columns, options, tmp_path):
    model = base(name)
    torch.manual_seed(0)
    config = getattr(peft, kind)(num_virtual_tokens=3, task_type="CAUSAL_LM", **options)
    adapted = peft.get_peft_model(twin_of(model), config).eval()
    adapted.save_pretrained(tmp_path)
    load_delta(tmp_path, model)
    assert_close(logits(model), theirs_behind(adapted, model, columns))


def test_the_same_text_assert_reads_what_peft_writes(tmp_path):
    """Greedily, through its cache and through our engine's."""
    model = base("qwen3")
    for number, spec in enumerate((PrefixSpec(length=3, start="random"), PromptSpec(length=4))):
        delta = shake(attach(model, spec, seed=0), size=0.5)
        save_delta(delta, tmp_path / str(number))
        adapted = reads(tmp_path / str(number), base("qwen3"))
        ids = ids_of(model, rows=1)
        wanted = adapted.generate(input_ids=ids, max_new_tokens=12, do_sample=False, eos_token_id=None, pad_token_id=0)
        written = ids
        for _ in range(12):
            written = torch.cat((written, logits(model, written)[:, -1:].argmax(-1)), dim=1)
        assert wanted[0, -12:].tolist() == written[0, -12:].tolist()
        delta.detach()
