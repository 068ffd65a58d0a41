"""Models written by us are read by transformers, and the other way round; damage is noticed."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import transformers

from dunwu.core.errors import ModelError
from dunwu.model.config import DecoderConfig
from dunwu.model.families import config_to_hf
from dunwu.model.hub import load_config, load_model, read_tensors, save_model, write_tensors

from .helpers import TINY, lively, transformers_twin

QWEN = replace(
    TINY,
    architecture="qwen3",
    qk_norm="head",
    tie_word_embeddings=True,
    num_key_value_heads=2,
    eos_token_id=(0, 2),
    bos_token_id=0,
)


@pytest.mark.parametrize("config", [TINY, QWEN], ids=["llama", "qwen3"])
def test_transformers_reads_what_we_write(config: DecoderConfig, tmp_path: Path) -> None:
    model = lively(config)
    save_model(model, tmp_path)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    ids_BT = torch.arange(20)[None]
    torch.testing.assert_close(theirs(ids_BT).logits, model.logits(model(ids_BT)), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("config", [TINY, QWEN], ids=["llama", "qwen3"])
@pytest.mark.parametrize("shard", ["10GB", "10KB"])
def test_we_read_what_transformers_writes(config: DecoderConfig, shard: str, tmp_path: Path) -> None:
    model = lively(config)
    transformers_twin(model).save_pretrained(tmp_path, max_shard_size=shard)
    again = load_model(tmp_path)
    assert again.config == config
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name


def test_our_own_round_trip_is_exact_in_bfloat16_too(tmp_path: Path) -> None:
    model = lively(QWEN).to(torch.bfloat16)
    save_model(model, tmp_path)
    again = load_model(tmp_path)
    assert again.config == QWEN
    for name, tensor in model.state_dict().items():
        assert again.state_dict()[name].dtype == torch.bfloat16
        assert torch.equal(tensor, again.state_dict()[name]), name
    assert next(load_model(tmp_path, dtype=torch.float32).parameters()).dtype == torch.float32


def test_tensors_of_every_kind_round_trip(tmp_path: Path) -> None:
    tensors = {
        "scalar": torch.tensor(3.5),
        "empty": torch.zeros(0, 3),
        "turned": torch.arange(6.0).reshape(2, 3).T,
        "flags": torch.tensor([True, False]),
        "long": torch.tensor([2**40]),
        "half": torch.tensor([1.5], dtype=torch.float16),
    }
    write_tensors(tmp_path / "t.safetensors", tensors)
    again = read_tensors(tmp_path / "t.safetensors")
    for name, tensor in tensors.items():
        assert again[name].dtype == tensor.dtype
        assert torch.equal(again[name], tensor), name


def test_damage_is_named(tmp_path: Path) -> None:
    save_model(lively(TINY), tmp_path)
    weights = tmp_path / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-50])
    with pytest.raises(ModelError, match=r"model\.safetensors cannot be read"):
        load_model(tmp_path)
    weights.unlink()
    with pytest.raises(ModelError, match="does not exist"):
        load_model(tmp_path)
    weights.write_bytes(whole)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"intermediate_size": 41}))
    with pytest.raises(ModelError, match=r"shape .* its config.json says"):
        load_model(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 3}))
    with pytest.raises(ModelError, match=r"missing \['model.layers.2"):
        load_model(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "lama"}, "nearest .llama."),
        ({"hidden_act": "gelu"}, "hidden_act='gelu'"),
        ({"rope_parameters": {"rope_type": "mrope", "rope_theta": 1.0}}, "mrope"),
        ({"num_key_value_heads": 3}, r"num_attention_heads=4 is not divisible by .*=3; use one of \[1, 2, 4\]"),
        ({"head_dim": 5}, "head_dim=5 is odd"),
        ({"vocab_size": 0}, "vocab_size=0"),
    ],
)
def test_what_we_do_not_have_is_refused(change: dict[str, object], message: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config_to_hf(TINY) | change))
    with pytest.raises(ModelError, match=message):
        load_config(tmp_path)
