"""`dunwu delta` and `--delta`, from adding to a merged home, and what is refused."""

import json
import shutil

import pytest
import torch

from dunwu.cli import run
from dunwu.core.deltas import LoraSpec
from dunwu.delta.library import Library
from dunwu.delta.registry import attach
from dunwu.delta.storing import PEFT_WEIGHTS, load_delta, save_delta
from dunwu.model.decoder import new_decoder
from dunwu.model.hub import load_model, read_tensors, save_model, write_tensors
from tests.delta.helpers import shake
from tests.infer.tiny import tiny_model, tiny_tokenizer

TARGETS = ("q_proj", "v_proj", "down_proj")


def make_model(folder, seed=None, dtype=torch.float32):
    tokenizer = tiny_tokenizer(folder)
    model = tiny_model(tokenizer.vocab_size, context=64)
    if seed is not None:
        other = new_decoder(model.config, seed=seed)
        model.load_state_dict(other.state_dict())
    save_model(model.to(dtype), folder)
    (folder / "dunwu.json").write_text(
        json.dumps({"name": folder.name, "licence": "apache-2.0", "instruction_tuned": False})
    )
    return folder


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    place = tmp_path_factory.mktemp("models")
    model = load_model(make_model(place / "kitten"))
    make_model(place / "dog", seed=7)
    for name, seed in (("tone", 1), ("facts", 2)):
        delta = shake(attach(model, LoraSpec(r=2, targets=TARGETS), seed=seed), size=2.0, seed=seed)
        save_delta(delta, place / name, base_name=str(place / "kitten"))
        delta.detach()
    foreign = place / "foreign"  # as peft leaves it: it says nothing of its base's weights
    shutil.copytree(place / "tone", foreign)
    write_tensors(foreign / PEFT_WEIGHTS, read_tensors(foreign / PEFT_WEIGHTS))
    config = json.loads((foreign / "adapter_config.json").read_text())
    (foreign / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": "someone/kitten"}))
    return place


@pytest.fixture
def registry(tmp_path, monkeypatch):
    monkeypatch.setenv("DUNWU_DELTAS", str(tmp_path / "deltas"))
    return tmp_path / "deltas"


def said(capsys, *words):
    """What a command prints; it ends well."""
    code = run([str(word) for word in words])
    told = capsys.readouterr()
    assert code == 0, told.err
    return told.out


def refused(capsys, *words):
    """What a command that is refused says."""
    assert run([str(word) for word in words]) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith("dunwu: ")
    assert "Traceback" not in told.err
    return told.err


def test_a_delta_from_adding_to_removing(models, registry, capsys):
    told = said(capsys, "delta", "add", models / "tone", "--name", "tone", "--licence", "mit", "--note", "polite")
    assert f"Next: dunwu chat {models / 'kitten'} --delta tone" in told
    said(capsys, "delta", "add", models / "foreign", "--name", "theirs", "--base", models / "kitten")
    listed = json.loads(said(capsys, "delta", "list", "--json"))["deltas"]
    assert [(one["name"], one["licence"]) for one in listed] == [("theirs", ""), ("tone", "mit")]
    assert listed[0]["base_key"] == listed[1]["base_key"]
    assert set(listed[0]["base"]) == {"shape", "norms", "embedding", "weights", "template"}
    lines = said(capsys, "delta", "list", "--for", models / "kitten").splitlines()
    assert [line.split()[:2] for line in lines] == [["theirs", "lora"], ["tone", "lora"]]
    assert "No deltas" in said(capsys, "delta", "list", "--for", models / "dog")
    shown = said(capsys, "delta", "show", "tone")
    assert "tone: polite" in shown
    assert "licence    mit" in shown
    assert "checksums are right" in shown
    (registry / "broken").mkdir()
    assert "damaged: broken: " in said(capsys, "delta", "list")
    said(capsys, "delta", "remove", "broken")
    said(capsys, "delta", "remove", "tone")
    assert [entry.name for entry in Library(registry).entries()[0]] == ["theirs"]


def test_several_become_one(models, registry, capsys):
    said(capsys, "delta", "add", models / "tone", "--name", "tone", "--licence", "mit")
    words = ("delta", "combine", models / "kitten", "tone", models / "facts", "--name", "both", "--weights", "0.5,2")
    told = said(capsys, *words)
    assert "both: linear of 0.5 × tone, 2 × facts; lora" in told
    assert "licences differ" in told
    entry = Library(registry).entry("both")
    assert entry.lineage["combined"]["of"] == [{"delta": "tone", "weight": 0.5}, {"delta": "facts", "weight": 2.0}]
    ids = torch.arange(3, 20)[None]
    model = load_model(models / "kitten")
    one = load_delta(registry / "both", model)
    combined = model(ids)
    one.detach()
    for folder, weight in ((models / "tone", 0.5), (models / "facts", 2.0)):
        load_delta(folder, model).weight = weight
    torch.testing.assert_close(combined, model(ids), atol=1e-5, rtol=1e-5)
    for how in ("ties", "dare"):
        said(capsys, *words[:5], "--name", how, "--how", how, "--rank", "3", "--licence", "mit")
        assert Library(registry).entry(how).licence == "mit"


def test_what_cannot_be_combined(models, registry, capsys):
    words = ("delta", "combine", models / "kitten")
    assert "takes two or more" in refused(capsys, *words, models / "tone", "--name", "x")
    both = (models / "tone", models / "facts", "--name")
    assert "must be 2 numbers" in refused(capsys, *words, *both, "x", "--weights", "0.5")
    assert "must be 2 numbers" in refused(capsys, *words, *both, "x", "--weights", "0.5,nan")
    assert "leads out of the registry" in refused(capsys, *words, *both, "../x")
    assert "density=2.0 must be" in refused(capsys, *words, *both, "x", "--how", "ties", "--density", "2")
    assert "trained on another base" in refused(capsys, "delta", "combine", models / "dog", *both, "x")
    assert Library(registry).entries() == ([], [])


def test_what_is_refused(models, registry, capsys, tmp_path):
    said(capsys, "delta", "add", models / "tone", "--name", "tone")
    assert "leads out of the registry" in refused(capsys, "delta", "add", models / "tone", "--name", "../tone")
    assert "already" in refused(capsys, "delta", "add", models / "tone", "--name", "tone")
    assert "by case alone" in refused(capsys, "delta", "add", models / "tone", "--name", "Tone")
    assert "give the base with --base MODEL" in refused(capsys, "delta", "add", models / "foreign", "--name", "x")
    assert "holds no delta" in refused(capsys, "delta", "add", models / "dog", "--name", "x")
    assert "did you mean tone" in refused(capsys, "delta", "show", "tine")
    for do in ("chat", "generate"):
        words = (do, models / "dog", *(("hello",) if do == "generate" else ()), "--delta", "tone")
        assert "trained on another base" in refused(capsys, *words)
    wrong = refused(capsys, "delta", "merge", models / "dog", "tone", "--out", tmp_path / "merged")
    assert "has its weights otherwise" in wrong
    assert "--any-base" in wrong
    wrong = refused(capsys, "delta", "add", models / "tone", "--name", "x", "--base", models / "dog")
    assert "another base" in wrong
    assert not (tmp_path / "merged").exists()
    assert [entry.name for entry in Library(registry).entries()[0]] == ["tone"]


def test_a_merged_home_says_what_base_and_delta_say_together(models, registry, capsys, tmp_path):
    said(capsys, "delta", "add", models / "tone", "--name", "tone")
    words = ("a cat", "--raw", "--temperature", "0", "--max-tokens", "24")
    alone = said(capsys, "generate", models / "kitten", *words)
    together = said(capsys, "generate", models / "kitten", *words, "--delta", "tone")
    assert said(capsys, "generate", models / "kitten", *words, "--delta", models / "tone") == together
    told = said(capsys, "delta", "merge", models / "kitten", "tone", "--out", tmp_path / "merged", "--weights", "int4")
    assert "6 matrices changed, stored in float32; nothing was rounded" in told
    assert "times what the delta changes" in told
    assert said(capsys, "generate", tmp_path / "merged", *words) == together
    assert together != alone
    facts = json.loads((tmp_path / "merged" / "dunwu.json").read_text())
    assert facts["delta"]["name"] == "tone"
    assert facts["licence"] == "apache-2.0"
    assert "is there already" in refused(
        capsys, "delta", "merge", models / "kitten", "tone", "--out", tmp_path / "merged"
    )
    wrong = refused(capsys, "generate", tmp_path / "merged", *words, "--delta", "tone")  # its base is not merged
    assert "has its weights otherwise" in wrong


def test_rounding_is_said_when_the_base_is_stored_in_fewer_bits(models, registry, capsys, tmp_path):
    half = make_model(tmp_path / "half", dtype=torch.bfloat16)
    said(capsys, "delta", "add", models / "tone", "--name", "tone", "--base", half)
    told = said(capsys, "delta", "merge", half, "tone", "--out", tmp_path / "merged")
    assert "stored in bfloat16; rounding the sums moved model.layers." in told
    plain = load_model(half).float()
    load_delta(models / "tone", plain).absorb()
    stored = load_model(tmp_path / "merged")
    for name, tensor in plain.state_dict().items():
        assert torch.equal(stored.state_dict()[name], tensor.bfloat16()), name


def test_push_and_pull(models, registry, capsys, tmp_path):
    said(capsys, "delta", "add", models / "tone", "--name", "tone")
    shared = tmp_path / "shared"
    assert str(shared) in said(capsys, "delta", "push", "tone", shared)
    assert "Its licence is not stated" in said(capsys, "delta", "pull", "tone", shared, "--registry", tmp_path / "mine")
    assert Library(tmp_path / "mine").entry("tone") == Library(registry).entry("tone")
    assert "there is no delta 'nothing'" in refused(capsys, "delta", "pull", "nothing", shared)
