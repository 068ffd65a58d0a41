"""The home of a build on disk.

builds/NAME/
├── recipe.yaml            the recipe with its overrides, paths absolute, every default written out
├── build.json             which stage folders the present build is made of, and when: {"stages": {"corpus": "corpus-0123456789ab", …}}
├── stages/STAGE-HASH12/   one folder a stage and set of inputs; several of one stage may lie side by side
│   ├── inputs.json        hashes of the files outside the home that the stage reads
│   ├── plan.json          what was chosen for `auto` and predicted, fixed before the stage ran (an interrupted run goes on with it)
│   └── stage.json         written last: this folder is done (see `StageRecord`)
├── reference/             log-probabilities of preferences under models as they were, by what they follow from
├── model/                 the finished model: a Hugging Face directory and dunwu.json
├── reward/                the reward model, where there is one: the same, to score with
├── report.html
├── logs/                  traces of unexpected errors
└── lock
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from dunwu.core.errors import BuildError, DataError
from dunwu.core.files import disk_errors, read_json, sha256_file, write_json
from dunwu.core.lineage import HASH_LENGTH

T = TypeVar("T")

STAGE_FILE = "stage.json"
PLAN_FILE = "plan.json"
INPUTS_FILE = "inputs.json"
TRAINING_STAGES = ("pretrain", "sft", "prefer", "rl")
"""Those that leave weights, in their order."""
ADAPTER = "adapter"  # the folder of what a delta learned, beside the weights
_REHASH_BELOW_BYTES = 1_000_000  # files up to this size are hashed at every check; larger ones when their time changed


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What a stage is expected to take, or took. None: does not apply."""

    seconds: float | None = None
    peak_bytes: int | None = None
    parameters: int | None = None
    tokens: int | None = None
    flops: float | None = None


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """A stage's choices for `auto` and its predicted figures; `facts` is what later stages may expect of it, `note` the
    choices in a line for people."""

    resolved: Mapping[str, Any] = field(default_factory=dict[str, Any])
    predicted: Figures = field(default_factory=Figures)
    facts: Mapping[str, Any] = field(default_factory=dict[str, Any])
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class FileFacts:
    """A file of a finished stage."""

    bytes: int
    sha256: str
    mtime_ns: int


@dataclass(frozen=True, kw_only=True)
class StageRecord:
    """The contents of `stage.json`.

    `identity` is all that the hash covers: stage, code version, settings, hashes of outside files, hashes of needed stages.
    `resolved` holds the values chosen for `auto`; `predicted` and `actual` stand side by side in the report; `facts` is what the
    stage found out; `files` are relative to the stage's folder; times are ISO 8601, UTC.
    """

    stage: str
    hash: str
    identity: Mapping[str, Any]
    resolved: Mapping[str, Any]
    predicted: Figures
    actual: Figures
    facts: Mapping[str, Any]
    files: Mapping[str, FileFacts]
    machine: Mapping[str, Any]
    started: str
    finished: str
    dunwu: str


class Home:
    """Paths and records of one build's folder. Makes nothing by itself."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.recipe_file = folder / "recipe.yaml"
        self.build_file = folder / "build.json"
        self.stages = folder / "stages"
        self.reference = folder / "reference"
        self.model = folder / "model"
        self.reward = folder / "reward"
        self.report = folder / "report.html"
        self.logs = folder / "logs"
        self.lock_file = folder / "lock"

    def exists(self) -> bool:
        """Whether a build began here."""
        return self.recipe_file.is_file() and self.stages.is_dir()

    def make(self) -> None:
        """Create the folders.

        Raises DiskError where they may not be written, BuildError where a file or a folder of another kind is in the way.
        """
        with disk_errors(self.folder):
            try:
                if self.folder.is_dir() and not self.stages.is_dir() and any(self.folder.iterdir()):
                    raise BuildError(
                        f"{self.folder} holds something else than a build; choose another folder with out=FOLDER"
                    )
                self.stages.mkdir(parents=True, exist_ok=True)
            except (FileExistsError, NotADirectoryError) as error:
                raise BuildError(
                    f"{self.folder} is in the way: it is not a folder; choose another with out=FOLDER"
                ) from error

    def stage_folder(self, stage: str, stage_hash: str) -> Path:
        """Where a stage with this hash puts its output."""
        return self.stages / f"{stage}-{stage_hash[:HASH_LENGTH]}"

    def record(self, folder: Path) -> StageRecord | None:
        """The record of a stage folder, or None where the stage is not done."""
        file = folder / STAGE_FILE
        return _understood(file, _record_from) if file.is_file() else None

    def done(self, stage: str) -> list[StageRecord]:
        """Records of all done folders of `stage`, the newest last."""
        folders = sorted(self.stages.glob(f"{stage}-*")) if self.stages.is_dir() else []
        records = [record for folder in folders if (record := self.record(folder)) is not None]
        return sorted(records, key=lambda record: record.finished)

    def current(self) -> dict[str, StageRecord]:
        """The done stages of the present build by name, in their order, as `build.json` lists them."""
        if not self.build_file.is_file():
            return {}
        listed: Mapping[str, str] = read_json(self.build_file)["stages"]
        records = {name: self.record(self.stages / folder) for name, folder in listed.items()}
        return {name: record for name, record in records.items() if record is not None}

    def folder_of(self, record: StageRecord) -> Path:
        """The folder that a record stands in."""
        return self.stage_folder(record.stage, record.hash)


def last_trained(records: Mapping[str, StageRecord]) -> StageRecord:
    """Of the stages that leave weights the last one."""
    return next(records[name] for name in reversed(TRAINING_STAGES) if name in records)


def write_record(folder: Path, record: StageRecord) -> None:
    """Mark a stage folder as done."""
    write_json(folder / STAGE_FILE, asdict(record))


def write_forecast(folder: Path, forecast: Forecast) -> None:
    """Fix a stage's choices before it runs."""
    write_json(folder / PLAN_FILE, asdict(forecast))


def read_forecast(folder: Path) -> Forecast | None:
    """The choices that an earlier, interrupted run of this stage fixed, or None."""
    file = folder / PLAN_FILE
    if not file.is_file():
        return None
    return _understood(file, lambda data: Forecast(**{**data, "predicted": Figures(**data["predicted"])}))


def describe_files(folder: Path, files: list[Path]) -> dict[str, FileFacts]:
    """Sizes and hashes of a stage's output, by path relative to its folder."""
    facts: dict[str, FileFacts] = {}
    for file in files:
        stat = file.stat()
        key = os.path.relpath(file, folder)
        facts[key] = FileFacts(bytes=stat.st_size, sha256=sha256_file(file), mtime_ns=stat.st_mtime_ns)
    return facts


def damage(folder: Path, record: StageRecord) -> str | None:
    """What is wrong with the files of a done stage, or None. Large files are read again only if their time changed."""
    for name, known in record.files.items():
        file = folder / name
        if not file.is_file():
            return f"{name} is missing"
        stat = file.stat()
        if stat.st_size != known.bytes:
            return f"{name} has {stat.st_size} bytes instead of {known.bytes}"
        suspect = stat.st_mtime_ns != known.mtime_ns or stat.st_size <= _REHASH_BELOW_BYTES
        if suspect and sha256_file(file) != known.sha256:
            return f"{name} was changed"
    return None


def _understood(file: Path, make: Callable[[dict[str, Any]], T]) -> T:
    """What a file of a stage's bookkeeping says. Raises DataError naming it when it is damaged or not of this version."""
    try:
        return make(read_json(file))
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{file} was written by another version of dunwu ({error}); use that version, or remove {file.parent} to run "
            "the stage again"
        ) from error


def _record_from(data: dict[str, Any]) -> StageRecord:
    files = {name: FileFacts(**facts) for name, facts in data["files"].items()}
    figures = {key: Figures(**data[key]) for key in ("predicted", "actual")}
    return StageRecord(**{**data, **figures, "files": files})
