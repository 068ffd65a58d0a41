"""What the words after `dunwu build` mean: a recipe and a home."""

import importlib.resources
from collections.abc import Sequence
from pathlib import Path

from dunwu.build.home import Home
from dunwu.core.errors import RecipeError
from dunwu.core.load import RECIPE_SUFFIXES, load_recipe, recipe_for_documents, recipe_for_tuning
from dunwu.core.overrides import looks_like_override
from dunwu.core.recipe import Recipe

BUILDS = Path("builds")
OUT = "out="


def shipped_recipe(name: str = "default") -> Path:
    """A recipe that comes with dunwu."""
    return Path(str(importlib.resources.files("dunwu") / "recipes" / f"{name}.yaml"))


def resolve(words: Sequence[str]) -> tuple[Recipe, Home]:
    """The recipe and the home that the words name. Raises RecipeError with what to write instead."""
    target, overrides, out = _sort(words)
    if target is None and _tunes(overrides):
        recipe, home = recipe_for_tuning(overrides), None
    elif target is None:
        recipe, home = load_recipe(shipped_recipe(), overrides), None
    elif Home(target).exists():
        recipe, home = load_recipe(Home(target).recipe_file, overrides), target
    elif target.is_file() and target.suffix.lower() in RECIPE_SUFFIXES:
        recipe, home = load_recipe(target, overrides), None
    elif target.exists():
        recipe, home = recipe_for_documents(target, overrides), None
    elif shipped_recipe(str(target)).is_file():
        recipe, home = load_recipe(shipped_recipe(str(target)), overrides), None
    else:
        raise RecipeError(
            f"{target} does not exist; give a recipe, a folder of documents, a document or a build's home"
        )
    return recipe, Home(out or home or BUILDS / recipe.name)


def _tunes(overrides: Sequence[str]) -> bool:
    """Whether the overrides name a model and conversations or preferences, and no text: then they are the whole recipe."""
    begins = {
        start: any(word.startswith(start) for word in overrides)
        for start in ("base=", "sft.sources", "prefer.sources", "reward.sources", "rl.sources", "corpus.")
    }
    learns = any(begins[f"{name}.sources"] for name in ("sft", "prefer", "reward", "rl"))
    return begins["base="] and learns and not begins["corpus."]


def _sort(words: Sequence[str]) -> tuple[Path | None, list[str], Path | None]:
    """Words into: what to build, overrides, and where."""
    targets: list[str] = []
    overrides: list[str] = []
    out: Path | None = None
    for word in words:
        if word.startswith(OUT):
            if not word.removeprefix(OUT):
                raise RecipeError("out= names no folder; write out=FOLDER")
            out = Path(word.removeprefix(OUT)).expanduser()
        elif looks_like_override(word) and not Path(word).exists():
            overrides.append(word)
        else:
            targets.append(word)
    if len(targets) > 1:
        raise RecipeError(
            f"{targets[1]!r} is one name too many after {targets[0]!r}; overrides have the form key=value"
        )
    return (Path(targets[0]).expanduser() if targets else None), overrides, out
