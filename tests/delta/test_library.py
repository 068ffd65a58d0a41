"""The registry: whole entries or none, safe names, damage that is named, and no index that could lie."""

import json
import multiprocessing
import os
import shutil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dunwu.core.deltas import LoraSpec
from dunwu.core.errors import DunwuError, ModelError, RecipeError
from dunwu.core.files import read_json, write_json
from dunwu.delta import library as library_module
from dunwu.delta.bases import base_key, base_of_folder, require_base
from dunwu.delta.finding import find
from dunwu.delta.library import Library, default_library, new_entry, require_name
from dunwu.delta.registry import attach
from dunwu.delta.sharing import on_hub, pull, push
from dunwu.delta.storing import save_delta
from dunwu.model.hub import load_model, save_model
from tests.infer.tiny import tiny_model, tiny_tokenizer

from .helpers import base, shake


@pytest.fixture(scope="module")
def adapter(tmp_path_factory):
    folder = tmp_path_factory.mktemp("adapter")
    save_delta(shake(attach(base(), LoraSpec(r=2), seed=0)), folder, base_name="tiny")
    return folder


@pytest.fixture
def library(tmp_path):
    return Library(tmp_path / "deltas")


def test_what_is_added_is_found_with_its_facts(library, adapter):
    facts = {
        "licence": "mit",
        "note": "polite",
        "lineage": {"sft": {"sha256": "ab"}},
        "scores": {"exam": {"value": 0.5}},
    }
    added = library.add(adapter, new_entry("tone", adapter, **facts))
    (entry,), damaged = library.entries()
    assert damaged == []
    assert entry == added
    assert (entry.method, entry.licence, entry.note, entry.base_name) == ("lora", "mit", "polite", "tiny")
    assert entry.scores["exam"]["value"] == 0.5
    # r=2 on all seven matrices of two layers: 2 · Σ (in + out)
    assert entry.numbers == 2 * 2 * (4 * (24 + 24) + 3 * (24 + 40))
    assert entry.bytes == sum((adapter / name).stat().st_size for name in entry.files)
    assert set(entry.base) == {"shape", "norms", "embedding"}
    assert library.files("tone") == library.folder / "tone"
    library.remove("tone")
    assert library.entries() == ([], [])
    assert os.listdir(library.folder) == [".lock"]


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "../x",
        "a/b",
        "a\\b",
        "a..b",
        "/etc",
        "x\x00y",
        "x\ny",
        "x y",
        "a:b",
        "con",
        "COM1.txt",
        "-a",
        ".a",
        "a.",
        "x" * 65,
        "e\u0301",
    ],
)
def test_unsafe_names_are_refused_everywhere(library, adapter, name):
    for do in (lambda: library.add(adapter, new_entry(name, adapter)), lambda: library.entry(name)):
        with pytest.raises(RecipeError, match="cannot be the name of a delta"):
            do()
    with pytest.raises(RecipeError):
        library.remove(name)
    assert not library.folder.exists()


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=70))
def test_a_name_that_passes_is_one_visible_folder(name):
    try:
        require_name(name)
    except RecipeError:
        return
    assert os.path.normpath(os.path.join("/r", name)) == f"/r/{name}"
    assert name.isprintable()
    assert not name.startswith(".")
    assert not set(name) & set('/\\:*?"<>| ')


def test_names_in_other_scripts_pass():
    for name in ("法律-v2", "Überblick", "tone_1.0"):
        require_name(name)


def test_taken_names_and_names_that_differ_by_case_are_refused(library, adapter):
    library.add(adapter, new_entry("Tone", adapter))
    with pytest.raises(RecipeError, match="dunwu delta remove Tone"):
        library.add(adapter, new_entry("Tone", adapter))
    with pytest.raises(RecipeError, match="differs from 'Tone'"):
        library.add(adapter, new_entry("tone", adapter))
    assert sorted(os.listdir(library.folder)) == [".lock", "Tone"]


def test_an_unknown_name_gets_the_nearest(library, adapter):
    library.add(adapter, new_entry("formal-tone", adapter))
    with pytest.raises(ModelError, match="did you mean formal-tone"):
        library.entry("formal-ton")
    with pytest.raises(ModelError, match="there are: none"):
        Library(library.folder / "nothing").entry("x")


def harm(folder, how, tmp_path):
    entry, weights = folder / "entry.json", folder / "adapter_model.safetensors"
    told = read_json(entry)
    if how == "cut":
        weights.write_bytes(weights.read_bytes()[:-5])
    elif how == "no weights":
        weights.unlink()
    elif how == "link":
        (tmp_path / "elsewhere").write_bytes(weights.read_bytes())
        weights.unlink()
        weights.symlink_to(tmp_path / "elsewhere")
    elif how == "no json":
        entry.write_text("{")
    elif how == "another name":
        write_json(entry, told | {"name": "../tone"})
    elif how == "a way out":
        write_json(entry, told | {"files": told["files"] | {"../../secret": told["files"]["adapter_config.json"]}})
    elif how == "unknown key":
        write_json(entry, told | {"run": "rm"})
    elif how == "no entry":
        entry.unlink()


HARMS = {
    "cut": "bytes instead of",
    "no weights": "is missing",
    "link": "is a link",
    "no json": "is damaged",
    "another name": "its folder's is another",
    "a way out": "names the file",
    "unknown key": "does not describe a delta",
    "no entry": "has no entry.json",
}


@pytest.mark.parametrize("how", HARMS)
def test_damaged_entries_are_named_and_skipped(library, adapter, tmp_path, how):
    library.add(adapter, new_entry("good", adapter))
    library.add(adapter, new_entry("tone", adapter))
    harm(library.folder / "tone", how, tmp_path)
    (entry,), (damaged,) = library.entries()
    assert (entry.name, damaged.name) == ("good", "tone")
    assert HARMS[how] in damaged.reason
    with pytest.raises(ModelError):
        library.files("tone")
    with pytest.raises(ModelError):
        pull("tone", Library(tmp_path / "mine"), str(library.folder))
    assert Library(tmp_path / "mine").entries() == ([], [])
    library.remove("tone")
    assert [one.name for one in library.entries()[0]] == ["good"]


def test_a_change_of_the_same_length_is_found_by_its_checksum(library, adapter):
    library.add(adapter, new_entry("tone", adapter))
    weights = library.folder / "tone" / "adapter_model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(ModelError, match="its SHA-256 is another"):
        library.files("tone")


def test_pickles_are_not_taken(library, adapter, tmp_path):
    shutil.copytree(adapter, tmp_path / "old")
    (tmp_path / "old" / "adapter_model.safetensors").rename(tmp_path / "old" / "adapter_model.bin")
    with pytest.raises(ModelError, match=r"adapter_model\.bin is pickle"):
        new_entry("old", tmp_path / "old")


def test_an_add_that_fails_leaves_nothing(library, adapter, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    entry = new_entry("tone", adapter)
    monkeypatch.setattr(library_module, "write_json", full)
    with pytest.raises(DunwuError, match="free some space"):
        library.add(adapter, entry)
    assert os.listdir(library.folder) == []


def _add(folder, adapter, name, barrier, said):
    barrier.wait()
    try:
        Library(folder).add(adapter, new_entry(name, adapter))
        said.put((name, "added"))
    except RecipeError as error:
        said.put((name, str(error)))


def test_of_writers_at_once_one_wins_and_the_entry_is_whole(library, adapter):
    fork = multiprocessing.get_context("fork")
    barrier, said = fork.Barrier(4), fork.Queue()
    names = ["tone", "tone", "TONE", "other"]
    writers = [fork.Process(target=_add, args=(library.folder, adapter, name, barrier, said)) for name in names]
    for writer in writers:
        writer.start()
    told = [said.get(timeout=30) for _ in writers]
    for writer in writers:
        writer.join(30)
    added = [name for name, what in told if what == "added"]
    assert sorted(name.lower() for name in added) == ["other", "tone"]
    entries, damaged = library.entries()
    assert sorted(entry.name for entry in entries) == sorted(added)
    assert damaged == []
    for entry in entries:
        library.files(entry.name)


def test_push_and_pull_between_folders(library, adapter, tmp_path):
    library.add(adapter, new_entry("tone", adapter, licence="mit"))
    shared, mine = tmp_path / "shared" / "deltas", Library(tmp_path / "mine")
    push("tone", library, str(shared))
    pulled = pull("tone", mine, str(shared))
    assert pulled == library.entry("tone")
    assert {path.name: path.read_bytes() for path in (mine.folder / "tone").iterdir()} == {
        path.name: path.read_bytes() for path in (library.folder / "tone").iterdir()
    }
    with pytest.raises(RecipeError, match="already"):
        push("tone", library, str(shared))
    with pytest.raises(ModelError, match="does not exist; give a registry's folder"):
        pull("tone", mine, str(tmp_path / "nowhere"))
    with pytest.raises(RecipeError, match="leads out of the registry"):
        pull("../tone", mine, str(shared))


def test_a_hub_that_cannot_be_reached_is_told(library, adapter, tmp_path, monkeypatch):
    from huggingface_hub import constants

    library.add(adapter, new_entry("tone", adapter))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    assert on_hub("someone/deltas")
    assert not on_hub("./someone/deltas")
    for do in (push, pull):
        with pytest.raises(ModelError, match="HF_HUB_OFFLINE forbids it"):
            do("tone" if do is push else "other", library, "someone/deltas")


def test_the_registry_is_where_one_says(tmp_path, monkeypatch):
    monkeypatch.setenv("DUNWU_DELTAS", str(tmp_path / "a"))
    assert default_library().folder == tmp_path / "a"
    assert default_library(tmp_path / "b").folder == tmp_path / "b"
    monkeypatch.delenv("DUNWU_DELTAS")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    assert default_library().folder == tmp_path / "data" / "dunwu" / "deltas"


# The base


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "kitten"
    tokenizer = tiny_tokenizer(folder)
    save_model(tiny_model(tokenizer.vocab_size, context=64), folder)
    return folder


def test_a_base_is_known_by_weights_and_template_whatever_the_dtype(folder, tmp_path):
    own = base_of_folder(folder)
    copy = tmp_path / "half"
    shutil.copytree(folder, copy)
    save_model(load_model(folder).bfloat16(), copy)
    assert base_of_folder(copy) == own
    require_base(own, copy, "tone", "kitten")


@pytest.mark.parametrize("what", ["weights", "template", "shape"])
def test_another_base_is_refused_by_what_differs(folder, tmp_path, what):
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    if what == "weights":
        model = load_model(folder)
        delta = shake(attach(model, LoraSpec(r=2, targets=("down_proj",)), seed=0))
        delta.absorb()  # norms and embedding stay: a merge is another base all the same
        save_model(model, other)
    elif what == "template":
        config = read_json(other / "tokenizer_config.json")
        write_json(other / "tokenizer_config.json", config | {"chat_template": "{{ messages[0].content }}"})
    else:
        config = read_json(other / "config.json")
        write_json(
            other / "config.json",
            config | {"rope_theta": 5.0, "rope_parameters": {"rope_type": "default", "rope_theta": 5.0}},
        )
    own = base_of_folder(folder)
    meaning = {"weights": "its weights", "template": "its chat template", "shape": "its shape"}[what]
    with pytest.raises(ModelError, match=f"trained on another base \\(kitten\\): .* has {meaning} otherwise"):
        require_base(own, other, "tone", "kitten")
    assert base_key(own) != base_key(base_of_folder(other))


def test_a_delta_is_found_by_name_by_folder_and_in_a_build(library, adapter, tmp_path, monkeypatch):
    library.add(adapter, new_entry("tone", adapter))
    build = tmp_path / "build" / "model"
    shutil.copytree(adapter, build / "adapter")
    told = {
        "lineage": {"sft": {}},
        "scores": {},
        "licence": "mit",
        "instruction_tuned": True,
        "system_prompt": "Be kind.",
    }
    (build / "dunwu.json").write_text(json.dumps(told))
    assert find("tone", library).folder == library.folder / "tone"
    assert find(str(adapter), library).entry.method == "lora"
    found = find(str(tmp_path / "build"), library)
    assert (found.name, found.entry.licence) == ("build", "mit")
    assert found.manner == {"instruction_tuned": True, "system_prompt": "Be kind."}
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tone").mkdir()  # a folder of the same name here does not hide the registry's
    assert find("tone", library).name == "tone"
    with pytest.raises(ModelError, match="holds no delta"):
        find("./tone", library)
    with pytest.raises(ModelError, match="there is no delta 'ton'"):
        find("ton", library)
