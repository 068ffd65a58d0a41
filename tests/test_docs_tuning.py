"""The examples of docs/tuning.md, run; its tables, held against the methods that there are."""

import re
from pathlib import Path

import torch

from dunwu.core.deltas import delta_spec
from dunwu.core.recipe import Recipe
from dunwu.core.yaml import parse_yaml
from dunwu.delta.registry import DELTAS
from dunwu.delta.storing import load_delta
from tests.infer.tiny import tiny_model

PAGE = (Path(__file__).parent.parent / "docs" / "tuning.md").read_text("utf-8")


def blocks(kind):
    return re.findall(rf"^```{kind}\n(.*?)^```", PAGE, re.M | re.S)


def test_the_recipe_is_understood():
    (text,) = blocks("yaml")
    recipe = Recipe.model_validate(parse_yaml(text))
    assert recipe.only_tunes
    assert recipe.sft.delta is not None
    assert (recipe.sft.delta.name, recipe.sft.base_weights) == ("lora", "nf4")


def test_the_python_runs_as_it_stands(tmp_path):
    (code,) = blocks("python")
    model, ids = tiny_model(100, context=32), torch.arange(3, 20)[None]
    before = model(ids)
    there = {"model": model, "folder": tmp_path}
    exec(compile(code, "example", "exec"), there)
    assert torch.equal(before, model(ids))  # B begins at zero
    there["delta"].detach()
    assert load_delta(tmp_path, model).count == there["delta"].count > 0


def test_every_method_is_listed_with_options_that_it_has():
    rows = re.findall(r"^\| `(\w+)` \| (.*?) \| (.*?) \|$", PAGE, re.M)
    assert {name for name, _, _ in rows} == set(DELTAS)
    options = {name: set(re.findall(r"`(\w+)`", text)) for name, _, text in rows}
    for name, listed in options.items():
        like = options.get(next(iter(listed & set(options)), ""), set())
        wanted = {"targets": ["*"]} if name == "pattern" else {}
        fields = set(type(delta_spec({"method": name, **wanted})).model_fields)
        assert (listed - set(options)) | (like if listed & set(options) else set()) <= fields, name
