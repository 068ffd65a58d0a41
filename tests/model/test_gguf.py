"""A model to GGUF and back: nothing changes on the way, and llama.cpp computes the same."""

import json

import numpy as np
import pytest
import torch

from dunwu.core.errors import MissingExtraError, ModelError, TokenizerError
from dunwu.model.config import DecoderConfig
from dunwu.model.gguf import WRITTEN, export_gguf, import_gguf
from dunwu.model.gguf.container import Container, TensorEntry, Value, write_container
from dunwu.model.gguf.exporting import _safe_name
from dunwu.model.hub import load_model, save_model
from dunwu.tokenizer.bpe import Tokenizer, train_tokenizer
from dunwu.tokenizer.pattern import PATTERN
from tests.model.helpers import lively

RULES, NAMES = {PATTERN: "qwen35"}, {"qwen35": PATTERN}
LLAMA = {
    "architecture": "llama",
    "tie_word_embeddings": False,
    "attention_bias": True,
    "attention_output_bias": True,
    "mlp_bias": True,
}
QWEN3 = {
    "architecture": "qwen3",
    "tie_word_embeddings": True,
    "qk_norm": "head",
    "rope_theta": 1e6,
    "rms_norm_eps": 1e-5,
}
KNOBS = {"llama": LLAMA, "qwen3": QWEN3}


def make_model(folder, **knobs):
    """A folder with a lively little model whose vocabulary is padded, as vocabularies often are."""
    tokenizer = train_tokenizer(["The quick brown fox. 猫坐着。" * 3], vocab_size=300, out=folder)
    sizes = {
        "vocab_size": tokenizer.vocab_size + 5, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 256, "eos_token_id": 0, "pad_token_id": 0,
    }  # fmt: skip
    model = lively(DecoderConfig(**{**sizes, **knobs}))
    save_model(model, folder)
    return model


@pytest.fixture(scope="module", params=KNOBS)
def home(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    return folder, make_model(folder, **KNOBS[request.param])


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plain")
    make_model(folder, architecture="llama", tie_word_embeddings=False)
    return folder


@torch.no_grad()
def logits_of(model, ids=None):
    ids = torch.arange(7, 47)[None] if ids is None else ids
    return model.logits(model(ids))[0]


def test_float32_comes_back_bit_for_bit(home, tmp_path):
    folder, model = home
    export_gguf(folder, tmp_path / "x.gguf", dtype="f32", rules=RULES)
    import_gguf(tmp_path / "x.gguf", tmp_path / "back", rules=NAMES)
    back = load_model(tmp_path / "back")
    assert back.config == model.config
    state = back.state_dict()
    for name, tensor in model.state_dict().items():
        assert torch.equal(state[name], tensor), name


# The largest error of a weight as a share of the largest weight of its block: half a step of the type, and a little for
# the float16 scale.
STEP = {
    "F32": 0.0,
    "F16": 2**-11,
    "BF16": 2**-8,
    "Q8_0": 1 / 220,
    "Q5_1": 1 / 29,
    "Q5_0": 1 / 15,
    "Q4_1": 1 / 14,
    "Q4_0": 1 / 7.5,
}


@pytest.mark.parametrize("dtype", WRITTEN)
def test_each_type_comes_back_within_its_step(llama, tmp_path, dtype):
    if dtype.startswith("Q"):
        pytest.importorskip("gguf")
    exported = export_gguf(llama, tmp_path / "x.gguf", dtype=dtype.lower(), rules=RULES)
    assert exported.size == (tmp_path / "x.gguf").stat().st_size
    import_gguf(tmp_path / "x.gguf", tmp_path / "back", rules=NAMES)
    before, after = load_model(llama).state_dict(), load_model(tmp_path / "back", dtype=torch.float32).state_dict()
    for name, tensor in before.items():
        error = (after[name] - tensor).abs().max()
        if tensor.ndim == 1:
            assert error == 0, name
        else:
            assert error <= STEP[dtype] * tensor.abs().max(), name
    assert any(not torch.equal(after[name], before[name]) for name in before) == (dtype != "F32")


def test_the_reference_package_reads_the_same_weights(llama, tmp_path):
    gguf = pytest.importorskip("gguf")
    export_gguf(llama, tmp_path / "x.gguf", dtype="q8_0", rules=RULES)
    reader = gguf.GGUFReader(tmp_path / "x.gguf")
    state = load_model(llama).state_dict()
    found = {tensor.name: tensor for tensor in reader.tensors}
    down = found["blk.1.ffn_down.weight"]
    values = gguf.quants.dequantize(down.data, down.tensor_type)
    assert np.abs(values - state["model.layers.1.mlp.down_proj.weight"].numpy()).max() < 0.01
    assert found["blk.0.attn_norm.weight"].tensor_type.name == "F32"
    assert reader.get_field("tokenizer.ggml.pre").contents() == "qwen35"


def test_rows_that_blocks_do_not_divide_go_to_float16(tmp_path):
    pytest.importorskip("gguf")
    make_model(tmp_path / "m", architecture="llama", intermediate_size=40, tie_word_embeddings=True)
    exported = export_gguf(tmp_path / "m", tmp_path / "x.gguf", dtype="q8_0", rules=RULES)
    assert exported.numbers["F16"] == 2 * 40 * 64  # the two down projections
    assert set(exported.numbers) == {"F32", "F16", "Q8_0"}


def test_a_model_in_bfloat16_stays_so_and_loses_nothing(tmp_path):
    model = make_model(tmp_path / "m", architecture="llama", tie_word_embeddings=True).bfloat16()
    save_model(model, tmp_path / "m")
    export_gguf(tmp_path / "m", tmp_path / "x.gguf", dtype="bf16", rules=RULES)
    import_gguf(tmp_path / "x.gguf", tmp_path / "back", rules=NAMES)
    back = load_model(tmp_path / "back")
    assert back.model.norm.weight.dtype == torch.bfloat16
    assert all(torch.equal(tensor, back.state_dict()[name]) for name, tensor in model.state_dict().items())


def test_the_tokenizer_comes_back_with_the_same_ids(llama, tmp_path):
    export_gguf(llama, tmp_path / "x.gguf", dtype="f16", rules=RULES)
    import_gguf(tmp_path / "x.gguf", tmp_path / "back", rules=NAMES)
    ours, back = Tokenizer.load(llama), Tokenizer.load(tmp_path / "back")
    text = "The quick 猫 123 fox's\n\n  <|im_end|> 🙂"
    assert back.encode(text) == ours.encode(text)
    assert back.special_ids == ours.special_ids
    config = json.loads((tmp_path / "back" / "tokenizer_config.json").read_text())
    assert config["eos_token"] == "<|endoftext|>"
    assert "endgeneration" not in config["chat_template"]
    assert "<|im_start|>" in config["chat_template"]


def test_an_unknown_cutting_rule_is_refused(llama, tmp_path):
    with pytest.raises(TokenizerError, match=r"none of the rules that llama\.cpp knows"):
        export_gguf(llama, tmp_path / "x.gguf")
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_type_is_refused_with_the_list(llama, tmp_path):
    with pytest.raises(ModelError, match=r"'q7_x'.*f32, f16.*q4_k_m"):
        export_gguf(llama, tmp_path / "x.gguf", dtype="q7_x", rules=RULES)


def test_a_k_quant_is_made_and_read(tmp_path):
    pytest.importorskip("llama_cpp")
    pytest.importorskip("gguf")
    make_model(tmp_path / "m", architecture="llama", tie_word_embeddings=True, hidden_size=256, intermediate_size=256)
    exported = export_gguf(tmp_path / "m", tmp_path / "x.gguf", dtype="q4_k_m", rules=RULES)
    assert exported.numbers["Q4_K"] > exported.numbers["Q6_K"] > 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m", "x.gguf"]
    import_gguf(tmp_path / "x.gguf", tmp_path / "back", rules=NAMES)
    before, after = load_model(tmp_path / "m").state_dict(), load_model(tmp_path / "back").state_dict()
    name = "model.layers.0.mlp.gate_proj.weight"
    assert 0 < (after[name] - before[name]).std() < 0.1 * before[name].std()


@pytest.mark.parametrize("name", ["my-Phi3-model", "phi-3-mini", "plain"])
def test_a_name_does_not_make_llama_cpp_look_for_tokens_that_are_not_there(llama, tmp_path, name):
    export_gguf(llama, tmp_path / "x.gguf", dtype="f32", rules=RULES, name=name)
    told = Container(tmp_path / "x.gguf").metadata["general.name"]
    assert ("phi3" in told.lower() or "phi-3" in told.lower()) is False
    assert told.replace("_3", "3") == name.replace("-3", "3")
    llama_cpp = pytest.importorskip("llama_cpp")
    llama_cpp.Llama(str(tmp_path / "x.gguf"), vocab_only=True, verbose=False).close()


def test_the_name_of_a_model_with_phi_3s_tokens_stays():
    assert _safe_name("Phi-3", ["<s>", "</s>", "<unk>", "<|endoftext|>", "x"]) == "Phi-3"


def test_a_k_quant_without_llama_cpp_says_what_to_install(llama, tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"pip install 'dunwu\[llamacpp\]'"):
        export_gguf(llama, tmp_path / "x.gguf", dtype="q4_k_m", rules=RULES)


def test_weights_that_the_type_cannot_hold_are_refused(tmp_path):
    model = make_model(tmp_path / "m", architecture="llama", tie_word_embeddings=True)
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight[0, 0] = 1e5
    save_model(model, tmp_path / "m")
    with pytest.raises(ModelError, match=r"blk.1.ffn_down.weight: a weight is too large for F16; take bf16"):
        export_gguf(tmp_path / "m", tmp_path / "x.gguf", dtype="f16", rules=RULES)
    assert not (tmp_path / "x.gguf").exists()


def _rewrite(path, out, *, metadata=None, drop=(), shapes=None, spoil=None):
    """The file with some of it changed."""
    file = Container(path)
    kinds = {str: "str", bool: "bool", int: "u32", float: "f32"}
    plain = {**file.metadata, **(metadata or {})}
    values = {
        key: Value(kinds[type(value[0] if isinstance(value, list) else value)], value)
        for key, value in plain.items()
        if value is not None and value != []
    }
    entries = [
        TensorEntry(name, (shapes or {}).get(name, entry.shape), entry.type)
        for name, entry in file.tensors.items()
        if name not in drop
    ]

    def data(entry):
        values = np.array(file.data(entry.name))
        if entry.name == spoil:
            values.reshape(-1).view(np.uint32)[3] = 0x7FC00000  # not a number
        return [values]

    write_container(out, values, entries, data)


SPOILT = {
    "another architecture": ({"metadata": {"general.architecture": "qwen33"}}, "nearest 'qwen3'"),
    "no architecture": ({"metadata": {"general.architecture": None}}, "architecture None"),
    "no layers": ({"metadata": {"llama.block_count": None}}, "llama.block_count is None"),
    "layers as text": ({"metadata": {"llama.block_count": "two"}}, "'two'; it must be a whole number"),
    "more layers than tensors": ({"metadata": {"llama.block_count": 3}}, "lacks the tensor blk.2.attn_q.weight"),
    "fewer layers than tensors": ({"metadata": {"llama.block_count": 1}}, "has the tensor blk.1."),
    "a missing tensor": ({"drop": ("blk.1.ffn_up.weight",)}, "lacks the tensor blk.1.ffn_up.weight"),
    "another shape": ({"shapes": {"blk.0.ffn_up.weight": (64, 96)}}, r"shape \(64, 96\), its header says \(96, 64\)"),
    "not a number": ({"spoil": "blk.0.ffn_up.weight"}, "blk.0.ffn_up.weight .* not finite"),
    "a part of a file": ({"metadata": {"split.count": 3}}, "one of 3 parts"),
    "no tokens": ({"metadata": {"tokenizer.ggml.tokens": None}}, "carries no tokenizer"),
}  # fmt: skip


@pytest.mark.parametrize(("change", "message"), SPOILT.values(), ids=SPOILT)
def test_a_file_that_contradicts_itself_is_refused(llama, tmp_path, change, message):
    export_gguf(llama, tmp_path / "x.gguf", dtype="f32", rules=RULES)
    _rewrite(tmp_path / "x.gguf", tmp_path / "bad.gguf", **change)
    with pytest.raises(ModelError, match=message):
        import_gguf(tmp_path / "bad.gguf", tmp_path / "back", rules=NAMES)
    assert not (tmp_path / "back" / "config.json").exists()


def test_a_tokenizer_of_another_kind_is_refused(llama, tmp_path):
    export_gguf(llama, tmp_path / "x.gguf", dtype="f32", rules=RULES)
    _rewrite(tmp_path / "x.gguf", tmp_path / "bad.gguf", metadata={"tokenizer.ggml.model": "rwkv"})
    with pytest.raises(TokenizerError, match="'rwkv'"):
        import_gguf(tmp_path / "bad.gguf", tmp_path / "back", rules=NAMES)
