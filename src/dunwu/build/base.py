"""The model that a build goes on from: where it lies, what it is, and what of it names the stages."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dunwu.build.home import Home
from dunwu.build.inputs import Hashes, file_hashes
from dunwu.core.errors import RecipeError
from dunwu.core.files import read_json
from dunwu.core.load import is_hub_id
from dunwu.core.recipe import ModelSection, Recipe
from dunwu.model.config import DecoderConfig
from dunwu.model.fetch import model_folder
from dunwu.model.folder import weight_files

CONFIG_FILE, FACTS_FILE = "config.json", "dunwu.json"
# What is read of a tokenizer. `vocab.json` and `merges.txt` repeat `tokenizer.json`, and would contradict an extended one.
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja")


def base_folder(recipe: Recipe, revision: str | None = None) -> Path:
    """The folder that holds the base's `config.json`; a hub's model is fetched, at `revision` where that is known already.

    Raises RecipeError where there is no model, and what fetching raises.
    """
    if is_hub_id(recipe.base):
        name, _, asked = recipe.base.partition("@")
        return model_folder(name, revision=revision or asked or None)
    folder = Path(recipe.base)
    if not folder.exists():
        raise RecipeError(f"base={recipe.base} does not exist; give a model's folder, a build's home or a hub id")
    home = Home(folder)
    if home.exists():
        folder = home.model
    if not (folder / CONFIG_FILE).is_file():
        finished = "its build is not finished: finish it first" if home.exists() else "give the folder of a model"
        raise RecipeError(f"base={recipe.base} holds no model ({folder / CONFIG_FILE} does not exist); {finished}")
    return folder


def hub_revision(recipe: Recipe, folder: Path) -> str | None:
    """The commit that a fetched folder is of; None for a folder of one's own."""
    return folder.name if is_hub_id(recipe.base) and folder.parent.name == "snapshots" else None


def base_inputs(recipe: Recipe) -> Hashes:
    """SHA-256 of the base's files by name; for a hub's model its id and revision as the recipe has them."""
    if not recipe.base:
        return {}
    if is_hub_id(recipe.base):
        name, _, revision = recipe.base.partition("@")
        return {"base": {name: f"revision {revision or 'main'}"}}
    folder = base_folder(recipe)
    others = [folder / name for name in (CONFIG_FILE, *TOKENIZER_FILES) if (folder / name).is_file()]
    return {"base": file_hashes([*others, *weight_files(folder)])}


def base_name(recipe: Recipe) -> str:
    """What to call the base: the hub's id, or the name of its folder."""
    if is_hub_id(recipe.base):
        return recipe.base
    folder = Path(recipe.base)
    return folder.parent.name if folder.name == "model" else folder.name


def grown_from(folder: Path) -> Mapping[str, Any]:
    """Of a base that dunwu made: its name and its chain of hashes; nothing of others."""
    if not (folder / FACTS_FILE).is_file():
        return {}
    facts = read_json(folder / FACTS_FILE)
    return {key: facts[key] for key in ("name", "lineage")} if {"name", "lineage"} <= set(facts) else {}


def require_same_shape(section: ModelSection, config: DecoderConfig) -> None:
    """Raise RecipeError where the recipe's `model` asks for another shape than the base has.

    A setting at its default asks for nothing. The context may be shorter than the base's, not longer.
    """
    default = ModelSection()
    for name in type(section).model_fields:
        asked, own = getattr(section, name), getattr(config, name, None)
        if name == "context_length" or asked in ("auto", getattr(default, name), own):
            continue
        raise RecipeError(
            f"model.{name}={asked!r}, but the base has {own!r}; the shape is the base's: remove the setting"
        )
    longest = config.max_position_embeddings
    if section.context_length != "auto" and section.context_length > longest:
        raise RecipeError(
            f"model.context_length={section.context_length} is beyond the base's {longest}; use at most that"
        )
