"""All text that a model of this machine learned from: its build's, and that of the builds which it goes on from.

What cannot be read (a hub's model, an imported one, files that are gone) is named, so that nobody takes it for searched.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from dunwu.build.base import base_folder, base_name, on_hub
from dunwu.build.costs import sft_examples
from dunwu.build.home import Home
from dunwu.core.errors import DataError, RecipeError
from dunwu.core.files import read_json
from dunwu.core.load import load_recipe
from dunwu.core.recipe import AnyPreferenceSource, PromptSource, Recipe, SftSource
from dunwu.core.records import Document, Message
from dunwu.corpus.pairs import PreferenceReader
from dunwu.corpus.prompts import prompts_of
from dunwu.corpus.store import read_documents

_Read = Callable[[], Iterable[Sequence[Message]]]
TEXTS = {"corpus": "corpus", "replay": "replayed text"}


@dataclass(frozen=True, kw_only=True)
class Source:
    """One thing that was learned from. `bytes`: of its text, where its card says so."""

    name: str
    documents: Callable[[], Iterable[Document]]
    bytes: int | None = None


@dataclass(frozen=True, kw_only=True)
class Learned:
    """What there is to search, and what there is not, each with a reason."""

    sources: tuple[Source, ...] = ()
    missing: tuple[str, ...] = ()

    def __add__(self, other: "Learned") -> "Learned":
        return Learned(sources=self.sources + other.sources, missing=self.missing + other.missing)


def learned_from(name: str, folder: Path) -> Learned:
    """Of the model in a folder: what its build learned from, then its base's, and so on to the first."""
    seen: set[Path] = set()
    found = Learned()
    place: Path | None = folder.resolve()
    while place is not None and place not in seen:
        told, following = _of_model(name if not seen else _name(place), place)
        seen.add(place)
        found, place = found + told, following
    return found


def home_of(folder: Path) -> Home | None:
    """The build whose model lies in the folder, if it is there."""
    return next((home for home in map(Home, (folder, folder.parent)) if home.exists()), None)


def _name(folder: Path) -> str:
    return folder.parent.name if folder.name == "model" else folder.name


def _of_model(name: str, folder: Path) -> tuple[Learned, Path | None]:
    """What one build learned from, and the folder of its base."""
    home = home_of(folder)
    if home is None:
        return _missing(f"{name} was not built here: nothing says what it learned from"), None
    try:
        recipe = load_recipe(home.recipe_file)
        built = read_json(home.build_file)["stages"]
    except (RecipeError, DataError, KeyError, TypeError) as error:
        return _missing(f"{name}: its records cannot be read ({error})"), None
    found = _texts(name, home, built) + _said(name, recipe, built)
    if not recipe.base:
        return found, None
    base, place = _base(name, recipe)
    return found + base, place


def _base(name: str, recipe: Recipe) -> tuple[Learned, Path | None]:
    if on_hub(recipe.base):
        return _missing(f"{name} goes on from {recipe.base}, whose training text is not on this machine"), None
    try:
        return Learned(), base_folder(recipe).resolve()
    except RecipeError as error:
        return _missing(f"{name} goes on from {base_name(recipe)}, which is no longer there ({error})"), None


def _texts(name: str, home: Home, built: Mapping[str, str]) -> Learned:
    found = Learned()
    for stage, what in TEXTS.items():
        if stage not in built:
            continue
        folder = home.stages / built[stage]
        if not any(folder.glob("train*.jsonl.zst")):
            found += _missing(f"{name}: its {what} is no longer there ({folder})")
            continue
        card = folder / "card.json"
        size = read_json(card).get("facts", {}).get("train_bytes") if card.is_file() else None
        source = Source(name=f"{name}: {what}", documents=partial(read_documents, folder, "train"), bytes=size)
        found += Learned(sources=(source,))
    return found


def _said(name: str, recipe: Recipe, built: Mapping[str, str]) -> Learned:
    """Conversations, preferences and prompts of the stages that were built."""
    told: list[tuple[str, str, Any, _Read]] = [
        *(("sft", "conversations", one, partial(_conversations, one)) for one in recipe.sft.sources),
        *(("prefer", "preferences", one, partial(_preferences, one)) for one in recipe.prefer.sources),
        # Generated prompts only ask, and take as long to make as some corpora to read.
        *(("rl", "prompts", one, partial(_prompts, one)) for one in recipe.rl.sources if one.kind == "file"),
    ]
    found = Learned()
    for stage, what, source, read in told:
        if stage not in built:
            continue
        path = getattr(source, "path", None)
        said = f"{name}: {what} of {Path(path).name if path else source.kind}"
        if path and not Path(path).exists():
            found += _missing(f"{said}: {path} is no longer there")
        else:
            found += Learned(sources=(Source(name=said, documents=partial(_documents, said, read)),))
    return found


def _documents(name: str, read: _Read) -> Iterator[Document]:
    for messages in read():
        yield Document(text="\n".join(message.content for message in messages), source=name)


def _conversations(source: SftSource) -> Iterator[Sequence[Message]]:
    return (example.messages for example in sft_examples(source))


def _preferences(source: AnyPreferenceSource) -> Iterator[Sequence[Message]]:
    for one in PreferenceReader(source):
        for answer in (one.chosen, one.rejected):
            yield (*one.prompt, *(answer or ()))


def _prompts(source: PromptSource) -> Iterator[Sequence[Message]]:
    """What is asked, and what counts as right."""
    for prompt in prompts_of(source):
        answer = prompt.columns.get("answer")
        yield (*prompt.messages, *([Message(role="assistant", content=answer)] if isinstance(answer, str) else []))


def _missing(reason: str) -> Learned:
    return Learned(missing=(reason,))
