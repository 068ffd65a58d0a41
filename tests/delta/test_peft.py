"""peft as the judge: our adapters on transformers' networks, and peft's on ours, give the same logits."""

import json
import tempfile
import warnings
from pathlib import Path

import pytest
import torch

from dunwu.core.deltas import DoraSpec, LoraSpec, PissaSpec, RsLoraSpec, VeraSpec
from dunwu.core.errors import ModelError
from dunwu.delta.places import places
from dunwu.delta.registry import attach
from dunwu.delta.storing import load_delta, save_delta
from dunwu.model.hub import save_model, write_tensors
from tests.delta.helpers import ALL, base, ids_of, logits, shake
from tests.model.helpers import transformers_twin

transformers = pytest.importorskip("transformers", reason="transformers is not installed; pip install 'dunwu[dev]'")
peft = pytest.importorskip("peft", reason="peft is not installed; pip install 'dunwu[dev]'")


@torch.no_grad()
def theirs(network, model):
    return network(ids_of(model)).logits


def twin_of(model):
    """transformers' network of the same weights; of experts through a folder, since a checkpoint has them one by one."""
    if model.config.experts is None:
        return transformers_twin(model)
    with tempfile.TemporaryDirectory() as folder:
        save_model(model, Path(folder))
        return transformers.AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()


def assert_close(one, other):
    assert (one - other).abs().max() <= 2e-5 * other.abs().max()


def reads(folder, model):
    """transformers' network of the model, with the adapter of the folder read by peft; nothing may be missing or over."""
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*(missing|unexpected) .*keys.*")
        return peft.PeftModel.from_pretrained(twin_of(model), folder)


@pytest.mark.parametrize("name", list(ALL))
def test_peft_reads_what_we_write(name, tmp_path):
    model = base(name)
    twin_says = theirs(twin_of(model), model)
    targets = ["self_attn.*"]
    if model.config.experts is None:
        targets.append("mlp.*")
    else:
        targets.append("experts.*")
    delta = shake(attach(model, LoraSpec(r=2, alpha=3, targets=tuple(targets)), seed=0))
    save_delta(delta, tmp_path)
    said = logits(model)
    assert not torch.allclose(said, twin_says, atol=1e-2 * float(said.abs().max()))
    assert_close(theirs(reads(tmp_path, base(name)), model), said)
    again = load_delta(tmp_path, base(name))
    assert_close(logits(again.model), said)


@pytest.mark.parametrize("name", list(ALL))
def test_we_read_what_peft_writes(name, tmp_path):
    model = base(name)
    network = twin_of(model)
    linear = {
        module.rpartition(".")[2]
        for module, found in network.named_modules()
        if type(found).__name__ in ("Linear", "Conv1D")
    }
    linear = sorted(
        last
        for last in linear
        if last not in ("lm_head", "gate_proj", "up_proj", "down_proj", "gate", "router", "shared_expert_gate")
    )
    experts = [n for n, _ in network.named_parameters() if n.endswith(("experts.gate_up_proj", "experts.down_proj"))]
    config = peft.LoraConfig(
        r=3, lora_alpha=5, target_modules=linear, target_parameters=experts or None, task_type="CAUSAL_LM",
        rank_pattern={linear[0]: 2}, use_rslora=name in ("llama", "phi3"), init_lora_weights=False,
        fan_in_fan_out=name == "gpt2",
    )  # fmt: skip
    torch.manual_seed(0)
    adapted = peft.get_peft_model(network, config).eval()
    adapted.save_pretrained(tmp_path)
    delta = load_delta(tmp_path, model)
    assert_close(logits(model), theirs(adapted, model))
    save_delta(delta, tmp_path / "ours")  # what was fused there is written fused again, with the rank that it had
    ours, own = (json.loads((tmp_path / at / "adapter_config.json").read_text()) for at in ("ours", "."))
    assert_close(theirs(reads(tmp_path / "ours", base(name)), model), logits(model))
    assert ours["r"] == own["r"]
    size = (tmp_path / "adapter_model.safetensors").stat().st_size
    assert (tmp_path / "ours" / "adapter_model.safetensors").stat().st_size < 1.2 * size + 2000


def test_the_scale_of_rank_stabilised_ones(tmp_path):
    model = base()
    delta = shake(attach(model, RsLoraSpec(r=4, alpha=8, targets=("q_proj",)), seed=0))
    save_delta(delta, tmp_path)
    assert_close(theirs(reads(tmp_path, base()), model), logits(model))
    assert json.loads((tmp_path / "adapter_config.json").read_text())["use_rslora"] is True


def test_one_of_a_fused_matrix(tmp_path):
    """Phi's queries alone: their matrix holds queries, keys and values."""
    model = base("phi3")
    delta = shake(attach(model, LoraSpec(r=2, targets=("q_proj", "up_proj")), seed=0))
    save_delta(delta, tmp_path)
    assert_close(theirs(reads(tmp_path, base("phi3")), model), logits(model))


def test_experts_named_one_by_one(tmp_path):
    """As adapters for transformers 4 have them; those that are not there stay as they are."""
    model = base("mixtral")
    place = places(model)["model.layers.1.mlp.experts.down_proj"]
    a, b = torch.randn(2, place.inputs), torch.randn(place.outputs, 2)
    before = place.read()
    at = "base_model.model.model.layers.1.block_sparse_moe.experts.2.w2"
    write_tensors(tmp_path / "adapter_model.safetensors", {f"{at}.lora_A.weight": a, f"{at}.lora_B.weight": b})
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["w2"]}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    load_delta(tmp_path, model).merge()
    wanted = before.clone()
    wanted[2] += 2.0 * b @ a
    assert torch.allclose(place.read(), wanted, atol=1e-6)


def saved(folder, model=None, **changes):
    """An adapter on disk, its configuration changed."""
    save_delta(shake(attach(model or base(), LoraSpec(r=2, targets=("q_proj",)), seed=0)), folder)
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return folder


def test_adapters_of_another_base(tmp_path):
    saved(tmp_path)
    with pytest.raises(ModelError, match="trained on another base: norms, embedding differ"):
        load_delta(tmp_path, base(seed=7))
    assert load_delta(tmp_path, base(seed=7), any_base=True).count == 2 * 2 * (24 + 24)
    with pytest.raises(ModelError, match="trained on another base: shape"):
        load_delta(tmp_path, base("qwen3"))
    with pytest.raises(ModelError, match="belongs to another base"):
        load_delta(tmp_path, base("qwen3"), any_base=True)
    with pytest.raises(ModelError, match=r"changes model.layers.0.self_attn.q_proj, which this model does not have"):
        load_delta(tmp_path, base("phi3"), any_base=True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"peft_type": "LOHA"}, "peft_type='LOHA', which dunwu does not read"),
        ({"bias": "all"}, "bias='all', which dunwu does not have"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"r": 5}, "rank 2 for .* says 5"),
        ({"r": "many"}, "a value that cannot be read"),
    ],
)
def test_configurations_that_are_not_ours(changes, message, tmp_path):
    saved(tmp_path, **changes)
    model = base()
    with pytest.raises(ModelError, match=message):
        load_delta(tmp_path, model)
    assert model.changes == ()


def test_damaged_files(tmp_path):
    with pytest.raises(ModelError, match="holds no adapter"):
        load_delta(tmp_path, base())
    saved(tmp_path)
    weights = tmp_path / "adapter_model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-10])
    with pytest.raises(ModelError):
        load_delta(tmp_path, base())
    weights.unlink()
    (tmp_path / "adapter_model.bin").write_bytes(b"x")
    with pytest.raises(ModelError, match="pickle, which dunwu never loads"):
        load_delta(tmp_path, base())


@pytest.mark.parametrize("name", ["llama", "gpt2", "phi3", "deepseek_v2"])
def test_dora_both_ways(name, tmp_path):
    model = base(name)
    delta = shake(attach(model, DoraSpec(r=2, alpha=3, targets=("self_attn.*",)), seed=0))
    save_delta(delta, tmp_path)
    adapted = reads(tmp_path, base(name))
    assert_close(theirs(adapted, model), logits(model))
    adapted.save_pretrained(tmp_path / "theirs")
    assert_close(logits(load_delta(tmp_path / "theirs", base(name)).model), logits(model))
    one_of = shake(attach(base(name), DoraSpec(r=2, targets=("o_proj",) if name != "phi3" else ("k_proj",)), seed=0))
    save_delta(one_of, tmp_path / "one")
    assert_close(theirs(reads(tmp_path / "one", base(name)), model), logits(one_of.model))


@pytest.mark.parametrize("name", ["llama", "gemma2", "deepseek_v3"])
def test_vera_both_ways(name, tmp_path):
    model = base(name)
    delta = shake(attach(model, VeraSpec(r=6, targets=("self_attn.*",)), seed=0), size=1.0)
    save_delta(delta, tmp_path)
    assert_close(theirs(reads(tmp_path, base(name)), model), logits(model))
    network = peft.get_peft_model(
        twin_of(base(name)), peft.VeraConfig(r=5, target_modules=["o_proj", "kv_b_proj", "q_proj"], init_weights=False)
    )
    network.eval().save_pretrained(tmp_path / "theirs")
    assert_close(logits(load_delta(tmp_path / "theirs", base(name)).model), theirs(network, model))


def test_vera_of_fused_matrices_is_kept_in_our_own_form(tmp_path):
    model = base("phi3")
    delta = shake(attach(model, VeraSpec(r=6, targets=("q_proj",)), seed=0), size=1.0)
    save_delta(delta, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"delta.json", "delta.safetensors"}
    assert torch.equal(logits(load_delta(tmp_path, base("phi3")).model), logits(model))
    config = {"peft_type": "VERA", "r": 2}
    at = "base_model.model.model.layers.0.self_attn.qkv_proj.vera_lambda_"
    fused = {"base_model.vera_A": torch.ones(2, 32), "base_model.vera_B": torch.ones(64, 2)}
    fused |= {f"{at}b": torch.ones(64), f"{at}d": torch.ones(2)}
    folder = tmp_path / "fused"
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps(config))
    write_tensors(folder / "adapter_model.safetensors", fused)
    with pytest.raises(ModelError, match="holds 3 matrices of ours: vera has no form for that"):
        load_delta(folder, base("phi3"))


def test_pissa_is_read_as_lora(tmp_path):
    model = base("phi3")
    delta = shake(attach(model, PissaSpec(r=2, targets=("self_attn.*",)), seed=0))
    save_delta(delta, tmp_path)
    assert_close(theirs(reads(tmp_path, base("phi3")), model), logits(model))
