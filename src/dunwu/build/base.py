"""The model that a build goes on from: where it lies, what it is, and what of it names the stages."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dunwu.build.home import Home
from dunwu.build.inputs import Hashes, file_hashes
from dunwu.core.errors import DataError, RecipeError, TokenizerError
from dunwu.core.files import read_json
from dunwu.core.lineage import stable_hash
from dunwu.core.load import is_hub_id
from dunwu.core.modelfiles import TOKENIZER_FILES
from dunwu.core.recipe import ModelSection, Recipe
from dunwu.model.config import DecoderConfig
from dunwu.model.fetch import model_folder
from dunwu.model.folder import files_of, weight_files
from dunwu.tokenizer.like import TokenizerLike
from dunwu.tokenizer.template import verify_mask

CONFIG_FILE, GENERATION_FILE, FACTS_FILE = "config.json", "generation_config.json", "dunwu.json"
LICENCE_FILES = ("LICENSE*", "LICENCE*", "NOTICE*", "USE_POLICY*")


def on_hub(base: str) -> bool:
    """Whether the base is a hub's; beside a folder that exists here (`builds/nmae`), a name is one of this machine, mistyped."""
    return is_hub_id(base) and not Path(base).parent.is_dir()


def base_folder(recipe: Recipe, revision: str | None = None, *, weights: bool = True) -> Path:
    """The folder that holds the base's `config.json`; a hub's model is fetched, at `revision` where that is known already.

    With `weights` False only the small files of a hub's model. Raises RecipeError where there is no model, and what fetching
    raises.
    """
    if on_hub(recipe.base):
        name, _, asked = recipe.base.partition("@")
        return model_folder(name, revision=revision or asked or None, weights=weights)
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
    return folder.name if on_hub(recipe.base) and folder.parent.name == "snapshots" else None


def base_inputs(recipe: Recipe) -> Hashes:
    """SHA-256 of the base's files by name; for a hub's model its id and revision as the recipe has them."""
    if not recipe.base:
        return {}
    if on_hub(recipe.base):
        name, _, revision = recipe.base.partition("@")
        return {"base": {name: f"revision {revision or 'main'}"}}
    folder = base_folder(recipe)
    names = (CONFIG_FILE, GENERATION_FILE, *TOKENIZER_FILES)
    others = files_of(folder, names).values()
    told = {**grown_from(folder), **tuned_as(folder)}  # of dunwu.json, which also holds figures that decide nothing
    origin = {FACTS_FILE: stable_hash(told)} if told else {}
    return {"base": {**file_hashes([*others, *weight_files(folder)]), **origin}}


def base_name(recipe: Recipe) -> str:
    """What to call the base: the hub's id, or the name of its folder."""
    if on_hub(recipe.base):
        return recipe.base
    folder = Path(recipe.base)
    return folder.parent.name if folder.name == "model" else folder.name


def grown_from(folder: Path) -> Mapping[str, Any]:
    """Of a base that dunwu trained: its name and its chain of hashes; nothing of others, imported ones included."""
    facts = _own_facts(folder)
    lineage = facts.get("lineage")
    if "name" not in facts or not isinstance(lineage, dict) or "pretrain" not in lineage:
        return {}
    return {"name": facts["name"], "lineage": lineage}


def tuned_as(folder: Path) -> Mapping[str, Any]:
    """What `dunwu.json` says of a base's tuning: `instruction_tuned` and `system_prompt`, where it says so."""
    facts, kinds = _own_facts(folder), {"instruction_tuned": bool, "system_prompt": str}
    return {key: facts[key] for key, kind in kinds.items() if isinstance(facts.get(key), kind)}


def _own_facts(folder: Path) -> Mapping[str, Any]:
    facts = read_json(folder / FACTS_FILE) if (folder / FACTS_FILE).is_file() else {}
    return facts if isinstance(facts, dict) else {}


def require_other_home(recipe: Recipe, home: Home) -> None:
    """Raise RecipeError where the base lies in the home that is being built, whose model it would replace."""
    if not recipe.base or on_hub(recipe.base):
        return
    if Path(recipe.base).resolve().is_relative_to(home.folder.resolve()):
        raise RecipeError(
            f"base={recipe.base} lies in {home.folder}, the home that this build writes; give the new model another home with "
            "name=NAME or out=FOLDER"
        )


def chat_fault(tokenizer: TokenizerLike, folder: Path) -> str | None:
    """Why a base cannot be fine-tuned on conversations, or None: its template must show what is the model's, and where it stops."""
    if tokenizer.chat_template is None:
        return (
            f"the base in {folder} has no chat template to learn conversations in; leave sft.sources out, take the version of "
            "the model that was trained to chat, or put a chat_template.jinja with its tokens into the folder"
        )
    try:
        verify_mask(tokenizer)
    except (DataError, TokenizerError) as error:
        return f"the base in {folder} cannot be fine-tuned with its chat template: {error}"
    return None


def require_chat(recipe: Recipe, fault: str | None) -> None:
    """Raise RecipeError where the recipe fine-tunes a base that cannot be: before the hours of pre-training, not after."""
    for key in ("sft", "prefer", "reward", "rl"):
        if getattr(recipe, key).sources and fault is not None:
            raise RecipeError(f"{key}.sources: {fault}")


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
