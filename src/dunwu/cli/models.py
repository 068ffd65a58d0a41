"""`dunwu import` and `dunwu inspect`."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path

from dunwu.build.home import Home
from dunwu.build.importing import import_model
from dunwu.cli.talking import model_folder
from dunwu.core.devices import prepare_cpu
from dunwu.core.screen import harmless
from dunwu.core.units import format_bytes, format_count
from dunwu.model import fetch
from dunwu.model.inspect import ModelFacts, inspect_model


def import_(source: str, *, out: Path | None, tokenizer: Path | None, revision: str | None) -> None:
    """Make a home of a model and say what to do with it."""
    prepare_cpu()
    done = import_model(source, out=out, tokenizer=tokenizer, revision=revision)
    kind = "answers" if done.instruction_tuned else "continues text"
    print(
        harmless(
            f"{done.home}: {format_count(done.parameters)} parameters from {done.form}; it {kind}. "
            f"Licence: {done.licence or 'not stated, ask where it came from'}."
        )
    )
    if done.template_fault:
        print(
            harmless(
                f"Warning: its chat template cannot be used, so it only continues text. {done.template_fault}\n"
                "Mend the file in the source, or put another chat_template.jinja there, and import it again."
            )
        )
    if done.unread:
        parts = ", ".join(dict.fromkeys(_part(name) for name in done.unread))
        print(harmless(f"Not used: {len(done.unread)} tensors ({parts}), which are no part of the text model."))
    verb = f"dunwu chat {done.home}" if done.instruction_tuned else f'dunwu generate {done.home} "Once upon a time"'
    print(harmless(f"Next: {verb}, or dunwu inspect {done.home}"))


def _part(name: str) -> str:
    """The part of a model that a tensor belongs to: `vision_tower`, `model.layers.61`."""
    parts = name.split(".")
    start = 1 if parts[0] == "model" and len(parts) > 2 else 0
    end = start + 2 if parts[start] == "layers" else start + 1
    return ".".join(parts[:end])


def inspect(model: str, *, as_json: bool, revision: str | None) -> None:
    """Print what a model is."""
    if Home(Path(model).expanduser()).exists():
        folder = model_folder(model)
    else:
        folder = fetch.model_folder(model, revision=revision, weights=False)
    facts = inspect_model(folder)
    if as_json:
        print(json.dumps(asdict(facts) | {"embedding_share": round(facts.embedding_share, 4)}, indent=2))
        return
    for label, text in _lines(facts, name=model):
        print(harmless(f"{label:<12} {text}").replace("\n", "␊"))


def _lines(facts: ModelFacts, *, name: str) -> Iterator[tuple[str, str]]:
    yield "model", (facts.name or name) + (f", from {facts.source}" if facts.source else "")
    yield "kind", f"{facts.architecture} ({facts.class_name})"
    yield "shape", ", ".join(f"{name.replace('_', ' ')} {_shown(value)}" for name, value in facts.shape.items())
    active = ""
    if facts.active_parameters != facts.parameters:
        active = f", {format_count(facts.active_parameters)} active for a token"
    share = f"{format_count(facts.embedding_parameters)} ({facts.embedding_share:.0%}) in embedding and head"
    yield "parameters", f"{format_count(facts.parameters)}{active}, {share}"
    yield "context", _context(facts)
    yield "weights in", _sizes(facts.memory_bytes)
    lengths = {f"{length} tokens": size for length, size in facts.cache_bytes.items()}
    yield "cache of", f"{_sizes(lengths)} (one sequence, bfloat16)"
    if facts.stored:
        files = "1 file" if facts.stored.files == 1 else f"{facts.stored.files} files"
        yield "on disk", f"{format_bytes(facts.stored.bytes)} of {facts.stored.dtype} in {files}"
    else:
        yield "on disk", "no weights here"
    words = facts.vocabulary
    if words.size is not None:
        yield "tokenizer", f"{words.kind}, {words.size} ids"
        special = ", ".join(f"{role.removesuffix('_token')} {text}" for role, text in words.special.items())
        yield "special", special or "none named"
    yield "template", f"in {words.template}" if words.template else "none: the model continues text"
    yield "licence", facts.licence or "not stated, ask where it came from"
    for problem in facts.problems:
        yield "problem", problem


def _context(facts: ModelFacts) -> str:
    text = f"{facts.context_length} tokens"
    if facts.rope:
        trained = f" from {facts.original_context_length}" if facts.original_context_length else ""
        text += f", positions stretched{trained} ({facts.rope})"
    if facts.sliding_window:
        text += f"; some layers see the last {facts.sliding_window} alone"
    return text


def _shown(value: object) -> str:
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)


def _sizes(sizes: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {format_bytes(size)}" for name, size in sizes.items())
