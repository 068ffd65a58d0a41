"""Exports and imports: what goes along, what must not, and what becomes of an engine that fails."""

import json
import os
from pathlib import Path

import pytest
import torch

from dunwu.build.handover import GGUF_RULES, hand_over, report
from dunwu.build.importing import import_model
from dunwu.cli import run
from dunwu.core.errors import ModelError
from dunwu.core.modelfiles import TEMPLATE_FOLDER
from dunwu.evaluate.peers import by_its_file, plain_ids
from dunwu.model.config import DecoderConfig
from dunwu.model.decoder import new_decoder
from dunwu.model.families import config_from_hf
from dunwu.model.folder import copy_files, model_name
from dunwu.model.gguf import export_gguf
from dunwu.model.gguf import exporting as gguf_exporting
from dunwu.model.gguf.container import Container
from dunwu.model.hub import load_config, load_model, read_tensors, save_model, write_tensors
from dunwu.tokenizer.bpe import Tokenizer, train_tokenizer
from dunwu.tokenizer.load import load_tokenizer
from dunwu.tokenizer.open import OpenTokenizer
from tests.tokenizer.foreign import byte_fallback

TEXTS = ["The quick brown fox doesn't mind.\n\n    return x + 12\n" * 3, "顿悟，是忽然明白的意思。\n" * 3]


@pytest.fixture
def folder(tmp_path):
    place = tmp_path / "models" / "tiny"
    tokenizer = train_tokenizer(TEXTS, vocab_size=300, out=place)
    config = DecoderConfig(
        architecture="qwen3", qk_norm="head", vocab_size=tokenizer.vocab_size, hidden_size=32, intermediate_size=64,
        num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1, head_dim=16, max_position_embeddings=64,
        tie_word_embeddings=True, eos_token_id=0,
    )  # fmt: skip
    save_model(new_decoder(config, seed=1), place)
    return place


def hf(folder: Path, out: Path, *, check: bool = False, dtype: str | None = None):
    return hand_over(folder, to="hf", dtype=dtype, out=out, check=check)


def test_a_link_out_of_the_folder_is_not_exported(folder, tmp_path):
    (tmp_path / "secret").write_text("mine alone")
    (folder / "README.md").symlink_to(tmp_path / "secret")
    with pytest.raises(ModelError, match="outside the model's folder"):
        hf(folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_linked_folder_of_templates_is_not_copied(tmp_path):
    source, out = tmp_path / "source", tmp_path / "out"
    source.mkdir()
    out.mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "x.jinja").write_text("x")
    (source / TEMPLATE_FOLDER).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ModelError, match="outside"):
        copy_files(source, out, [f"{TEMPLATE_FOLDER}/*.jinja"])


def test_all_templates_go_along_out_and_in(folder, tmp_path):
    (folder / TEMPLATE_FOLDER).mkdir()
    (folder / TEMPLATE_FOLDER / "tool_use.jinja").write_text("tools: {{ messages[0]['content'] }}")
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config.pop("chat_template", None)
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": "{{ messages[0]['content'] }}"}))
    (folder / "NOTICE").write_text("by us")
    hf(folder, tmp_path / "out")
    home = import_model(str(tmp_path / "out"), out=tmp_path / "home", tokenizer=None).home
    tokenizer = load_tokenizer(home)
    assert isinstance(tokenizer, OpenTokenizer)
    assert tokenizer.chat_template == "{{ messages[0]['content'] }}"
    assert (tokenizer.template_for(tools=True) or "").startswith("tools")
    assert (tmp_path / "out" / "NOTICE").exists()
    hashes = json.loads((home / "dunwu.json").read_text())["lineage"]["imported"]["files"]
    assert f"{TEMPLATE_FOLDER}/tool_use.jinja" in hashes
    export_gguf(folder, tmp_path / "x.gguf", rules=GGUF_RULES)
    assert Container(tmp_path / "x.gguf").metadata["tokenizer.chat_template"] == "{{ messages[0]['content'] }}"


def test_each_tensor_keeps_the_dtype_it_is_stored_in(folder, tmp_path):
    tensors = {
        name: tensor.float() * 1.001 if name.endswith("norm.weight") else tensor.to(torch.bfloat16)
        for name, tensor in read_tensors(folder / "model.safetensors").items()
    }
    write_tensors(folder / "model.safetensors", tensors)
    hf(folder, tmp_path / "same")
    written = read_tensors(tmp_path / "same" / "model.safetensors")
    assert {name: tensor.dtype for name, tensor in written.items()} == {
        name: tensor.dtype for name, tensor in tensors.items()
    }
    assert all(torch.equal(written[name], tensor) for name, tensor in tensors.items())
    assert json.loads((tmp_path / "same" / "config.json").read_text())["dtype"] == "bfloat16"
    hf(folder, tmp_path / "wide", dtype="f32")
    wide = read_tensors(tmp_path / "wide" / "model.safetensors")
    assert torch.equal(wide["model.norm.weight"], tensors["model.norm.weight"]), "widening must not round on its way"


def test_an_engine_that_breaks_leaves_the_export_aside(folder, tmp_path, monkeypatch, capsys):
    pytest.importorskip("transformers")
    monkeypatch.chdir(tmp_path)

    def crash(self, place, vocab_size):
        raise AssertionError("Padding_idx must be within num_embeddings")

    monkeypatch.setattr("dunwu.evaluate.peers.TransformersPeer.__init__", crash)
    assert run(["export", str(folder), "--out", "out"]) == 2
    shown = capsys.readouterr()
    assert "Padding_idx" in shown.err
    assert "Traceback" not in shown.err
    assert (tmp_path / "out.failed" / "model.safetensors").exists()
    assert not (tmp_path / "out").exists()


def test_an_engine_that_breaks_at_a_question_has_failed(folder, tmp_path, monkeypatch):
    pytest.importorskip("transformers")

    def crash(self, ids):
        raise RuntimeError("index out of range")

    monkeypatch.setattr("dunwu.evaluate.peers.TransformersPeer.logits", crash)
    done = hf(folder, tmp_path / "out", check=True)
    assert not done.passed
    assert done.path.name == "out.failed"
    assert "index out of range" in done.comparisons[0].problems[0]
    assert "transformers" in report(done)


@pytest.mark.parametrize("out", [".", "..", "here/.."])
def test_the_working_folder_is_no_place(folder, tmp_path, monkeypatch, out):
    (tmp_path / "new" / "here").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "new")
    with pytest.raises(ModelError, match="working folder"):
        hf(folder, Path(out))
    with pytest.raises(ModelError, match="working folder"):
        import_model(str(folder), out=Path(out), tokenizer=None)


def test_a_model_of_the_hubs_cache_has_its_own_name(folder, tmp_path, monkeypatch):
    place = tmp_path / "models--some--Name-1--x" / "snapshots" / ("0123456789" * 4)
    place.parent.mkdir(parents=True)
    os.rename(folder, place)
    monkeypatch.chdir(tmp_path)
    assert model_name(place) == "Name-1--x"
    assert hand_over(place, to="hf", dtype=None, out=None, check=False).path == Path("Name-1--x-hf")
    export_gguf(place, tmp_path / "x.gguf", rules=GGUF_RULES)
    assert Container(tmp_path / "x.gguf").metadata["general.name"] == "Name-1--x"


def test_a_licence_in_a_gguf_file_comes_along(folder, tmp_path):
    export_gguf(folder, tmp_path / "x.gguf", rules=GGUF_RULES, licence="apache-2.0")
    done = import_model(str(tmp_path / "x.gguf"), out=tmp_path / "home", tokenizer=None)
    assert done.licence == "apache-2.0"
    assert json.loads((done.home / "dunwu.json").read_text())["licence"] == "apache-2.0"
    assert "apache-2.0" in (done.home / "README.md").read_text()


def test_a_vision_side_is_named_as_not_used(folder, tmp_path, capsys):
    text = {
        "model_type": "gemma3_text", "vocab_size": load_config(folder).vocab_size, "hidden_size": 32, "intermediate_size": 64,
        "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16,
        "max_position_embeddings": 64,
    }  # fmt: skip
    gemma = config_from_hf({"model_type": "gemma3", "eos_token_id": 0, "vision_config": {}, "text_config": text})
    save_model(new_decoder(gemma, seed=1), folder)
    tensors = read_tensors(folder / "model.safetensors")
    write_tensors(folder / "model.safetensors", {**tensors, "vision_tower.vision_model.head.weight": torch.zeros(2, 2)})
    assert run(["import", str(folder), "--out", str(tmp_path / "home")]) == 0
    assert "Not used: 1 tensors (vision_tower)" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["chat_template.jinja", "chat_template.json", f"{TEMPLATE_FOLDER}/tool_use.jinja"])
def test_a_folder_with_a_template_of_its_own_is_not_ours(folder, name):
    assert isinstance(load_tokenizer(folder), Tokenizer)
    (folder / name).parent.mkdir(exist_ok=True)
    text = "{% for message in messages %}[{{ message['content'] }}]{% endfor %}"
    (folder / name).write_text(json.dumps({"chat_template": text}) if name.endswith("json") else text)
    assert isinstance(load_tokenizer(folder), OpenTokenizer)


def test_a_bare_backbone_is_exported_as_it_is_loaded(folder, tmp_path):
    tensors = read_tensors(folder / "model.safetensors")
    bare = {name.removeprefix("model."): tensor for name, tensor in tensors.items()}
    write_tensors(folder / "model.safetensors", bare)
    load_model(folder)
    export_gguf(folder, tmp_path / "x.gguf", rules=GGUF_RULES)
    assert "token_embd.weight" in Container(tmp_path / "x.gguf").tensors


def test_transformers_is_read_by_the_file_where_it_builds_its_class_anew(tmp_path):
    """Llama 2: transformers 5 keeps the vocabulary of tokenizer.json and lets its normaliser go."""
    transformers = pytest.importorskip("transformers")
    made = byte_fallback(metaspace=None, prepend=True, specials=["<unk>", "<s>", "</s>"])
    made.save(str(tmp_path / "tokenizer.json"))
    settings = {"tokenizer_class": "LlamaTokenizer", "unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    theirs, notes = by_its_file(transformers.AutoTokenizer.from_pretrained(tmp_path), tmp_path)
    ours = load_tokenizer(tmp_path)
    for text in ("hello", " hello", "  a  b", "\nx", "用"):
        assert plain_ids(theirs, text) == ours.encode(text)
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps({**settings, "tokenizer_class": "PreTrainedTokenizerFast"})
    )
    assert by_its_file(transformers.AutoTokenizer.from_pretrained(tmp_path), tmp_path)[1] == ()
    assert ["LlamaTokenizer" in note for note in notes] == [True]


def test_a_damaged_file_is_named_where_the_user_has_it(folder, tmp_path, capsys):
    (folder / "config.json").write_text('{"model_type": ')
    assert run(["import", str(folder), "--out", str(tmp_path / "home")]) == 2
    said = "".join(capsys.readouterr().err.split())
    assert str(folder / "config.json") in said
    assert ".tmp" not in said
    assert "fetchitagain" in said
    assert "runagain" not in said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["models"]


def test_a_broken_template_makes_a_model_that_continues_text_and_says_so(folder, tmp_path, capsys):
    (folder / "chat_template.jinja").write_text("{% for message in messages %}{{ message['content'] }")
    assert run(["import", str(folder), "--out", str(tmp_path / "home")]) == 0
    said = capsys.readouterr().out
    assert "chat_template.jinja: the chat template cannot be rendered" in said
    assert "dunwu generate" in said
    assert json.loads((tmp_path / "home" / "dunwu.json").read_text())["instruction_tuned"] is False


def test_a_template_that_refuses_one_conversation_is_not_broken(folder, tmp_path, capsys):
    (folder / "chat_template.jinja").write_text("{{ raise_exception('a system message, please') }}")
    assert run(["import", str(folder), "--out", str(tmp_path / "home")]) == 0
    assert "Warning" not in capsys.readouterr().out


def test_a_file_that_llama_cpp_does_not_load_is_named_as_it_will_be_called(folder, tmp_path, monkeypatch, capfd):
    pytest.importorskip("llama_cpp")
    monkeypatch.setattr(gguf_exporting, "_safe_name", lambda name, tokens: "phi3")
    done = hand_over(folder, to="gguf", dtype="f32", out=tmp_path / "x.gguf", check=True)
    (problem,) = done.comparisons[0].problems
    assert f"does not load {tmp_path / 'x.gguf'}: " in problem
    assert "error loading model" in problem
    assert ".tmp" not in problem
    assert "".join(capfd.readouterr()) == ""


def test_a_k_quant_is_made_in_silence_and_judged_in_words(folder, tmp_path, capfd):
    pytest.importorskip("llama_cpp")
    done = hand_over(folder, to="gguf", dtype="q4_k_m", out=tmp_path / "x.gguf", check=True)
    assert "".join(capfd.readouterr()) == ""
    said = report(done)
    assert "tensors are in another type than q4_k_m" in said  # rows of 32 and 64 in blocks of 256
    if done.passed:
        assert "passes as a rounded copy (divergence" in said
        assert "limit 1)" in said
