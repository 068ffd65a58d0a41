"""A finished delta by what a user calls it, a name in the registry or a folder, and put onto its base."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from dunwu.core.errors import DataError, ModelError
from dunwu.core.files import read_json
from dunwu.delta.base import Delta
from dunwu.delta.bases import require_base
from dunwu.delta.library import DeltaEntry, Library, new_entry
from dunwu.delta.registry import attached
from dunwu.delta.storing import OWN_CONFIG, PEFT_CONFIG, read_delta
from dunwu.model.decoder import Decoder

WITHIN = (Path("adapter"), Path("model") / "adapter")
"""Where the delta lies in a model's folder, and in a build's home."""
FACTS_FILE = "dunwu.json"


@dataclass(frozen=True, kw_only=True)
class Found:
    """A delta on disk. `entry`: what the registry, or the files themselves, say of it; `is_kept`: the registry."""

    name: str
    folder: Path
    entry: DeltaEntry
    is_kept: bool = False

    @property
    def manner(self) -> dict[str, Any]:
        """What it changes of how the model is talked to: `instruction_tuned` and `system_prompt`, where it says so."""
        entry = self.entry
        tuned = {} if entry.instruction_tuned is None else {"instruction_tuned": entry.instruction_tuned}
        return tuned | ({"system_prompt": entry.system_prompt} if entry.system_prompt else {})


def find(word: str, library: Library) -> Found:
    """The delta of a name in the registry, of a folder of one, or of a model's folder or a build's home that has one.

    Raises RecipeError or ModelError where there is none, or its files are damaged.
    """
    path = Path(word).expanduser()
    named = path.name == word and not word.startswith(".")
    if named and ((library.folder / word).is_dir() or not path.is_dir()):
        return Found(name=word, folder=library.files(word), entry=library.entry(word), is_kept=True)
    folder = delta_folder(path)
    name = _name_of(folder)
    return Found(name=name, folder=folder, entry=new_entry("delta", folder, **own_facts(folder)))


def delta_folder(path: Path) -> Path:
    """The folder with the delta's files. Raises ModelError where there is none."""
    folder = next((one for one in (path, *(path / within for within in WITHIN)) if _holds_one(one)), None)
    if folder is None:
        what = f"holds no delta (no {PEFT_CONFIG}, no {OWN_CONFIG})" if path.is_dir() else "does not exist"
        raise ModelError(
            f"{path} {what}; give the folder of an adapter, a build that trained one (sft.delta), or a name that "
            "`dunwu delta list` shows"
        )
    return folder


def own_facts(folder: Path) -> dict[str, Any]:
    """What `dunwu.json` of the build that trained a delta says: lineage, scores, licence, how it is talked to."""
    facts = _build_facts(folder)
    kinds = {"lineage": dict, "scores": dict, "licence": str, "instruction_tuned": bool, "system_prompt": str}
    return {key: facts[key] for key, kind in kinds.items() if isinstance(facts.get(key), kind)}


def read_found(found: Found, model: Decoder, base: Path, *, any_base: bool = False) -> Delta[Any]:
    """The delta for `model`, which was read from the folder `base`; it is attached nowhere yet.

    Raises ModelError where it was trained on another base; `any_base` lets one pass that fits.
    """
    if found.is_kept:
        Library(found.folder.parent).files(found.folder.name)
    if not any_base:
        require_base(found.entry.base, base, found.name, found.entry.base_name)
    return read_delta(found.folder, model, any_base=any_base)


def put_on(found: Found, model: Decoder, base: Path, *, any_base: bool = False) -> Decoder:
    """The same model with the delta: in its matrices where that rounds nothing (they are float32), else beside them.

    Raises as `read_found`.
    """
    delta = attached(read_found(found, model, base, any_base=any_base))
    if delta.mergeable and all(one.dtype == torch.float32 for one in model.parameters()):
        delta.absorb()
    return model.requires_grad_(False).eval()


def _holds_one(folder: Path) -> bool:
    return (folder / PEFT_CONFIG).is_file() or (folder / OWN_CONFIG).is_file()


def _name_of(folder: Path) -> str:
    parts = [part for part in reversed(folder.resolve().parts) if part not in ("adapter", "model", "/")]
    return parts[0] if parts else "delta"


def _build_facts(folder: Path) -> Mapping[str, Any]:
    file = folder.parent / FACTS_FILE
    if folder.name != "adapter" or not file.is_file():
        return {}
    try:
        facts = read_json(file)
    except DataError as error:
        raise ModelError(f"{error}; export the model again") from error
    return facts if isinstance(facts, dict) else {}
