"""`dunwu delta`: finished deltas, kept, looked at, merged and handed on."""

import json
import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from dunwu.build.merging import merge_into_home
from dunwu.cli.talking import model_folder
from dunwu.core.devices import prepare_cpu
from dunwu.core.errors import RecipeError
from dunwu.core.screen import harmless
from dunwu.core.units import format_bytes, format_count
from dunwu.delta.bases import base_of_folder, require_base
from dunwu.delta.composing import How
from dunwu.delta.composing import combine as compose
from dunwu.delta.finding import delta_folder, find, own_facts, read_found
from dunwu.delta.fingerprint import base_fingerprint
from dunwu.delta.library import DeltaEntry, default_library, new_entry, require_name
from dunwu.delta.quantise import Weights
from dunwu.delta.registry import attached
from dunwu.delta.sharing import on_hub
from dunwu.delta.sharing import pull as pull_delta
from dunwu.delta.sharing import push as push_delta
from dunwu.delta.storing import describe, read_delta, save_delta
from dunwu.model.blocks.quantised import Bits
from dunwu.model.hub import load_model

_BITS: Mapping[Weights, Bits | None] = {"float": None, "int8": 8, "int4": 4}


def show_all(registry: Path | None, *, base: str | None, as_json: bool) -> None:
    """One line an entry; damaged ones are named below."""
    library = default_library(registry)
    entries, damaged = library.entries()
    if base is not None:
        here = base_of_folder(model_folder(base))
        entries = [entry for entry in entries if entry.goes_with(here)]
    if as_json:
        found = [_facts(entry) for entry in entries]
        print(json.dumps({"deltas": found, "damaged": [vars(one) for one in damaged]}, indent=2, ensure_ascii=False))
        return
    if not entries:
        print(harmless(f"No deltas in {library.folder}" + (f" for {base}" if base else "")))
    for line in _table([_row(entry) for entry in entries]):
        print(harmless(line))
    for one in damaged:
        print(harmless(f"damaged: {one.name}: {one.reason}"))


def _row(entry: DeltaEntry) -> tuple[str, ...]:
    numbers = f"{format_count(entry.numbers)} numbers"
    base = f"on {entry.base_name or 'a base'} ({entry.base_key})"
    return entry.name, entry.method, numbers, format_bytes(entry.bytes), base, entry.created[:10], entry.note


def _table(rows: Sequence[tuple[str, ...]]) -> Iterator[str]:
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def _facts(entry: DeltaEntry) -> dict[str, Any]:
    return {**entry.model_dump(mode="json"), "bytes": entry.bytes, "base_key": entry.base_key}


def show(name: str, registry: Path | None, *, as_json: bool) -> None:
    """All that is known of an entry, once its files are seen to be whole."""
    library = default_library(registry)
    folder, entry = library.files(name), library.entry(name)
    if as_json:
        print(json.dumps(_facts(entry) | {"folder": str(folder)}, indent=2, ensure_ascii=False))
        return
    for label, text in _lines(entry):
        print(harmless(f"{label:<10} {text}").replace("\n", "␊"))
    print(harmless(f"{'files':<10} {folder}: {', '.join(entry.files)}; checksums are right"))


def _lines(entry: DeltaEntry) -> Iterator[tuple[str, str]]:
    yield "delta", entry.name + (f": {entry.note}" if entry.note else "")
    yield "method", f"{entry.method}, {format_count(entry.numbers)} numbers, {format_bytes(entry.bytes)}"
    missing = [what for what in ("weights", "template") if what not in entry.base]
    unknown = f"; its {' and '.join(missing)} are not known" if missing else ""
    yield "base", f"{entry.base_name or 'not named'} ({entry.base_key}{unknown})"
    yield "made", entry.created
    yield "licence", entry.licence or "not stated, ask where it came from"
    for stage, facts in entry.lineage.items():
        yield "from", f"{stage} {json.dumps(facts, ensure_ascii=False)[:200]}"
    for what, score in entry.scores.items():
        yield "score", f"{what} {json.dumps(score, ensure_ascii=False)[:200]}"
    if not entry.lineage:
        yield "from", "data not stated"


def add(
    path: str, registry: Path | None, *, name: str, base: str | None, licence: str | None, note: str, any_base: bool
) -> None:
    """Put a delta into the registry, once it is seen to fit its base."""
    library = default_library(registry)
    require_name(name)
    source = delta_folder(Path(path).expanduser())
    saved = describe(source)
    facts: dict[str, Any] = own_facts(source) | {"note": note}
    if licence is not None:
        facts["licence"] = licence
    where = base or _beside(saved.base_name)
    if where is not None:
        facts |= {"base": _tried(source, model_folder(where), name, any_base), "base_name": saved.base_name or where}
    elif not saved.base:
        raise RecipeError(
            f"{path} does not say which weights it was trained on; give the base with --base MODEL, so that no other is taken for it"
        )
    entry = library.add(source, new_entry(name, source, **facts))
    print(
        harmless(
            f"{entry.name}: {entry.method}, {format_count(entry.numbers)} numbers, {format_bytes(entry.bytes)}, over "
            f"{entry.base_name or 'a base'} ({entry.base_key}), in {library.folder}"
        )
    )
    if where is None:
        print("Its base was not at hand, so only what the delta says of it is known; --base MODEL looks at it.")
    print(harmless(f"Next: dunwu chat {where or 'MODEL'} --delta {entry.name}"))


def _beside(base_name: str) -> str | None:
    """The base that the files name, where it is a folder here."""
    return base_name if base_name and Path(base_name).expanduser().is_dir() else None


def _tried(source: Path, base: Path, name: str, any_base: bool) -> dict[str, str]:
    """The base's digests, once the delta was read onto it."""
    prepare_cpu()
    if not any_base:
        require_base(describe(source).base, base, name, "")
    model = load_model(base).requires_grad_(False)
    read_delta(source, model, any_base=any_base)
    return {**base_fingerprint(model), **base_of_folder(base)}


def remove(name: str, registry: Path | None) -> None:
    """Say that it is gone."""
    library = default_library(registry)
    library.remove(name)
    print(harmless(f"{name} is out of {library.folder}"))


def merge(base: str, delta: str, registry: Path | None, *, out: Path | None, weights: Weights, any_base: bool) -> None:
    """Write a home with the delta in its weights, and say what that cost."""
    prepare_cpu()
    found = find(delta, default_library(registry))
    bits = _BITS[weights]
    folder = out or Path("models") / f"{Path(base).name}-{found.name}"
    done = merge_into_home(model_folder(base), found, out=folder, any_base=any_base, bits=bits)
    dtype = str(done.dtype).removeprefix("torch.")
    error = (
        "nothing was rounded"
        if done.merged.error == 0
        else f"rounding the sums moved {done.merged.worst} most, by {done.merged.error:.2%} of its size"
    )
    print(harmless(f"{done.home}: {done.merged.matrices} matrices changed, stored in {dtype}; {error}"))
    if done.lost is not None:
        print(
            f"Served with --weights {weights}, its matrices would be off by {done.lost.of_matrix:.2%} of their size, "
            f"which is {done.lost.of_change:.2f} times what the delta changes; beside a base of few bits the delta stays exact: "
            "dunwu serve MODEL --delta"
        )
    print(harmless(f"Next: dunwu chat {done.home}"))


def combine(
    base: str,
    names: Sequence[str],
    registry: Path | None,
    *,
    name: str,
    how: How,
    weights: str | None,
    density: float | None,
    rank: int | None,
    seed: int,
    licence: str | None,
    note: str,
    any_base: bool,
) -> None:
    """Make one delta of several over one base, and put it into the registry."""
    library = default_library(registry)
    require_name(name)
    if len(names) < 2:
        raise RecipeError(f"{len(names)} delta(s) named; combining takes two or more, each a name or a folder")
    counts = None if weights is None else _counts(weights, len(names))
    prepare_cpu()
    folder = model_folder(base)
    found = [find(one, library) for one in names]
    model = load_model(folder).requires_grad_(False)
    deltas = [read_found(one, model, folder, any_base=any_base) for one in found]
    made = attached(compose(deltas, how=how, weights=counts, density=density, rank=rank, seed=seed))
    parts = [{"delta": one.name, "weight": 1.0 if counts is None else counts[place]} for place, one in enumerate(found)]
    licences = {one.entry.licence for one in found}
    facts: dict[str, Any] = {
        "base": {**base_fingerprint(model), **base_of_folder(folder)},
        "base_name": base,
        "lineage": {"combined": {"how": how, "density": density, "rank": rank, "seed": seed, "of": parts}},
        "licence": licence if licence is not None else licences.pop() if len(licences) == 1 else "",
        "note": note,
    }
    with tempfile.TemporaryDirectory() as place:
        save_delta(made, Path(place), base_name=base)
        entry = library.add(Path(place), new_entry(name, Path(place), **facts))
    of = ", ".join(f"{part['weight']:g} × {part['delta']}" for part in parts)
    print(
        harmless(
            f"{entry.name}: {how} of {of}; {entry.method}, {format_count(entry.numbers)} numbers, "
            f"{format_bytes(entry.bytes)}, in {library.folder}"
        )
    )
    if licence is None and licences:
        print("Their licences differ, so its own is not stated; give one with --licence.")
    print(harmless(f"Next: dunwu chat {base} --delta {entry.name}"))


def _counts(text: str, wanted: int) -> list[float]:
    """`0.5,0.5`. Raises RecipeError for what is no list of so many finite numbers."""
    try:
        counts = [float(part) for part in text.split(",")]
    except ValueError:
        counts = []
    if len(counts) != wanted or not all(map(math.isfinite, counts)):
        raise RecipeError(f"--weights {text} must be {wanted} numbers with commas between them, such as 0.5,0.5")
    return counts


def push(name: str, place: str, registry: Path | None) -> None:
    """Copy an entry to another registry."""
    entry = push_delta(name, default_library(registry), place)
    print(harmless(f"{entry.name} ({format_bytes(entry.bytes)}) is in {_named(place)}"))


def pull(name: str, place: str, registry: Path | None) -> None:
    """Copy an entry of another registry here."""
    library = default_library(registry)
    entry = pull_delta(name, library, place)
    print(harmless(f"{entry.name} ({format_bytes(entry.bytes)}) came from {_named(place)} into {library.folder}"))
    if not entry.licence:
        print("Its licence is not stated: ask where it came from.")


def _named(place: str) -> str:
    return f"the hub's {place}" if on_hub(place) else place
