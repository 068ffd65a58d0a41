"""A finished model handed on, as a Hugging Face folder or a GGUF file, and held against the engines that will run it.

What differs stays beside the place it was meant for, under a name that ends in `.failed`; the place itself only ever holds what
passed, or what nobody asked to check.
"""

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch

from dunwu.core.errors import MissingExtraError, ModelError
from dunwu.core.files import disk_errors, read_json, write_json
from dunwu.core.modelfiles import REPEATED_TOKENIZER_FILES, TOKENIZER_FILES
from dunwu.core.units import format_bytes
from dunwu.evaluate.parity import BOUNDS, EXACT, Bounds, Comparison, answers, ask, broken, compare
from dunwu.evaluate.peers import LlamaCppPeer, OwnPeer, TransformersPeer
from dunwu.model.folder import copy_files, model_name, new_place
from dunwu.model.gguf import export_gguf, require_written
from dunwu.model.hub import StoredWeights, copy_model, load_config, load_model, save_model
from dunwu.model.inspect import inspect_model
from dunwu.tokenizer.pattern import GGUF_RULE, PATTERN

Form = Literal["hf", "gguf"]
FACTS_FILE = "dunwu.json"
FAILED = ".failed"
GGUF_RULES: Mapping[str, str] = {PATTERN: GGUF_RULE}
"""llama.cpp's rule for the vocabularies that we learn."""

_HF_DTYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}
_BESIDE = (
    *TOKENIZER_FILES, *REPEATED_TOKENIZER_FILES, "tokenizer.model", "generation_config.json", "README.md", "LICENSE*",
    "LICENCE*", "NOTICE*", "USE_POLICY*", FACTS_FILE,
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Handover:
    """What became of an export: where it lies, its bytes, how each engine compared, which were not there to compare, and `notes`
    on the writing."""

    path: Path
    size: int
    comparisons: tuple[Comparison, ...]
    unchecked: tuple[str, ...]
    notes: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether no engine found a difference that counts."""
        return all(one.passed for one in self.comparisons)


def hand_over(folder: Path, *, to: Form, dtype: str | None, out: Path | None, check: bool) -> Handover:
    """Export the model of `folder` and, with `check`, compare it in every engine that is installed.

    `dtype`: for "hf" one of f32, f16, bf16 (None keeps the stored one), for "gguf" one of those that `require_written` knows (None
    is f16). `out` None: a name made of the model's, in the present folder. The figures go into `dunwu.json`: of the exported
    folder, or, for a GGUF file, of the model that it was made from. Raises ModelError, TokenizerError, DiskError.
    """
    _require_dtype(to, dtype)
    wanted = (dtype or "f16").lower() if to == "gguf" else dtype
    name = model_name(folder)
    place = new_place(out or Path(name + (f"-{wanted}.gguf" if to == "gguf" else "-hf")))
    if to == "hf" and place.exists() and (not place.is_dir() or any(place.iterdir())):
        raise ModelError(f"{place} exists already; remove it, or choose another with --out")
    if to == "gguf" and place.is_dir():
        raise ModelError(f"{place} is a folder; give a file with --out, such as {place / (name + '.gguf')}")
    fresh = place.with_name(f".{place.name}-{os.getpid()}.tmp")
    with disk_errors(place):
        try:
            if to == "gguf":
                written = export_gguf(
                    folder,
                    fresh,
                    dtype=wanted or "f16",
                    rules=GGUF_RULES,
                    name=name,
                    licence=inspect_model(folder).licence,
                )
                size, notes, bounds = written.size, written.notes, BOUNDS[wanted or "f16"]
            else:
                notes = ()
                size, bounds = _export_folder(folder, fresh, _HF_DTYPES[dtype.lower()] if dtype else None)
            compared, unchecked = (
                _compare(folder, fresh, place, to, bounds) if check else ((), ("anything: --no-check was given",))
            )
            result = Handover(path=place, size=size, comparisons=compared, unchecked=unchecked, notes=notes)
            _record(folder if to == "gguf" else fresh, f"{to} {wanted or 'as stored'}", result)
            return _settle(result, fresh)
        finally:
            _remove(fresh)


def _require_dtype(to: Form, dtype: str | None) -> None:
    if to == "gguf":
        require_written(dtype or "f16")
    elif dtype is not None and dtype.lower() not in _HF_DTYPES:
        raise ModelError(f"--dtype {dtype} is not one of a Hugging Face folder's; use one of {', '.join(_HF_DTYPES)}")


def _export_folder(folder: Path, fresh: Path, dtype: torch.dtype | None) -> tuple[int, Bounds]:
    stored = StoredWeights(folder, load_config(folder)).dtypes
    fresh.mkdir(parents=True)
    if dtype is None or stored == {dtype}:
        copy_model(folder, fresh)
    else:
        save_model(load_model(folder, dtype=dtype), fresh)
    copy_files(folder, fresh, _BESIDE)
    kept = dtype is None or dtype == torch.float32 or stored == {dtype}
    name = next((name for name, known in _HF_DTYPES.items() if known == dtype), "f32")
    size = sum(file.stat().st_size for file in fresh.rglob("*") if file.is_file())
    return size, EXACT if kept else BOUNDS[name]


def _compare(
    folder: Path, fresh: Path, place: Path, to: Form, bounds: Bounds
) -> tuple[tuple[Comparison, ...], tuple[str, ...]]:
    """Our model in memory against the engine that loads the export, which lies in `fresh` and will be called `place`.

    One that fails to load it has differed.
    """
    own = OwnPeer(folder)
    size = own.vocab_size
    try:
        questions = ask(own)
        ours = answers(own, questions)
        kind = LlamaCppPeer if to == "gguf" else TransformersPeer
        try:
            peer = LlamaCppPeer(fresh, size, own.context_length) if to == "gguf" else TransformersPeer(fresh, size)
        except MissingExtraError as error:
            return (), (str(error),)
        except Exception as error:  # an engine's own, of any kind
            return (broken(kind.name, "unknown", error, {str(fresh): str(place)}),), ()
        try:
            return (compare(own, ours, peer, questions, bounds),), ()
        finally:
            peer.close()
    finally:
        own.close()


def _record(home: Path, key: str, result: Handover) -> None:
    """Put the figures under `parity` in `dunwu.json`. A folder that is not ours, such as a hub's cache, is left as it is."""
    file = home / FACTS_FILE
    if not file.is_file() and home.name != result.path.name and not home.name.startswith(f".{result.path.name}"):
        return
    facts: dict[str, Any] = read_json(file) if file.is_file() else {}
    parity = facts.setdefault("parity", {})
    parity[key] = {one.peer: one.record() for one in result.comparisons} | (
        {"not_checked": list(result.unchecked)} if result.unchecked else {}
    )
    write_json(file, facts)


def _settle(result: Handover, fresh: Path) -> Handover:
    """Move the export to its place, or beside it where it failed."""
    place = result.path if result.passed else result.path.with_name(result.path.name + FAILED)
    _remove(result.path.with_name(result.path.name + FAILED))
    if place.is_dir():  # empty, or it would have been refused
        place.rmdir()
    os.replace(fresh, place)
    return replace(result, path=place)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def report(result: Handover) -> str:
    """The outcome in lines for people."""
    lines = [f"{result.path}  ({format_bytes(result.size)})", *(f"note: {note}" for note in result.notes)]
    for one in result.comparisons:
        figures = one.figures
        if not figures:
            lines.append(f"could not be compared with {one.peer}, which fails on it")
            continue
        logits, greedy = figures["logits"], figures["greedy"]
        lines.append(
            f"checked against {one.peer} ({one.version}): ids of {figures['token_ids']['n']} texts, "
            f"{figures['token_ids']['differ']} differ; template in {figures['chat_template']['n']} cases, "
            f"{figures['chat_template']['differ']} differ; logits differ by at most {logits['max_abs_difference']:.2g} "
            f"(largest {logits['max_abs_logit']:.3g}), divergence {logits['mean_kl_nats']:.2g} nats, likeliest token the same at "
            f"{logits['top1_agreement']:.1%} of {logits['n']} places; greedy {greedy['tokens']} tokens, "
            f"{greedy['equal']} of {greedy['n']} equal"
        )
        lines += [f"note: {note}" for note in one.notes]
        lines += [one.verdict] if one.verdict else []
    return "\n".join([*lines, *(f"not checked against {one}" for one in result.unchecked)])
