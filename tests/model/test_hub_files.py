"""Folders that are incomplete, damaged or hostile: each is refused with what is wrong, and nothing of it is run."""

import json
import math
import os
import struct
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError, safe_open

from dunwu.core.errors import ModelError
from dunwu.core.files import read_json, write_json
from dunwu.model.families import config_from_hf
from dunwu.model.folder import file_of, weight_files
from dunwu.model.hub import all_finite, load_config, load_model, read_tensors, save_model, write_tensors
from dunwu.model.safetensors_file import SafetensorsFile

from .helpers import TINY, lively


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    save_model(lively(TINY), tmp_path, shard_bytes=9_000)
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 2
    return tmp_path


@pytest.fixture
def single(tmp_path: Path) -> Path:
    save_model(lively(TINY), tmp_path)
    return tmp_path


def change(folder: Path, name: str, **values: Any) -> None:
    """Change keys of a JSON file."""
    write_json(folder / name, read_json(folder / name) | values)


def rewrite(folder: Path, **tensors: torch.Tensor) -> None:
    """Change tensors of the weights, `.` written `__`."""
    path = folder / "model.safetensors"
    held = safetensors.torch.load(path.read_bytes())
    write_tensors(path, held | {name.replace("__", "."): tensor for name, tensor in tensors.items()})


def write_header(path: Path, header: dict[str, Any] | bytes, data: bytes = b"", *, length: int | None = None) -> None:
    """A safetensors file with any header."""
    encoded = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(encoded) if length is None else length) + encoded + data)


def test_a_missing_shard_is_named_with_what_it_holds(sharded: Path) -> None:
    shard = sorted(sharded.glob("model-*.safetensors"))[1]
    shard.unlink()
    with pytest.raises(ModelError, match=rf"{shard.name} is missing, and .* puts \d+ tensors there; fetch it again"):
        load_model(sharded)


@pytest.mark.parametrize("name", ["../outside.safetensors", "/etc/passwd", "a/b.safetensors", "..", "c\\d", ""])
def test_an_index_cannot_name_files_elsewhere(sharded: Path, name: str) -> None:
    places = read_json(sharded / "model.safetensors.index.json")["weight_map"]
    change(sharded, "model.safetensors.index.json", weight_map=dict.fromkeys(places, name))
    with pytest.raises(ModelError, match="lie in its folder itself"):
        load_model(sharded)


@pytest.mark.parametrize("weight_map", [None, [], {}, {"model.norm.weight": 3}])
def test_an_index_without_a_map_is_refused(sharded: Path, weight_map: object) -> None:
    change(sharded, "model.safetensors.index.json", weight_map=weight_map)
    with pytest.raises(ModelError, match="no weight_map"):
        load_model(sharded)


def test_an_index_that_names_the_wrong_shard_is_refused(sharded: Path) -> None:
    places = read_json(sharded / "model.safetensors.index.json")["weight_map"]
    other = next(file for file in places.values() if file != places["model.norm.weight"])
    change(sharded, "model.safetensors.index.json", weight_map=places | {"model.norm.weight": other})
    with pytest.raises(ModelError, match=rf"{other} lacks 'model.norm.weight'"):
        load_model(sharded)


def test_wrong_shape_and_wrong_dtype_are_named(single: Path) -> None:
    rewrite(single, model__norm__weight=torch.ones(25))
    with pytest.raises(ModelError, match=r"model.norm.weight .* shape \(25,\), its config.json says \(24,\)"):
        load_model(single)
    rewrite(single, model__norm__weight=torch.ones(24, dtype=torch.int8))
    with pytest.raises(ModelError, match=r"model.norm.weight .* is int8, and weights are one of .*not quantised"):
        load_model(single)


def test_quantised_weights_are_called_so(single: Path) -> None:
    rewrite(single, model__layers__0__mlp__up_proj__weight_scale_inv=torch.ones(1))
    with pytest.raises(ModelError, match=r"unknown .*weight_scale_inv.*look quantised"):
        load_model(single)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_weight_that_is_no_number_is_refused(single: Path, value: float, dtype: torch.dtype) -> None:
    bad = torch.ones(24, dtype=dtype)
    bad[[3, 7]] = value
    rewrite(single, model__norm__weight=bad)
    with pytest.raises(ModelError, match=r"model.norm.weight in .* has 2 values that are NaN or infinite, of 24"):
        load_model(single)


def test_large_weights_whose_sum_overflows_are_finite() -> None:
    assert all_finite(torch.full((1000,), 3e38))
    assert all_finite(torch.full((1000,), 3e38, dtype=torch.bfloat16))
    assert all_finite(torch.full((100_000,), 6e4, dtype=torch.float16))
    assert not all_finite(torch.tensor([3e38, 3e38, math.inf, -math.inf]))


def test_buffers_of_old_checkpoints_are_not_read(single: Path) -> None:
    rewrite(single, model__layers__0__self_attn__rotary_emb__inv_freq=torch.tensor([math.inf]))
    assert load_model(single).config == TINY


def test_a_config_that_contradicts_the_weights_is_refused(single: Path) -> None:
    change(single, "config.json", tie_word_embeddings=False, vocab_size=62)
    with pytest.raises(ModelError, match=r"embed_tokens.weight .* shape \(61, 24\), its config.json says \(62, 24\)"):
        load_model(single)
    change(single, "config.json", vocab_size=61, num_hidden_layers=1)
    with pytest.raises(ModelError, match=r"unknown \['model.layers.1.* \(0 and 9 in all\)"):
        load_model(single)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"model_type": "qwen33"}, "model_type='qwen33', which dunwu does not read, nearest 'qwen3'"),
        ({"model_type": None}, "model_type=None"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers=1000000000 is more than"),
        ({"hidden_size": "wide"}, "has a value that cannot be read .*wide"),
        ({"num_attention_heads": 0}, "cannot be read|must be at least 1"),
        ({"vocab_size": None}, "lacks vocab_size"),
        ({"rope_parameters": 7}, "cannot be read"),
    ],
)
def test_an_impossible_config_is_refused(single: Path, values: dict[str, Any], message: str) -> None:
    change(single, "config.json", **values)
    with pytest.raises(ModelError, match=message) as caught:
        load_config(single)
    assert "config.json" in str(caught.value)


@pytest.mark.parametrize("text", ["[]", "{", '"llama"', "\xff", "[" * 100_000])
def test_a_config_that_is_no_object_is_refused(single: Path, text: str) -> None:
    (single / "config.json").write_text(text, "latin-1")
    with pytest.raises(ModelError, match=r"config\.json"):
        load_config(single)


@pytest.mark.parametrize("kept", [0, 7, 8, 100, -1])
def test_a_truncated_file_is_refused(single: Path, kept: int) -> None:
    path = single / "model.safetensors"
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ModelError, match=r"model\.safetensors cannot be read as safetensors: .* cut short"):
        load_model(single)


def test_a_header_that_claims_terabytes_costs_nothing(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    write_header(path, {}, length=1 << 42)
    with pytest.raises(ModelError, match="header claims 4398046511104 bytes"):
        read_tensors(path)
    size = 4 * 10**12
    write_header(path, {"w": {"dtype": "F32", "shape": [10**12], "data_offsets": [0, size]}}, b"\0" * 64)
    with pytest.raises(ModelError, match=r"'w' would end at byte 4\d{12}, and the file has"):
        read_tensors(path)
    write_header(path, {"w": {"dtype": "F32", "shape": [2**62, 2**62], "data_offsets": [0, 16]}}, b"\0" * 16)
    with pytest.raises(ModelError, match="data_offsets are"):
        read_tensors(path)


def entry(start: int, end: int) -> dict[str, Any]:
    """A tensor of bytes."""
    return {"dtype": "U8", "shape": [end - start], "data_offsets": [start, end]}


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ({"a": entry(0, 8), "b": entry(4, 12)}, "'b' overlaps"),
        ({"a": entry(0, 4), "b": entry(8, 16)}, "'b' leaves a gap"),
        ({"a": entry(0, 8)}, "tensors end at byte"),
        ({"a": entry(-8, 8)}, "data_offsets are"),
        ({"a": entry(0, 20)}, "would end at byte"),
        ({"a": {"dtype": "U8", "shape": [16]}}, "not described"),
        ({"a": {"dtype": "U8", "shape": [-16, -1], "data_offsets": [0, 16]}}, "whole numbers from 0"),
        ({"a": {"dtype": "Q7", "shape": [16], "data_offsets": [0, 16]}}, "dtype 'Q7'"),
        ({"a": {"dtype": "U8", "shape": [15], "data_offsets": [0, 16]}}, "takes 15 bytes"),
        (b"[]", "not an object"),
        (b"{", "not JSON"),
        (b'{"a": {}, "a": {}}', "twice"),
    ],
)
def test_impossible_headers_are_refused(header: dict[str, Any] | bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    write_header(path, header, b"\0" * 16)
    with pytest.raises(ModelError, match=message):
        read_tensors(path)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_what_the_official_reader_refuses_we_refuse(tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "t.safetensors"
    tensors = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.arange(4, dtype=torch.int16)}
    write_tensors(path, tensors)
    raw = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(raw[: data.draw(st.integers(0, len(raw)))] if data.draw(st.booleans()) else raw)
    try:
        with safe_open(path, framework="pt") as file:
            official = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dictionary
    except (SafetensorError, OSError, UnicodeDecodeError):
        with pytest.raises(ModelError):
            read_tensors(path)
        return
    try:
        ours = read_tensors(path)
    except ModelError:
        return  # stricter is fine
    assert {name: tensor.shape for name, tensor in ours.items()} == {n: t.shape for n, t in official.items()}
    assert all(ours[name].view(torch.uint8).equal(official[name].view(torch.uint8)) for name in ours)


def test_weights_at_odd_places_are_read(tmp_path: Path) -> None:
    path = tmp_path / "t.safetensors"
    header = {
        "flags": {"dtype": "U8", "shape": [3], "data_offsets": [0, 3]},
        "wide": {"dtype": "F32", "shape": [2], "data_offsets": [3, 11]},
    }
    encoded = json.dumps(header).encode()
    write_header(path, encoded + b" " * (-len(encoded) % 8), bytes([1, 2, 3]) + struct.pack("<2f", 1.5, -2.5))
    assert read_tensors(path)["wide"].tolist() == [1.5, -2.5]


def test_a_link_out_of_the_folder_is_not_followed(single: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    outside = tmp_path_factory.mktemp("outside") / "model.safetensors"
    (single / "model.safetensors").rename(outside)
    (single / "model.safetensors").symlink_to(outside)
    with pytest.raises(ModelError, match=r"is a link to .*outside the model's folder; dunwu does not follow it"):
        load_model(single)
    (single / "model.safetensors").unlink()
    os.mkfifo(single / "model.safetensors")
    with pytest.raises(ModelError, match="is not a file"):
        load_model(single)


def test_a_folder_reached_through_a_link_is_read(single: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    link = tmp_path_factory.mktemp("link") / "model"
    link.symlink_to(single)
    assert load_model(link).config == TINY


def test_links_of_a_hub_cache_are_followed_inside_their_own_repository(tmp_path: Path) -> None:
    repository = tmp_path / "models--someone--tiny"
    snapshot = repository / "snapshots" / "0123abc"
    save_model(lively(TINY), snapshot)
    (repository / "blobs").mkdir()
    for file in list(snapshot.iterdir()):
        file.rename(repository / "blobs" / f"sum-of-{file.name}")
        file.symlink_to(Path("../../blobs") / f"sum-of-{file.name}")
    assert load_model(snapshot).config == TINY
    shared = tmp_path / "blobs" / "ab" / ("ab" * 32)
    shared.parent.mkdir(parents=True)
    (repository / "blobs" / "sum-of-model.safetensors").rename(shared)
    (repository / "blobs" / "sum-of-model.safetensors").symlink_to(Path("../../blobs/ab") / shared.name)
    assert load_model(snapshot).config == TINY
    other = tmp_path / "models--other--tiny" / "blobs"
    other.mkdir(parents=True)
    (repository / "blobs" / "sum-of-config.json").rename(other / "sum-of-config.json")
    (snapshot / "config.json").unlink()
    (snapshot / "config.json").symlink_to(other / "sum-of-config.json")
    with pytest.raises(ModelError, match="outside the model's folder"):
        file_of(snapshot, "config.json")


@pytest.mark.parametrize("name", ["pytorch_model.bin", "pytorch_model-00001-of-00002.bin", "consolidated.00.pth"])
def test_pickles_are_never_read(single: Path, name: str) -> None:
    (single / "model.safetensors").rename(single / name)
    with pytest.raises(ModelError, match=r"a pickle: reading one can run any code.*safetensors"):
        load_model(single)


def test_a_folder_without_weights_says_so(single: Path) -> None:
    (single / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"model.safetensors does not exist, nor model.safetensors.index.json"):
        weight_files(single)
    (single / "config.json").unlink()
    with pytest.raises(ModelError, match=r"config.json does not exist; give the folder of a model"):
        load_model(single)


@pytest.mark.parametrize(
    "values",
    [
        {"model_type": "novel", "auto_map": {"AutoModelForCausalLM": "modeling_novel.NovelForCausalLM"}},
        {"auto_map": {"AutoModelForCausalLM": "modeling_evil.EvilForCausalLM"}},
        {"auto_map": {"AutoConfig": "x.LlamaConfig", "AutoModel": "other/repo--modeling.Evil"}},
        {"auto_map": "modeling_evil.Evil"},
    ],
)
def test_code_that_comes_with_a_model_is_refused(single: Path, values: dict[str, Any]) -> None:
    (single / "modeling_evil.py").write_text("raise SystemExit('it ran')")
    change(single, "config.json", **values)
    with pytest.raises(ModelError, match=r"auto_map for .* dunwu never runs such code"):
        load_model(single)


def test_code_that_shadows_an_architecture_of_ours_is_passed_over(single: Path) -> None:
    named = {"AutoConfig": "configuration.LlamaConfig", "AutoModelForCausalLM": "modeling.LlamaForCausalLM"}
    (single / "modeling.py").write_text("raise SystemExit('it ran')")
    change(single, "config.json", auto_map=named)
    assert load_model(single).config == TINY


def test_a_tokenizer_that_is_code_is_refused(single: Path) -> None:
    write_json(single / "tokenizer_config.json", {"auto_map": {"AutoTokenizer": ["tokenization.Evil", None]}})
    with pytest.raises(ModelError, match=r"tokenizer_config.json has auto_map.*never runs"):
        load_model(single)


def test_a_loaded_model_survives_that_its_file_is_replaced_and_trains_without_touching_it(single: Path) -> None:
    model = load_model(single)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    raw = (single / "model.safetensors").read_bytes()
    save_model(lively(TINY, seed=5), single)
    assert all(before[name].equal(tensor) for name, tensor in model.state_dict().items())
    replaced = (single / "model.safetensors").read_bytes()
    assert replaced != raw
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    save_model(model, single)
    again = load_model(single).state_dict()
    assert all(again[name].equal(tensor + 1.0) for name, tensor in before.items())


def test_a_copied_model_does_not_need_its_file(single: Path) -> None:
    model = load_model(single, mapped=False)
    expected = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    os.truncate(single / "model.safetensors", 0)
    assert all(expected[name].equal(tensor) for name, tensor in model.state_dict().items())


def test_saving_again_in_fewer_files_leaves_no_stale_ones(sharded: Path) -> None:
    (sharded / "model-of-mine.safetensors").write_bytes(b"")
    model = lively(replace(TINY, num_hidden_layers=1), seed=3)
    save_model(model, sharded)
    assert sorted(path.name for path in sharded.iterdir()) == [
        "config.json", "generation_config.json", "model-of-mine.safetensors", "model.safetensors",
    ]  # fmt: skip
    save_model(model, sharded, shard_bytes=9_000)
    assert not (sharded / "model.safetensors").exists()
    assert load_model(sharded).state_dict()["lm_head.weight"].equal(model.lm_head.weight)


def test_metadata_of_a_file_is_kept(tmp_path: Path) -> None:
    write_tensors(tmp_path / "t.safetensors", {"a": torch.ones(1)}, metadata={"step": "7"})
    assert SafetensorsFile(tmp_path / "t.safetensors").metadata == {"format": "pt", "step": "7"}


PEAK = """
import sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from dunwu.model.hub import load_model, save_model

def status(key):
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith(key + ":"))

folder, other = Path(sys.argv[1]), Path(sys.argv[2])
load_model(folder / "small", dtype=torch.float32)
for _ in range(2):  # the first time also brings in what torch loads late
    Path("/proc/self/clear_refs").write_text("5")
    base = status("VmRSS")
    model = load_model(folder, dtype=torch.float32)
    loading = status("VmHWM") - base
    Path("/proc/self/clear_refs").write_text("5")
    base = status("VmRSS")
    save_model(model, other)
    saving = status("VmHWM") - base
    weights = sum(parameter.nbytes for parameter in model.parameters())
    largest = max(parameter.nbytes for parameter in model.parameters())
    del model
print(loading, saving, weights, largest)
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peak memory is read from /proc")
def test_no_more_is_held_than_the_model_and_one_tensor(tmp_path: Path) -> None:
    wide = replace(TINY, vocab_size=4000, hidden_size=512, intermediate_size=1024, num_hidden_layers=4, head_dim=128)
    save_model(lively(wide).to(torch.bfloat16), tmp_path)
    save_model(lively(TINY), tmp_path / "small")
    command = [sys.executable, "-c", PEAK, str(tmp_path), str(tmp_path / "again")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    loading, saving, weights, largest = map(int, done.stdout.split())
    slack = 6_000_000  # pages of libraries and of the heap
    assert weights > 50_000_000
    assert loading <= weights + largest + slack
    assert saving <= largest + slack


def test_names_of_a_bare_backbone_are_read(tmp_path: Path) -> None:
    """As GPT-2's own page has them: without the first part of the name, and with masks that are no weights."""
    values = {"model_type": "gpt2", "vocab_size": 61, "n_embd": 24, "n_layer": 2, "n_head": 4, "n_positions": 32}
    model = lively(config_from_hf(values))
    save_model(model, tmp_path)
    path = tmp_path / "model.safetensors"
    held = safetensors.torch.load(path.read_bytes())
    bare = {name.removeprefix("transformer."): tensor for name, tensor in held.items()}
    assert bare.keys() != held.keys()
    write_tensors(path, bare | {"h.0.attn.bias": torch.full((1, 1, 32, 32), -math.inf)})
    again = load_model(tmp_path).state_dict()
    assert all(again[name].equal(tensor) for name, tensor in model.state_dict().items())
