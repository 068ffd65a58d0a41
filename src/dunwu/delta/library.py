"""The registry of finished deltas: a folder, of this user or shared, with a folder for each entry.

REGISTRY/
└── NAME/
    ├── entry.json               what is known of the delta, and sizes and SHA-256 of its files
    ├── adapter_config.json      the delta itself, as `storing.py` writes it: peft reads it where it lies
    └── adapter_model.safetensors

There is no index: what the registry holds is what its entries say. An entry is made beside its place and renamed into it, so it
is there whole or not at all, also where several write at once. Entries may come from others: names, links, sizes and checksums are
looked at before anything is used, and nothing is ever run. (The methods of training are in `registry.py`.)
"""

import contextlib
import datetime
import difflib
import fcntl
import os
import shutil
import tempfile
import unicodedata
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from dunwu.core.errors import DataError, DunwuError, ModelError, RecipeError
from dunwu.core.files import atomic_write, disk_errors, fsync_folder, read_json, sha256_file, write_json
from dunwu.core.section import Section
from dunwu.delta.bases import base_key
from dunwu.delta.storing import OWN_CONFIG, OWN_WEIGHTS, PEFT_CONFIG, PEFT_WEIGHTS, Saved, describe

REGISTRY_VARIABLE = "DUNWU_DELTAS"
ENTRY_FILE = "entry.json"
LOCK_FILE = ".lock"
MOST_NAME_CHARACTERS = 64
_FILES = {PEFT_CONFIG, PEFT_WEIGHTS, OWN_CONFIG, OWN_WEIGHTS}
_MOST_ENTRY_BYTES = 4 << 20
_DEVICES = {"con", "prn", "aux", "nul", *(f"{kind}{number}" for kind in ("com", "lpt") for number in range(10))}
_MARKS = "._-"


class FileFacts(Section):
    """A file of an entry."""

    bytes: Annotated[int, Field(ge=0)]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class DeltaEntry(Section):
    """What is known of a finished delta. `numbers`: how many it is made of. `base`: digests of the base's weights and chat
    template (`bases.py`); `lineage`: the chain of hashes from the data to it; `scores`: as `dunwu.json` has them."""

    format: Literal[1] = 1
    name: str
    method: str
    numbers: Annotated[int, Field(ge=0)]
    base: dict[str, str] = Field(default_factory=dict)
    base_name: str = ""
    lineage: dict[str, Any] = Field(default_factory=dict)
    scores: dict[str, Any] = Field(default_factory=dict)
    licence: str = ""
    note: str = ""
    created: str
    dunwu: str = ""
    instruction_tuned: bool | None = None
    system_prompt: str = ""
    files: Annotated[dict[str, FileFacts], Field(min_length=1)]

    @property
    def bytes(self) -> int:
        """What the delta takes on disk."""
        return sum(file.bytes for file in self.files.values())

    @property
    def base_key(self) -> str:
        """A short name of the base, the same for all deltas over it; "" where nothing is known of it."""
        return base_key(self.base) if self.base else ""

    def goes_with(self, here: Mapping[str, str]) -> bool:
        """Whether all that is known of its base is so in a model's digests, and something is."""
        known = [name for name in self.base if name in here]
        return bool(known) and all(self.base[name] == here[name] for name in known)

    @property
    def version(self) -> str:
        """Another one for other weights under the same name."""
        return base_key({name: file.sha256 for name, file in self.files.items()})


@dataclass(frozen=True, kw_only=True)
class Damaged:
    """A folder in the registry that is no entry, and why."""

    name: str
    reason: str


class Library:
    """The registry in `folder`; one that does not exist is empty, and made when something is added."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def entries(self) -> tuple[list[DeltaEntry], list[Damaged]]:
        """All entries in the order of their names, and what is damaged. Raises ModelError where the folder cannot be read."""
        found: list[DeltaEntry] = []
        damaged: list[Damaged] = []
        for name in self._names():
            try:
                found.append(self.entry(name))
            except DunwuError as error:
                damaged.append(Damaged(name=name, reason=str(error)))
        return found, damaged

    def entry(self, name: str) -> DeltaEntry:
        """What is known of a delta. Its files are looked at, not read. Raises RecipeError for a name that cannot be one, and
        ModelError where there is no such entry, or it is damaged."""
        require_name(name)
        folder = self.folder / name
        if not folder.is_dir():
            raise self._missing(name)
        if not (folder / ENTRY_FILE).is_file():
            raise ModelError(
                f"{folder} has no {ENTRY_FILE}, so nothing is known of it; remove it and add the delta again"
            )
        entry = _read(folder)
        _require_files(folder, entry)
        return entry

    def files(self, name: str) -> Path:
        """The folder of a delta whose files are as they were when it was added. Raises as `entry`."""
        entry, folder = self.entry(name), self.folder / name
        for file, facts in entry.files.items():
            if sha256_file(folder / file) != facts.sha256:
                raise ModelError(
                    f"{folder / file} was changed since it was added: its SHA-256 is another; remove the entry and add it again"
                )
        return folder

    def add(self, source: Path, entry: DeltaEntry) -> DeltaEntry:
        """Copy the delta that lies in `source` under the entry's name; gives the entry with what its files really are.

        Raises RecipeError for a name that cannot be one or is taken, ModelError for damaged files, DiskError.
        """
        require_name(entry.name)
        with disk_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            fresh = Path(tempfile.mkdtemp(prefix=f".{entry.name}.", suffix=".tmp", dir=self.folder))
            try:
                fresh.chmod(0o755)
                files = {name: _copy(source / name, fresh / name) for name in entry.files}
                whole = entry.model_copy(update={"files": files})
                write_json(fresh / ENTRY_FILE, whole.model_dump(mode="json"))
                describe(fresh)
                fsync_folder(fresh)
                with self._alone():
                    self._require_free(entry.name)
                    os.rename(fresh, self.folder / entry.name)
                fsync_folder(self.folder)
            finally:
                shutil.rmtree(fresh, ignore_errors=True)
        return whole

    def remove(self, name: str) -> None:
        """Take an entry out, a damaged one too. Raises RecipeError or ModelError where there is none of this name."""
        require_name(name)
        folder = self.folder / name
        if not os.path.lexists(folder):
            raise self._missing(name)
        if folder.is_symlink():
            raise ModelError(f"{folder} is a link, which dunwu does not follow; remove it by hand")
        with disk_errors(folder):
            aside = Path(tempfile.mkdtemp(prefix=f".{name}.", suffix=".tmp", dir=self.folder))
            with self._alone():
                os.rename(folder, aside / name)
            fsync_folder(self.folder)
            shutil.rmtree(aside, ignore_errors=True)

    def _names(self) -> list[str]:
        try:
            return sorted(
                path.name for path in self.folder.iterdir() if not path.name.startswith(".") and path.is_dir()
            )
        except FileNotFoundError:
            return []
        except OSError as error:
            raise ModelError(
                f"the registry {self.folder} cannot be read ({error.strerror}); give a folder with --registry, or set "
                f"{REGISTRY_VARIABLE}"
            ) from error

    def _missing(self, name: str) -> ModelError:
        names = self._names()
        near = difflib.get_close_matches(name, names, n=1)
        known = f"did you mean {near[0]}?" if near else f"there are: {', '.join(names[:20]) or 'none'}"
        return ModelError(f"there is no delta {name!r} in {self.folder}; {known}")

    def _require_free(self, name: str) -> None:
        """Names that differ by case alone, or by how a letter is composed, are one file on many disks."""
        taken = next((other for other in self._names() if _folded(other) == _folded(name)), None)
        if taken == name:
            raise RecipeError(
                f"there is a delta {name!r} in {self.folder} already; give another name, or take that one out first with "
                f"`dunwu delta remove {name}`"
            )
        if taken is not None:
            raise RecipeError(
                f"the name {name!r} differs from {taken!r} in {self.folder} by case alone; give a name of its own"
            )

    @contextlib.contextmanager
    def _alone(self) -> Generator[None]:
        """One writer at a time, as far as the file system can; a rename onto an entry fails without it too."""
        with (self.folder / LOCK_FILE).open("ab") as lock:
            with contextlib.suppress(OSError):  # some network folders know no locks
                fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def default_library(folder: Path | str | None = None) -> Library:
    """The registry in `folder`, else in $DUNWU_DELTAS, else in the user's folder of data."""
    named = folder or os.environ.get(REGISTRY_VARIABLE)
    if named:
        return Library(Path(named).expanduser())
    data = os.environ.get("XDG_DATA_HOME")
    return Library((Path(data) if data else Path.home() / ".local" / "share") / "dunwu" / "deltas")


def new_entry(name: str, source: Path, **facts: Any) -> DeltaEntry:
    """An entry of the delta in `source`, to be added; `facts` stand above what its files say.

    Raises RecipeError for a name that cannot be one, and ModelError where `source` holds no delta.
    """
    require_name(name)
    saved: Saved = describe(source)
    own: Mapping[str, Any] = {
        "method": saved.method,
        "numbers": saved.numbers,
        "base": dict(saved.base),
        "base_name": saved.base_name,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
    files = {file: FileFacts(bytes=(source / file).stat().st_size, sha256="0" * 64) for file in saved.files}
    return DeltaEntry(name=name, files=files, **{**own, **facts})


def require_name(name: str) -> None:
    """Raise RecipeError for a name that cannot be a folder's and a model's on every machine."""
    reason = _fault_of(name)
    if reason:
        raise RecipeError(
            f"{name[:80]!r} cannot be the name of a delta: {reason}; give letters, digits, '.', '_' and '-', such as tone-v2"
        )


def _fault_of(name: str) -> str | None:
    odd = next((mark for mark in name if not (mark.isalnum() or mark in _MARKS)), None)
    if not name:
        return "it is empty"
    if ".." in name:
        return "'..' leads out of the registry"
    if odd is not None:
        return f"it has {odd!r}"
    if not name[0].isalnum() or name.endswith("."):
        return "it must begin with a letter or digit and not end with '.'"
    if len(name) > MOST_NAME_CHARACTERS or len(name.encode()) > 3 * MOST_NAME_CHARACTERS:
        return f"it has {len(name)} characters, and at most {MOST_NAME_CHARACTERS} fit"
    if name.partition(".")[0].casefold() in _DEVICES:
        return "Windows keeps it for a device"
    if unicodedata.normalize("NFC", name) != name:
        return "its letters are written in pieces (not in Unicode's form NFC)"
    return None


def _folded(name: str) -> str:
    return unicodedata.normalize("NFKC", name).casefold()


def _read(folder: Path) -> DeltaEntry:
    file = folder / ENTRY_FILE
    if folder.is_symlink() or file.is_symlink():
        raise ModelError(f"{folder} is a link or has one, which dunwu does not follow; put the files themselves there")
    if file.stat().st_size > _MOST_ENTRY_BYTES:
        raise ModelError(f"{file} has {file.stat().st_size} bytes, more than an entry takes; remove the entry")
    try:
        entry = DeltaEntry.model_validate(read_json(file))
    except (DataError, RecursionError) as error:
        raise ModelError(f"{file} is damaged ({error}); remove the entry and add it again") from error
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(map(str, first["loc"]))
        raise ModelError(
            f"{file} does not describe a delta ({key}: {first['msg']}); it is damaged, or of another version of dunwu: remove "
            "the entry and add it again"
        ) from error
    if entry.name != folder.name:
        raise ModelError(
            f"{file} says that its name is {entry.name[:80]!r}, and its folder's is another; remove the entry and add it again"
        )
    return entry


def _require_files(folder: Path, entry: DeltaEntry) -> None:
    for name, facts in entry.files.items():
        path = folder / name
        if name not in _FILES:
            raise ModelError(
                f"{folder / ENTRY_FILE} names the file {name[:80]!r}; a delta's files are {', '.join(sorted(_FILES))} in its "
                "own folder: remove the entry"
            )
        if path.is_symlink() or not path.is_file():
            state = "is a link, which dunwu does not follow" if path.is_symlink() else "is missing"
            raise ModelError(f"{path} {state}; remove the entry and add it again")
        size = path.stat().st_size
        if size != facts.bytes:
            raise ModelError(f"{path} has {size} bytes instead of {facts.bytes}; remove the entry and add it again")


def _copy(source: Path, target: Path) -> FileFacts:
    """Copy a file whole and onto the disk."""
    with atomic_write(target) as out, source.open("rb") as file:
        shutil.copyfileobj(file, out, 1 << 20)
    return FileFacts(bytes=target.stat().st_size, sha256=sha256_file(target))
