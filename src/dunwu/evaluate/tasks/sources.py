"""Which files hold a split of a task: those that its YAML names, those of a folder that the user gives, or the hub's."""

import fnmatch
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from dunwu.core.errors import DataError
from dunwu.evaluate.tasks.hub import hub_files
from dunwu.evaluate.tasks.rows import ENDINGS, TaskRow, ending_of, read_rows
from dunwu.evaluate.tasks.spec import TaskSpec
from dunwu.evaluate.tasks.world import world_rows

# Names under which a split lies in folders; the first is the hub's.
SPLITS = {
    "test": ("test",),
    "validation": ("validation", "valid", "val"),
    "val": ("val", "validation", "valid"),
    "dev": ("dev",),
    "train": ("train", "training"),
}
_WORDS = {word for words in SPLITS.values() for word in words}


class NoSplitError(DataError):
    """The folder that the user gave holds no such split."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a task looks. `folder`: of its YAML. `data`: what the user gave instead of the source that the YAML names."""

    folder: Path = Path()
    data: Path | None = None


def read_split(spec: TaskSpec, split: str, place: Place, subjects: Sequence[str]) -> Iterator[tuple[str, TaskRow]]:
    """The rows of a split, each with the subject that its file stands for ("" where it stands for none).

    Raises DataError where there is no such split, or a row cannot be read.
    """
    if spec.source.world is not None and place.data is None:
        yield from world_rows(spec.source.world, split)
        return
    for subject, path in split_files(spec, split, place, subjects):
        for row in read_rows(path, rows=spec.source.rows, columns=spec.source.columns):
            yield subject, row


def split_files(spec: TaskSpec, split: str, place: Place, subjects: Sequence[str]) -> list[tuple[str, Path]]:
    """The files of a split, in order, with their subjects."""
    if place.data is not None:
        return _given(spec, split, place.data.expanduser())
    if spec.source.files:
        return _named(spec, split, place.folder, subjects)
    if spec.source.hub:
        return hub_files(spec.source, split, subjects or ("",), task=spec.name)
    raise DataError(f"the task {spec.name} names no source; write source.files or source.hub, or give data=FOLDER")


def _given(spec: TaskSpec, split: str, data: Path) -> list[tuple[str, Path]]:
    if data.is_file():
        if split == spec.split:
            return [(subject_of(data, data.parent, spec), data)]
        data = data.parent
    if not data.is_dir():
        raise DataError(f"data={data} does not exist; give the folder or the file with the questions of {spec.name}")
    files = [path for path in sorted(data.rglob("*")) if path.is_file() and ending_of(path)]
    files = [path for path in files if not any(part.startswith(".") for part in path.relative_to(data).parts)]
    named = [path for path in files if _matches(path, spec.source.names)]
    if spec.source.only_named:  # other tasks' files may lie there, but test.jsonl is nobody else's
        files = [path for path in files if _says(path.relative_to(data), _WORDS)]
    files = named or files
    found = [path for path in files if _says(path.relative_to(data), SPLITS.get(split, (split,)))]
    if not found and split == spec.split:
        others = {*_WORDS, spec.shots.split}
        rows = [path for path in files if ending_of(path) != ".txt"]
        found = [path for path in rows if not _says(path.relative_to(data), others)] or (rows if len(rows) == 1 else [])
    if not found:
        has = ", ".join(str(path.relative_to(data)) for path in files[:8]) or f"no file with one of {' '.join(ENDINGS)}"
        raise NoSplitError(
            f"{data} holds no split {split!r} of {spec.name} (it holds {has}); name a file {split}.jsonl, or put it into a "
            f"folder {split}/"
        )
    return [(subject_of(path, data, spec), path) for path in found]


def _named(spec: TaskSpec, split: str, folder: Path, subjects: Sequence[str]) -> list[tuple[str, Path]]:
    patterns = spec.source.files.get(split)
    if patterns is None:
        known = ", ".join(spec.source.files)
        raise DataError(
            f"the task {spec.name} names no files of the split {split!r}, only of {known}; add source.files.{split}"
        )
    found: list[tuple[str, Path]] = []
    for pattern in patterns:
        for subject in (subjects or ("",)) if "{subject}" in pattern else ("",):
            wanted = folder / Path(pattern.replace("{subject}", subject)).expanduser()
            paths = _expanded(wanted)
            if not paths:
                raise DataError(
                    f"the task {spec.name}: no file fits {str(wanted)!r} (source.files.{split}); mend the path"
                )
            found += [
                (subject or subject_of(path, wanted if wanted.is_dir() else wanted.parent, spec), path)
                for path in paths
            ]
    return found


def _expanded(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    if path.is_dir():
        return [file for file in sorted(path.rglob("*")) if file.is_file() and ending_of(file)]
    root = Path(*_before_pattern(path))
    pattern = str(path.relative_to(root))
    return sorted(file for file in root.glob(pattern) if file.is_file()) if root.is_dir() else []


def _before_pattern(path: Path) -> Iterator[str]:
    for part in path.parts:
        if any(character in part for character in "*?["):
            return
        yield part


def _matches(path: Path, names: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(path.name.lower(), name.lower()) for name in names)


def _parts(path: Path) -> list[str]:
    """Folders and the words of a file's name, without its endings."""
    stem = path.name[: -len(path.name) + path.name.lower().rfind(ending_of(path))] if ending_of(path) else path.name
    return [*path.parent.parts, stem]


def _says(path: Path, words: Sequence[str] | set[str]) -> bool:
    """Whether a folder or a word of the file's name is one of these."""
    return any(set(re.split(r"[_.\-]", part.lower())) & set(words) or part.lower() in words for part in _parts(path))


def subject_of(path: Path, root: Path, spec: TaskSpec) -> str:
    """The subject that a file's name, or a folder above it, stands for, without the word for its split."""
    relative = path.relative_to(root) if path.is_relative_to(root) else Path(path.name)
    names = [_without_split(part) for part in _parts(relative)]
    known = [name for name in reversed(names) if name in spec.subjects]
    return known[0] if known else ""


def _without_split(name: str) -> str:
    words = "|".join(sorted(_WORDS, key=len, reverse=True))
    name = re.sub(r"-\d{5}-of-\d{5}$", "", name)
    return re.sub(rf"(?i)(?:[_.\-](?:{words})|^(?:{words})[_.\-])$|[_.\-](?:{words})$|^(?:{words})[_.\-]", "", name)
