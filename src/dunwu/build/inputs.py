"""Hashes of the files outside the home that a recipe names, remembered so that a big folder is not read at every command."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from dunwu.core.errors import DataError
from dunwu.core.lineage import FileHashes, user_cache_folder
from dunwu.core.modelfiles import is_phrasings_file
from dunwu.core.policy import DistillSpec
from dunwu.core.recipe import (
    AnyPreferenceSource,
    CorpusSource,
    FolderSource,
    PreferenceSource,
    PromptFileSource,
    Recipe,
    SftFileSource,
)
from dunwu.core.rewards import FunctionReward
from dunwu.corpus.readers import READERS, SourceFile, list_files

Hashes = Mapping[str, Mapping[str, str]]


def corpus_inputs(recipe: Recipe) -> Hashes:
    """SHA-256 by name of every readable document, by source. Raises DataError when a path does not exist."""
    found = {f"corpus.sources.{i}": source_files(source) for i, source in folder_sources(recipe)}
    return _hashed(found | _decontaminate_files(recipe))


def replay_inputs(recipe: Recipe) -> Hashes:
    """SHA-256 by name of every readable document of the replayed text, by source."""
    found = {f"replay.sources.{i}": source_files(source) for i, source in folders(recipe.replay.sources)}
    return _hashed(found | _decontaminate_files(recipe))


def sft_inputs(recipe: Recipe) -> Hashes:
    """SHA-256 of every instruction file, by source, and of the phrasings that are files."""
    sources = [(i, source) for i, source in enumerate(recipe.sft.sources) if isinstance(source, SftFileSource)]
    phrasings = {
        f"sft.sources.{i}.phrasings.{j}": _one_file(Path(name))
        for i, source in sources
        for j, name in enumerate(source.phrasings)
        if is_phrasings_file(name)
    }
    return _hashed({f"sft.sources.{i}": _one_file(Path(source.path)) for i, source in sources} | phrasings)


def prefer_inputs(recipe: Recipe) -> Hashes:
    """SHA-256 of every file of preferences, by source."""
    return _preference_files("prefer", recipe.prefer.sources)


def reward_inputs(recipe: Recipe) -> Hashes:
    """SHA-256 of every file of judgements, by source."""
    return _preference_files("reward", recipe.reward.sources)


def _preference_files(section: str, sources: Sequence[AnyPreferenceSource]) -> Hashes:
    files = [(i, one) for i, one in enumerate(sources) if isinstance(one, PreferenceSource)]
    return _hashed({f"{section}.sources.{i}": _one_file(Path(one.path)) for i, one in files})


def rl_inputs(recipe: Recipe) -> Hashes:
    """SHA-256 of every file of prompts, by source, and of the files and folders that rewards name."""
    files = [(i, source) for i, source in enumerate(recipe.rl.sources) if isinstance(source, PromptFileSource)]
    found = {f"rl.sources.{i}": _one_file(Path(source.path)) for i, source in files}
    for i, reward in enumerate(recipe.rl.rewards):
        for named in (getattr(reward, "path", ""), getattr(reward, "file", "")):
            place = Path(named.rpartition(":")[0] if isinstance(reward, FunctionReward) else named)
            if named:
                found[f"rl.rewards.{i}"] = _one_file(place)
    if isinstance(recipe.rl.algorithm, DistillSpec):
        found["rl.algorithm.teacher"] = _one_file(Path(recipe.rl.algorithm.teacher))
    return _hashed(found)


def folder_sources(recipe: Recipe) -> Iterator[tuple[int, FolderSource]]:
    """The folders of the recipe's corpus with their places in the list."""
    return folders(recipe.corpus.sources)


def folders(sources: Iterable[CorpusSource]) -> Iterator[tuple[int, FolderSource]]:
    """The folders among `sources` with their places."""
    for i, source in enumerate(sources):
        if isinstance(source, FolderSource):
            yield i, source


def file_hashes(files: Iterable[Path]) -> Mapping[str, str]:
    """SHA-256 of `files` by their names."""
    return _hashed({"": [SourceFile(path=file, source=file.name) for file in files]})[""]


def source_files(source: FolderSource) -> list[SourceFile]:
    """The files of a folder that a reader exists for. Raises DataError where there are none."""
    files = list_files(Path(source.path), source.include, source.exclude)
    readable = [file for file in files if file.extension in READERS]
    if not readable:
        kinds = " ".join(sorted({file.extension or "(no extension)" for file in files})[:8])
        found = f"only files of kinds that dunwu does not read: {kinds}" if files else "no files"
        raise DataError(f"{source.path} holds {found}; put documents there: {' '.join(READERS)}, also .gz and .zst")
    return readable


def _decontaminate_files(recipe: Recipe) -> dict[str, list[SourceFile]]:
    files = enumerate(recipe.corpus.decontaminate_files)
    return {f"corpus.decontaminate_files.{i}": _one_file(Path(path)) for i, path in files}


def _one_file(path: Path) -> list[SourceFile]:
    if not path.exists():
        raise DataError(f"{path} does not exist; correct the path in the recipe")
    return list_files(path, ("**/*",), ())


def _hashed(found: Mapping[str, Iterable[SourceFile]]) -> Hashes:
    memory = FileHashes(user_cache_folder() / "files.json")
    try:
        return {name: {file.source: _hash(memory, file.path) for file in files} for name, files in found.items()}
    finally:
        memory.save()


def _hash(memory: FileHashes, path: Path) -> str:
    try:
        return memory.of(path)
    except OSError as error:  # the corpus reports it as a file that it could not read
        return f"unreadable: {error.strerror}"
