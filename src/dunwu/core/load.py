"""From a recipe file, a folder of documents or nothing at all, with overrides, to a checked `Recipe`."""

import contextlib
import fnmatch
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

from pydantic import ValidationError
from ruamel.yaml.constructor import DuplicateKeyError
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from dunwu.core.errors import RecipeError
from dunwu.core.modelfiles import HUB_NAME, is_phrasings_file
from dunwu.core.nearest import explain_validation
from dunwu.core.overrides import apply_overrides, parse_overrides
from dunwu.core.policy import DistillSpec
from dunwu.core.recipe import PretrainSection, Recipe, ReplaySection, TokenizerSection
from dunwu.core.rewards import short_form
from dunwu.core.yaml import format_yaml, parse_yaml

_PATH_KEYS = (
    "corpus.sources.*.path",
    "replay.sources.*.path",
    "sft.sources.*.path",
    "prefer.sources.*.path",
    "reward.sources.*.path",
    "rl.sources.*.path",
    "rl.rewards.*.path",
    "rl.algorithm.teacher",
    "rl.rewards.*.file",
    "corpus.decontaminate_files.*",
)
_PHRASINGS_KEY = "sft.sources.*.phrasings.*"
_HUB_ID = re.compile(rf"{HUB_NAME}(@[\w./-]+)?")
_EMBEDDING = "model.embed_tokens.weight"
BEGIN_FROM_DATA = ("eva", "fisher_mask")
RECIPE_SUFFIXES = (".yaml", ".yml")


def load_recipe(file: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe. Its relative paths start at its folder; those of overrides at the working folder.

    Raises RecipeError with every fault found, each with its key, value, rule and remedy.
    """
    data = _read_mapping(file)
    _write_out_rewards(data)
    _resolve_paths(data, file.parent)
    return check_recipe(data, overrides, origin=str(file))


def recipe_for_documents(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe that a folder of documents, or a single document, stands for: its corpus, and no fine-tuning."""
    source: dict[str, Any] = {"kind": "folder", "path": str(path.absolute())}
    data: dict[str, Any] = {"name": _name_from(path), "corpus": {"sources": [source]}}
    return check_recipe(data, overrides, origin=str(path))


def recipe_for_tuning(overrides: Sequence[str]) -> Recipe:
    """The recipe of overrides alone: a base, and conversations to tune it on, or preferences."""
    base = next((word.partition("=")[2] for word in overrides if word.startswith("base=")), "model")
    place = Path(base.partition("@")[0]).expanduser()
    named = place.absolute().parent if place.name == "model" else place
    endings = {"sft.": "tuned", "prefer.": "aligned", "rl.": "aligned", "reward.": "reward"}
    begins = (start for start in endings if any(word.startswith(f"{start}sources") for word in overrides))
    ending = endings[next(begins, "prefer.")]
    return check_recipe({"name": f"{_name_from(named)[:56]}-{ending}"}, overrides, origin="what was given")


def check_recipe(data: dict[str, Any], overrides: Sequence[str], *, origin: str) -> Recipe:
    """Apply `overrides` to `data`, in place, and check the whole. Raises RecipeError."""
    apply_overrides(data, parse_overrides(overrides, Recipe))
    _name_kinds(data)
    _write_out_rewards(data)
    _resolve_paths(data, Path.cwd())
    try:
        recipe = Recipe.model_validate_json(json.dumps(data, default=str), strict=True)
    except ValidationError as error:
        raise RecipeError(f"{origin} does not make a recipe:\n{explain_validation(error, data, Recipe)}") from error
    if clashes := _clashes(recipe):
        raise RecipeError("\n".join([f"{origin} contradicts itself:", *clashes]))
    return recipe


def is_hub_id(base: str) -> bool:
    """Whether `base` names a model on the hub; a folder of that name goes first."""
    return _HUB_ID.fullmatch(base) is not None and not Path(base).exists()


def _clashes(recipe: Recipe) -> list[str]:
    """Settings that have no meaning together, each with its remedy. One at its default was not asked for."""
    found = _clashes_with_base(recipe) if recipe.base else _clashes_without_base(recipe)
    found += _clashes_of_tuning(recipe)
    if not recipe.replay.sources and recipe.replay.share != ReplaySection().share:
        found.append(
            f"replay.share={recipe.replay.share}: there is no text to replay; give replay.sources, or remove the share"
        )
    return found


def _clashes_with_base(recipe: Recipe) -> list[str]:
    found: list[str] = []
    tokenizer, pretrain = recipe.tokenizer, recipe.pretrain
    if tokenizer.vocab_size != "auto":
        found.append(
            f"tokenizer.vocab_size={tokenizer.vocab_size}: the vocabulary is the base's; "
            "remove it, or add tokens with tokenizer.extend_by=2000"
        )
    if not tokenizer.extend_by and tokenizer.train_bytes != TokenizerSection().train_bytes:
        found.append(
            f"tokenizer.train_bytes={tokenizer.train_bytes}: the vocabulary is the base's, and nothing is learned for it; "
            "remove it, or add tokens with tokenizer.extend_by=2000"
        )
    if not (Path(recipe.base).is_absolute() or is_hub_id(recipe.base)):
        found.append(f"base={recipe.base}: no such folder, and no hub id, which has the form owner/name; correct it")
    fixed = pretrain.lr_adamw != "auto" and (pretrain.optimizer == "adamw" or pretrain.lr_muon != "auto")
    if pretrain.rewarm != "auto" and fixed:
        found.append(
            f"pretrain.rewarm={pretrain.rewarm}: it scales learning rates that are auto, and all are fixed; remove it, or "
            "the rates"
        )
    frozen = next((pattern for pattern in pretrain.freeze if fnmatch.fnmatchcase(_EMBEDDING, pattern)), None)
    if tokenizer.extend_by and frozen is not None:
        found.append(
            f"pretrain.freeze has {frozen!r}, which freezes {_EMBEDDING}: the tokens of tokenizer.extend_by="
            f"{tokenizer.extend_by} could not be learned; take the pattern out, or set tokenizer.extend_by=0"
        )
    return found


def _clashes_of_preferring(recipe: Recipe) -> list[str]:
    found: list[str] = []
    prefer, sft = recipe.prefer, recipe.sft
    if prefer.delta is not None and not prefer.sources:
        found.append(
            "prefer.delta: there is nothing to learn from; give prefer.sources.0.path=FILE, or remove the delta"
        )
    if prefer.delta is not None and prefer.freeze:
        found.append(
            f"prefer.freeze={list(prefer.freeze)}: with prefer.delta all of the model is frozen already; remove one of the two"
        )
    if prefer.sources and sft.delta is not None and not (sft.delta_merged and sft.delta.mergeable):
        found.append(
            "prefer.sources: preferences are learned on the weights that fine-tuning leaves, and sft.delta would not be in them; "
            "use a delta that can be merged, with sft.delta_merged=true"
        )
    return found


def _clashes_of_reward(recipe: Recipe) -> list[str]:
    reward = recipe.reward
    found: list[str] = []
    if not reward.sources:
        if reward.delta is not None or reward.heads > 1:
            found.append(
                "reward: there is nothing to learn from; give reward.sources.0.path=FILE, or remove the section"
            )
        return found
    if reward.delta is not None and reward.freeze:
        found.append(
            f"reward.freeze={list(reward.freeze)}: with reward.delta all of the model is frozen already; remove one of the two"
        )
    if reward.delta is not None and not reward.delta.mergeable:
        found.append(
            f"reward.delta.method={reward.delta.name}: a reward model has what it learned in its weights; use a delta that can "
            "be merged, such as lora"
        )
    if reward.delta is None and reward.base_weights != "float":
        found.append(
            f"reward.base_weights={reward.base_weights}: weights of few bits learn nothing; give reward.delta.method=lora, or "
            "remove it"
        )
    for name, section in (("sft", recipe.sft), ("prefer", recipe.prefer)):
        if section.sources and section.delta is not None and not (section.delta_merged and section.delta.mergeable):
            found.append(
                f"reward.sources: it goes on from the weights that {name} leaves, and {name}.delta would not be in them; use a "
                f"delta that can be merged, with {name}.delta_merged=true"
            )
    return found


def _clashes_of_rl(recipe: Recipe) -> list[str]:
    rl, spec = recipe.rl, recipe.rl.algorithm
    found: list[str] = []
    if not rl.sources:
        if rl.rewards or rl.delta is not None:
            found.append("rl: there are no prompts to answer; give rl.sources.0.path=FILE, or remove the section")
        return found
    if isinstance(spec, DistillSpec) and not rl.rewards:
        if spec.reward_weight:
            found.append(
                f"rl.algorithm.reward_weight={spec.reward_weight}: there is no reward; give rl.rewards, or set it to 0"
            )
    elif not rl.rewards:
        found.append("rl.rewards is empty: say how answers are judged, such as rl.rewards.0=exact or rl.rewards.0=math")
    if spec.wants_groups and rl.completions == 1:
        found.append(
            f"rl.completions=1: {spec.name} compares the answers to one prompt; give 2 at least, or another algorithm.method"
        )
    if rl.prompts != "auto" and rl.prompts % spec.minibatches:
        found.append(
            f"rl.prompts={rl.prompts} is not divisible by rl.algorithm.minibatches={spec.minibatches}; change one of them"
        )
    if rl.batch_tokens != "auto" or rl.batch_warmup_fraction:
        found.append(
            "rl.batch_tokens and rl.batch_warmup_fraction: a batch is rl.prompts times rl.completions; remove them"
        )
    if rl.delta is not None and rl.delta.name in BEGIN_FROM_DATA:
        found.append(
            f"rl.delta.method={rl.delta.name}: it begins from what is learned, and answers are not there yet; use lora, or another"
        )
    if rl.delta is not None and rl.freeze:
        found.append(
            f"rl.freeze={list(rl.freeze)}: with rl.delta all of the model is frozen already; remove one of the two"
        )
    if spec.pretraining and not recipe.corpus.sources:
        found.append(
            f"rl.algorithm.pretraining={spec.pretraining}: there is no text of pre-training; give corpus.sources, or set it to 0"
        )
    for name, section in (("sft", recipe.sft), ("prefer", recipe.prefer)):
        if section.sources and section.delta is not None and not (section.delta_merged and section.delta.mergeable):
            found.append(
                f"rl.sources: it goes on from the weights that {name} leaves, and {name}.delta would not be in them; use a delta "
                f"that can be merged, with {name}.delta_merged=true"
            )
    return found


def _clashes_of_tuning(recipe: Recipe) -> list[str]:
    found = _clashes_of_preferring(recipe) + _clashes_of_reward(recipe) + _clashes_of_rl(recipe)
    sft = recipe.sft
    if sft.delta is not None and not sft.sources:
        found.append("sft.delta: there is nothing to tune on; give sft.sources.0.path=FILE, or remove the delta")
    if sft.delta is not None and sft.freeze:
        found.append(
            f"sft.freeze={list(sft.freeze)}: with sft.delta all of the model is frozen already; remove one of the two"
        )
    if sft.delta is None and sft.base_weights != "float":
        found.append(
            f"sft.base_weights={sft.base_weights}: weights of few bits learn nothing; give sft.delta.method=lora, or remove it"
        )
    if not recipe.only_tunes:
        return found
    if not (sft.sources or recipe.prefer.sources or recipe.reward.sources or recipe.rl.sources):
        found.append(
            "there is neither text nor conversations: give corpus.sources.0.path=FOLDER, or sft.sources.0.path=FILE"
        )
    if recipe.tokenizer.extend_by:
        found.append(
            f"tokenizer.extend_by={recipe.tokenizer.extend_by}: new tokens are learned from a corpus; give corpus.sources, or "
            "remove it"
        )
    if recipe.replay.sources:
        found.append(
            "replay.sources: text is replayed among a corpus, and there is none; give corpus.sources, or remove it"
        )
    if recipe.pretrain != PretrainSection():
        found.append("pretrain: without a corpus there is no pre-training; give corpus.sources, or remove the section")
    return found


def _clashes_without_base(recipe: Recipe) -> list[str]:
    found: list[str] = []
    if not recipe.corpus.sources:
        found.append(
            "corpus.sources is empty: give corpus.sources.0.path=FOLDER, or tune a model as it is with base=MODEL and "
            "sft.sources.0.path=FILE"
        )
    if recipe.pretrain.rewarm != "auto":
        found.append(
            f"pretrain.rewarm={recipe.pretrain.rewarm}: it lowers the learning rates of going on from a base, and there is "
            "none; give base=FOLDER, or set pretrain.lr_muon and pretrain.lr_adamw"
        )
    if recipe.tokenizer.extend_by:
        found.append(
            f"tokenizer.extend_by={recipe.tokenizer.extend_by}: there is no base whose vocabulary could grow; "
            "give base=FOLDER, or set tokenizer.vocab_size"
        )
    if recipe.replay.sources:
        found.append(
            "replay.sources: replay keeps a base from forgetting, and there is none; give base=FOLDER, or put the "
            "sources under corpus.sources"
        )
    return found


def dump_recipe(recipe: Recipe) -> str:
    """The whole recipe as YAML, every default written out."""
    return format_yaml(recipe.model_dump(mode="json"))


def _read_mapping(file: Path) -> dict[str, Any]:
    try:
        data = parse_yaml(file.read_text("utf-8-sig"))
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(
            f"cannot read the recipe {file}: {error}; give a YAML file or a folder of documents"
        ) from error
    except DuplicateKeyError as error:
        raise RecipeError(f"{file}: {_problem(error)}; keep one of the two") from error
    except YAMLError as error:
        raise RecipeError(f"{file} is not valid YAML: {_problem(error)}; mend that line") from error
    if not isinstance(data, dict):
        raise RecipeError(f"{file} holds {type(data).__name__}, not keys with values; begin with `corpus:`")
    try:
        return _text_keys(data)
    except RecursionError as error:
        raise RecipeError(f"{file} refers to itself (&name inside which *name stands); write that part out") from error


def _text_keys(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _text_keys(item) for key, item in cast("dict[Any, Any]", value).items()}
    if isinstance(value, list):
        return [_text_keys(item) for item in cast("list[Any]", value)]
    return value


def _problem(error: YAMLError) -> str:
    """The first line of what ruamel says, with the place."""
    detail = cast("Any", error)  # ruamel is untyped
    mark = detail.problem_mark if isinstance(error, MarkedYAMLError) else None
    text = str(detail.problem if isinstance(error, MarkedYAMLError) else error).strip().splitlines()[0]
    return f"{text} (line {mark.line + 1}, column {mark.column + 1})" if mark else text


def _name_kinds(data: dict[str, Any]) -> None:
    """Say the kind of sources that have a path and no kind, in place: documents lie in folders, conversations in files."""
    for section, kind in (("corpus", "folder"), ("replay", "folder"), ("sft", "file")):
        group = data.get(section)
        sources: Any = cast("dict[str, Any]", group).get("sources") if isinstance(group, dict) else None
        for source in cast("list[Any]", sources) if isinstance(sources, list) else ():
            if isinstance(source, dict) and "path" in source:
                cast("dict[str, Any]", source).setdefault("kind", kind)


def _write_out_rewards(data: dict[str, Any]) -> None:
    """Rewards in their short form in full, in place, so that their paths can be found."""
    group = data.get("rl")
    rewards: Any = cast("dict[str, Any]", group).get("rewards") if isinstance(group, dict) else None
    for place, reward in enumerate(cast("list[Any]", rewards) if isinstance(rewards, list) else ()):
        if isinstance(reward, str):
            with contextlib.suppress(RecipeError):  # the check says what is wrong with it
                rewards[place] = short_form(reward)


def _resolve_paths(data: dict[str, Any], base: Path) -> None:
    """Make every path in `data` absolute, in place; `~` is the user's folder. What is not text is left for the check."""
    for key in _PATH_KEYS:
        _resolve(data, key.split("."), base)
    _resolve(data, _PHRASINGS_KEY.split("."), base, is_phrasings_file)
    model = data.get("base")
    if isinstance(model, str) and model:
        place = base / Path(model).expanduser()
        if place.exists() or model.startswith((".", "~", "/")):  # anything else may be a hub id
            data["base"] = str(place.absolute())


def _resolve(at: Any, parts: Sequence[str], base: Path, is_path: Callable[[str], bool] = lambda text: True) -> None:
    items: list[tuple[Any, Any]] = []
    if isinstance(at, list) and parts[0] == "*":
        items = list(enumerate(cast("list[Any]", at)))
    elif isinstance(at, dict) and parts[0] in at:
        items = [(parts[0], cast("dict[str, Any]", at)[parts[0]])]
    for key, value in items:
        if len(parts) > 1:
            _resolve(value, parts[1:], base, is_path)
        elif isinstance(value, str) and is_path(value):
            at[key] = str((base / Path(value).expanduser()).absolute())


def _name_from(path: Path) -> str:
    name = re.sub(r"[^A-Za-z0-9_.一-鿿-]+", "-", path.absolute().name.split(".")[0] or "model").strip("-._")
    return name[:64] or "model"
