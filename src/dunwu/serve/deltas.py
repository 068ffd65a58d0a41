"""Deltas over the models of a server: which are offered under which names, and what an engine needs of one."""

import dataclasses
import re
import time
from collections.abc import Callable, Mapping, Sequence

from dunwu.core.errors import DunwuError, RecipeError
from dunwu.delta.bases import base_of_folder, require_base
from dunwu.delta.finding import Found, find, read_found
from dunwu.delta.library import Library, require_name
from dunwu.delta.lora import Lora
from dunwu.delta.rows import row_changes
from dunwu.infer.adapters import Change, LowRank
from dunwu.model.decoder import Decoder
from dunwu.serve.source import ModelSource

_SETTLED_S = 2.0
"""A folder whose time of change is younger may change again without another time."""
Lookup = Callable[[], Mapping[str, ModelSource]]


def offered_by(base: ModelSource, found: Found) -> ModelSource:
    """What a delta is offered as: `base:name`."""
    return dataclasses.replace(
        base,
        id=f"{base.id}:{found.name}",
        base=base.id,
        delta=found,
        stage="",
        **found.manner,
    )


def chosen(words: Sequence[str], bases: Sequence[ModelSource], library: Library) -> list[ModelSource]:
    """The deltas of the command line, `NAME` or `NAME=WHERE`, each over the models that it was trained on.

    Raises RecipeError or ModelError for one that cannot be found, or that goes with none of the models.
    """
    here = _digests(bases)
    found = [_named(word, library) for word in words]
    return [offered_by(base, one) for one in found for base in _bases_of(one, bases, here)]


def _named(word: str, library: Library) -> Found:
    parts = re.fullmatch(r"([^=/\\]+)=(.+)", word)
    one = find(parts[2] if parts else word, library)
    name = parts[1] if parts else one.name
    try:
        require_name(name)
    except RecipeError as error:
        raise RecipeError(f"--delta {word}: {error}; write NAME={one.folder}") from error
    return dataclasses.replace(one, name=name)


def _bases_of(found: Found, bases: Sequence[ModelSource], here: Mapping[str, Mapping[str, str]]) -> list[ModelSource]:
    fitting = [base for base in bases if found.entry.goes_with(here.get(base.id, {}))]
    if fitting or not bases:
        return fitting
    if not found.entry.base:
        finished = [base for base in bases if not base.stage]
        if len(finished) == 1:
            return finished
        raise RecipeError(
            f"the delta {found.name!r} does not say which model it was trained on, and {len(finished)} are served; put it into "
            f"the registry with its base: dunwu delta add {found.folder} --name {found.name} --base MODEL"
        )
    require_base(found.entry.base, bases[0].folder, found.name, found.entry.base_name)
    return [bases[0]]


def _digests(bases: Sequence[ModelSource]) -> dict[str, Mapping[str, str]]:
    """Of each model; one that cannot be read has none, and says so itself when it is loaded."""
    digests: dict[str, Mapping[str, str]] = {}
    for base in bases:
        try:
            digests[base.id] = base_of_folder(base.folder)
        except DunwuError:
            continue
    return digests


class EveryDelta:
    """All of a registry that go with one of the models, by the names they are offered under. What is added and removed while the
    server runs is seen at the next call."""

    def __init__(self, library: Library, bases: Sequence[ModelSource]) -> None:
        self._library, self._bases = library, bases
        self._here = _digests(bases)
        self._seen_ns: int | None = None
        self._sources: Mapping[str, ModelSource] = {}

    def __call__(self) -> Mapping[str, ModelSource]:
        changed_ns = self._changed_ns()
        if changed_ns != self._seen_ns:
            self._sources = {source.id: source for source in self._look()}
            self._seen_ns = changed_ns if time.time_ns() - (changed_ns or 0) > _SETTLED_S * 1e9 else None
        return self._sources

    def _look(self) -> list[ModelSource]:
        try:
            entries, _ = self._library.entries()
        except DunwuError:
            return []
        return [
            offered_by(
                base, Found(name=entry.name, folder=self._library.folder / entry.name, entry=entry, is_kept=True)
            )
            for base in self._bases
            for entry in entries
            if entry.goes_with(self._here.get(base.id, {}))
        ]

    def _changed_ns(self) -> int | None:
        try:
            return self._library.folder.stat().st_mtime_ns
        except OSError:
            return None


def read_adapter(source: ModelSource, model: Decoder) -> Callable[[], Mapping[str, Change]]:
    """Read a delta for the model that its base became; what is given makes an adapter of it, in the engine's thread.

    Raises ModelError for damaged files, another base, and a delta that cannot share a batch with others.
    """
    found = source.delta
    assert found is not None
    delta = read_found(found, model, source.folder)
    if type(delta) is Lora and delta.row_wise:
        low_rank = {name: LowRank(pair.a.detach(), pair.b.detach(), pair.scale) for name, pair in delta.pairs.items()}
        return lambda: low_rank
    return lambda: row_changes(delta)
