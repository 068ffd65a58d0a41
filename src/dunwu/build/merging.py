"""A base and a delta as one model home, which other programs read without knowing of deltas."""

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dunwu import __version__
from dunwu.build.base import FACTS_FILE, GENERATION_FILE, LICENCE_FILES
from dunwu.build.export import CARD_FILE
from dunwu.core.errors import BuildError, ModelError
from dunwu.core.files import disk_errors, fsync_folder, write_json, write_text
from dunwu.core.modelfiles import TOKENIZER_FILES
from dunwu.core.screen import harmless
from dunwu.delta.base import Delta, Merged
from dunwu.delta.finding import Found, read_found
from dunwu.delta.places import Place
from dunwu.delta.quantise import quantised
from dunwu.delta.registry import attached
from dunwu.model.blocks.quantised import Bits, QuantisedMatrix
from dunwu.model.count import parameters
from dunwu.model.folder import copy_files, model_name, new_place, read_settings
from dunwu.model.hub import load_model, save_model
from dunwu.tokenizer.load import load_tokenizer


@dataclass(frozen=True, kw_only=True)
class Lost:
    """What few bits would do to a merged delta: the error of rounding its matrices, as a multiple of the change that the delta
    makes (root of the mean square, over all matrices), and of the matrices themselves."""

    of_change: float
    of_matrix: float


@dataclass(frozen=True, kw_only=True)
class MergedHome:
    """A home that was made. `dtype`: what its weights are stored in."""

    home: Path
    merged: Merged
    dtype: torch.dtype
    lost: Lost | None


def merge_into_home(
    base: Path, found: Found, *, out: Path, any_base: bool = False, bits: Bits | None = None
) -> MergedHome:
    """Write the model of the folder `base` with the delta in its weights, in the dtype that it is stored in, whole or not at all.

    `bits`: say also what rounding to so many would lose. Raises BuildError when something is at `out`, ModelError where the delta
    belongs to another base or cannot be merged, DiskError.
    """
    home = new_place(out)
    if home.exists() and (not home.is_dir() or any(home.iterdir())):
        raise BuildError(f"{home} is there already; choose another folder with --out, or remove it")
    model = load_model(base).requires_grad_(False).eval()
    delta = attached(read_found(found, model, base, any_base=any_base))
    if not delta.mergeable:
        raise ModelError(
            f"the {delta.spec.name} {found.name!r} cannot be merged: no weights do the same; talk to it with `dunwu chat {base} "
            "--delta`"
        )
    lost = None if bits is None else _lost(delta, bits)
    merged = delta.absorb()
    dtype = next(model.parameters()).dtype
    fresh = home.parent / f".{home.name}-{os.getpid()}.tmp"
    with disk_errors(home):
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(parents=True)
        try:
            save_model(model, fresh)
            copy_files(base, fresh, (GENERATION_FILE, *TOKENIZER_FILES, *LICENCE_FILES))
            about = _facts(
                base, found, home.name, merged, model.config.max_position_embeddings, parameters(model.config)
            )
            write_json(fresh / FACTS_FILE, about)
            write_text(fresh / CARD_FILE, _card(about))
            load_tokenizer(fresh)
            fsync_folder(fresh)
            if home.exists():
                home.rmdir()
            os.replace(fresh, home)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
    return MergedHome(home=home, merged=merged, dtype=dtype, lost=lost)


def _facts(base: Path, found: Found, name: str, merged: Merged, context: int, count: int) -> dict[str, Any]:
    before, entry = read_settings(base, FACTS_FILE) or {}, found.entry
    tuned = before.get("instruction_tuned") if entry.instruction_tuned is None else entry.instruction_tuned
    licence = entry.licence or before.get("licence")
    return {
        "name": name,
        "dunwu": __version__,
        "base": {"name": entry.base_name or before.get("name") or model_name(base)},
        **({} if tuned is None else {"instruction_tuned": tuned}),
        "system_prompt": entry.system_prompt or before.get("system_prompt", ""),
        **({"licence": licence} if licence else {}),
        "parameters": count,
        "context_length": context,
        "delta": {
            "name": found.name,
            "method": entry.method,
            "tuned": entry.numbers,
            "merged": True,
            "error": merged.error,
            "files": {file: facts.sha256 for file, facts in entry.files.items()},
        },
        "scores": entry.scores,
        "lineage": {**before.get("lineage", {}), **entry.lineage},
    }


def _card(about: dict[str, Any]) -> str:
    delta = about["delta"]
    licence = (
        f"Licence: {about['licence']}." if "licence" in about else "No file says under which licence it may be used."
    )
    return harmless(
        f"# {about['name']}\n\n`{about['base']['name']}` with the delta `{delta['name']}` ({delta['method']}) merged into its "
        f"weights by dunwu {about['dunwu']}. `dunwu.json` has the chain of hashes.\n\n{licence}\n"
    )


def _lost(delta: Delta[Any], bits: Bits) -> Lost:
    error = change = size = 0.0
    for place, value in delta.changed():
        for before_OI, after_OI in _matrices(place, value):
            packed, scales = quantised(after_OI, bits)
            error += float((QuantisedMatrix(packed, scales, bits=bits).weight - after_OI).square().sum())
            change += float((after_OI - before_OI).square().sum())
            size += float(after_OI.square().sum())
    return Lost(of_change=(error / max(change, 1e-30)) ** 0.5, of_matrix=(error / max(size, 1e-30)) ** 0.5)


def _matrices(place: Place, value: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """The linear layers that would be rounded; stacks of experts stay as they are."""
    if place.experts is None:
        yield place.read(), value
