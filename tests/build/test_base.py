"""What a build takes over from the model that it goes on from, and what it refuses to go on from."""

import dataclasses
import json

import pytest
import tokenizers
import torch

from dunwu.build.base import base_inputs, grown_from
from dunwu.build.export import model_facts
from dunwu.build.home import Home
from dunwu.build.learn import TUNING_SHARE, tuning_share
from dunwu.build.stages.tokenizer import TOKENIZER
from dunwu.chat.local import LocalChat
from dunwu.cli import run
from dunwu.core.errors import RecipeError
from dunwu.core.load import check_recipe
from dunwu.core.recipe import PretrainSection
from dunwu.model.hub import load_config
from dunwu.tokenizer.load import load_tokenizer
from tests.build.place import new_place
from tests.build.test_continued import SMALL, stage_folder, write_open_model
from tests.test_cli import write_documents

STOPPED = (
    "{%- for m in messages -%}{{- m['role'] + ': ' + m['content'] + ('<|stop|>' if m['role'] == 'assistant' else '\\n') -}}"
    "{%- endfor -%}{%- if add_generation_prompt -%}{{- 'assistant: ' -}}{%- endif -%}"
)
UNSTOPPED = STOPPED.replace("<|stop|>", "\\n")


def write_chat_model(folder, template):
    """A model of others whose turns end with a token that only generation_config.json names, under a licence."""
    write_open_model(folder)
    tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.add_special_tokens(["<|stop|>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    ends = [tokenizer.token_to_id("<|end|>"), tokenizer.token_to_id("<|stop|>")]
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": ends, "temperature": 0.6}))
    (folder / "chat_template.jinja").write_text(template)
    (folder / "LICENSE").write_text("Some Licence\n")
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n# A model\n")
    return ends


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A chat model of others, documents, and conversations."""
    with new_place(tmp_path_factory) as folder:
        write_documents(folder / "documents")
        write_chat_model(folder / "open", STOPPED)
        talks = [{"prompt": f"What is {i} + 1?", "completion": f"It is {i + 1}."} for i in range(60)]
        (folder / "talks.jsonl").write_text("\n".join(map(json.dumps, talks)))
        yield folder


WORDS = ["documents", *SMALL[:1], "pretrain.tokens=4000", *SMALL[2:]]
TUNED = ["sft.sources=[{kind: file, path: talks.jsonl}]", "sft.tokens=2000"]


def test_what_the_base_was_is_kept_and_fine_tuning_adds_its_ends_of_turns(place, capsys):
    words = [*WORDS, "base=open", "name=kept"]
    assert run(["build", *words]) == 0
    assert "try it:  dunwu chat builds/kept\n" in capsys.readouterr().out
    home = Home(place / "builds" / "kept")
    facts = json.loads((home.model / "dunwu.json").read_text())
    assert facts["instruction_tuned"] is True
    assert facts["licence"] == "apache-2.0"
    assert (home.model / "LICENSE").read_text() == "Some Licence\n"
    assert "\nlicense: apache-2.0\n" in (home.model / "README.md").read_text()

    (home.model / "dunwu.json").write_text(json.dumps({**facts, "parity": {"f16": "measured"}}))
    home.report.unlink()
    assert run(["build", *words]) == 0
    assert json.loads((home.model / "dunwu.json").read_text())["parity"] == {"f16": "measured"}

    record = home.current()["pretrain"]
    weights = record.files["model.safetensors"]
    parts = dict.fromkeys(("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"), weights)
    records = {**home.current(), "pretrain": dataclasses.replace(record, files=parts)}
    lineage = model_facts(home, recipe(), records)["lineage"]
    assert lineage["pretrain"]["files"] == dict.fromkeys(parts, weights.sha256)

    before = stage_folder(home.folder, "pretrain")
    assert run(["build", *words, *TUNED]) == 0
    assert stage_folder(home.folder, "pretrain") == before
    old = load_tokenizer(place / "open")
    stop, end = old.special_ids["<|stop|>"], old.special_ids["<|end|>"]
    assert stop in load_tokenizer(stage_folder(home.folder, "tokenizer")).stop_ids
    assert load_config(home.model).eos_token_id == (end, stop)
    generation = json.loads((home.model / "generation_config.json").read_text())
    assert (generation["eos_token_id"], generation["temperature"]) == ([end, stop], 0.6)
    assert "parity" not in json.loads((home.model / "dunwu.json").read_text())


@pytest.mark.parametrize(("template", "told"), [(UNSTOPPED, "would never stop"), (None, "no chat template")])
def test_a_base_that_cannot_learn_conversations_is_refused_before_anything_is_learned(place, capsys, template, told):
    name = "unstopped" if template else "silent"
    write_chat_model(place / name, template or "")
    if template is None:
        (place / name / "chat_template.jinja").unlink()
    words = [*WORDS, f"base={name}", f"name=from-{name}"]
    assert run(["build", *words, *TUNED]) == 2
    assert told in " ".join(capsys.readouterr().err.split())
    assert not list((place / "builds" / f"from-{name}" / "stages").iterdir())
    assert run(["plan", *words]) == 0


def test_a_build_does_not_stand_on_its_own_home(place, capsys):
    write_chat_model(place / "builds" / "itself" / "model", STOPPED)
    (place / "builds" / "itself" / "stages").mkdir()
    for base in ("builds/itself/model", "builds/itself"):
        assert run(["build", *WORDS, f"base={base}", "out=builds/itself"]) == 2
        assert "name=NAME" in " ".join(capsys.readouterr().err.split())


def test_a_name_beside_a_folder_that_exists_is_not_looked_up_on_a_hub(place, capsys):
    (place / "builds").mkdir(exist_ok=True)
    assert run(["plan", *WORDS, "base=builds/nope"]) == 2
    assert "base=builds/nope does not exist" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["pretrain.freeze=[model.layer.0.*]"], "pretrain.freeze has 'model.layer.0.*', which fits no parameter"),
        ([*TUNED, "sft.freeze=['*']"], "leaves nothing to learn"),
    ],
)
def test_what_is_to_be_frozen_is_looked_for_when_planning(place, capsys, words, told):
    assert run(["plan", *WORDS, "base=open", "name=frozen", *words]) == 2
    assert told in " ".join(capsys.readouterr().err.split())
    assert run(["build", *WORDS, "base=open", "name=frozen", *words]) == 2
    assert not list((place / "builds" / "frozen" / "stages").iterdir())


def recipe(**more):
    return check_recipe({"corpus": {"sources": [{"kind": "python_docs"}]}, **more}, [], origin="the test")


def test_every_file_of_the_base_that_decides_something_names_the_stages(place, tmp_path):
    write_chat_model(tmp_path, STOPPED)
    seen = [base_inputs(recipe(base=str(tmp_path)))]
    lineage = {"name": "mine", "lineage": {"pretrain": {}}}
    for name, values in (
        ("generation_config.json", {"eos_token_id": 3}),
        ("chat_template.json", {"chat_template": "x"}),
        ("dunwu.json", lineage),
        ("dunwu.json", {**lineage, "instruction_tuned": True}),
    ):
        (tmp_path / name).write_text(json.dumps(values))
        seen.append(base_inputs(recipe(base=str(tmp_path))))
        assert seen[-1] != seen[-2]
    (tmp_path / "dunwu.json").write_text(json.dumps({**lineage, "instruction_tuned": True, "parity": {"f16": 1}}))
    assert base_inputs(recipe(base=str(tmp_path))) == seen[-1]


def test_an_imported_model_of_others_is_not_one_that_dunwu_grew(tmp_path):
    (tmp_path / "dunwu.json").write_text(json.dumps({"name": "theirs", "lineage": {"imported": {"source": "a/b"}}}))
    assert grown_from(tmp_path) == {}


def test_fine_tuning_is_no_hotter_than_the_pre_training_before_it():
    section = PretrainSection()
    assert tuning_share(section, None) == TUNING_SHARE
    assert tuning_share(section, {"grown_from": {"name": "mine"}}) == TUNING_SHARE
    assert tuning_share(section, {"grown_from": {}}) < TUNING_SHARE
    assert tuning_share(PretrainSection(rewarm=0.01), {"grown_from": {}}) == 0.01


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"pretrain": {"rewarm": 0.2}}, "pretrain.rewarm=0.2"),
        ({"replay": {"share": 0.2}}, "no text to replay"),
        ({"base": "a/b", "replay": {"share": 0.2}}, "no text to replay"),
        ({"base": "a/b", "pretrain": {"rewarm": 0.2, "lr_muon": 0.1, "lr_adamw": 0.1}}, "all are fixed"),
        ({"base": "a/b", "pretrain": {"rewarm": 0.2, "optimizer": "adamw", "lr_adamw": 0.1}}, "all are fixed"),
        ({"base": "a/b", "tokenizer": {"extend_by": 9}, "pretrain": {"freeze": ["*embed*"]}}, "could not be learned"),
        ({"base": "a/b", "tokenizer": {"train_bytes": 9}}, "nothing is learned for it"),
    ],
)
def test_a_setting_that_would_do_nothing_is_refused(settings, told):
    with pytest.raises(RecipeError, match=told):
        recipe(**settings)


def test_a_setting_that_does_something_beside_another_is_taken():
    section = recipe(base="a/b", pretrain={"rewarm": 0.2, "lr_adamw": 0.1, "freeze": ["*embed*"]}).pretrain
    assert (section.rewarm, section.lr_adamw, section.freeze) == (0.2, 0.1, ("*embed*",))


def test_text_that_is_not_read_for_new_tokens_does_not_name_the_vocabulary():
    def identity(train_bytes):
        return TOKENIZER.settings(recipe(base="a/b", tokenizer={"extend_by": 9, "train_bytes": train_bytes}))

    assert identity(20_000_000) == identity(30_000_000) != identity(1_000_000)
    assert "train_bytes" not in TOKENIZER.settings(recipe(base="a/b"))["tokenizer"]


def test_weights_in_bfloat16_are_computed_in_what_suits_the_device(place):
    model = LocalChat.load(place / "open", device=torch.device("cpu")).generator.model
    assert model.model.embed_tokens.weight.dtype == torch.float32
