"""The finished model in the home: a Hugging Face directory, `dunwu.json` with its lineage, and a model card."""

import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dunwu import __version__
from dunwu.align.card.markdown import card_markdown
from dunwu.align.card.record import read_card
from dunwu.build.aligned import CARD_FILE as ALIGNMENT_FILE
from dunwu.build.base import FACTS_FILE, GENERATION_FILE, LICENCE_FILES, base_folder
from dunwu.build.home import ADAPTER, TRAINING_STAGES, Home, StageRecord, last_trained
from dunwu.core.files import disk_errors, fsync_folder, read_json, write_json, write_text
from dunwu.core.lineage import stable_hash
from dunwu.core.modelfiles import TOKENIZER_FILES
from dunwu.core.recipe import Recipe
from dunwu.core.units import format_bytes, format_count
from dunwu.model.folder import files_of, weight_files

MODEL_FILES = ("config.json", GENERATION_FILE, *TOKENIZER_FILES)
WEIGHTS = ("*.safetensors", "*.safetensors.index.json")
CARD_FILE = "README.md"
_LICENCE_ID = re.compile(r"[a-z0-9][a-z0-9.-]*")


def export_model(home: Home, recipe: Recipe, records: Mapping[str, StageRecord]) -> list[Path]:
    """Write `model/` anew from the last training stage, whole or not at all; returns its files. Raises DiskError."""
    trained = home.folder_of(last_trained(records))
    facts = model_facts(home, recipe, records)
    facts |= _parity_before(home.model / FACTS_FILE, facts)
    files = files_of(trained, MODEL_FILES) | _weight_files(home, recipe, records)
    if "base" in records:
        files |= files_of(home.folder_of(records["base"]), LICENCE_FILES)
    return copy_whole(
        home.model,
        files,
        json_files={FACTS_FILE: facts},
        text_files={CARD_FILE: model_card(facts) + alignment_part(home, records)},
    )


def copy_whole(
    place: Path, files: Mapping[str, Path], *, json_files: Mapping[str, Any], text_files: Mapping[str, str]
) -> list[Path]:
    """Make the folder `place` of copies and of new files, whole or not at all; returns its files. Raises DiskError."""
    fresh, old = (place.parent / f".{place.name}-{which}.tmp" for which in ("new", "old"))
    with disk_errors(place):
        shutil.rmtree(fresh, ignore_errors=True)  # of a process that was killed; the home is locked against others
        fresh.mkdir()
        for name, file in files.items():
            (fresh / name).parent.mkdir(exist_ok=True)
            _copy(file, fresh / name)
        for name, values in json_files.items():
            write_json(fresh / name, values)
        for name, text in text_files.items():
            write_text(fresh / name, text)
        _swap(fresh, place, old)
    return [place / name for name in (*files, *json_files, *text_files)]


def alignment_part(home: Home, records: Mapping[str, StageRecord], *, heading: str = "## Alignment") -> str:
    """The alignment card as Markdown; empty where there is none."""
    if "alignment" not in (records["evaluate"].facts if "evaluate" in records else {}):
        return ""
    return "\n" + card_markdown(read_card(home.folder_of(records["evaluate"]) / ALIGNMENT_FILE), heading=heading)


def _weight_files(home: Home, recipe: Recipe, records: Mapping[str, StageRecord]) -> dict[str, Path]:
    """The finished weights, and what a delta learned; or the weights before it where the two are to stay apart."""
    last = last_trained(records)
    trained = home.folder_of(last)
    adapter = {f"{ADAPTER}/{file.name}": file for file in sorted((trained / ADAPTER).glob("*")) if file.is_file()}
    if not adapter or _in_weights(recipe, last):
        return files_of(trained, WEIGHTS) | adapter
    before = {name: record for name, record in records.items() if name != last.stage}
    if set(before) & set(TRAINING_STAGES):
        return files_of(home.folder_of(last_trained(before)), WEIGHTS) | adapter
    base = base_folder(recipe, records["base"].facts["revision"])
    return {path.name: path for path in weight_files(base)} | files_of(base, WEIGHTS[1:]) | adapter


def _parity_before(file: Path, facts: Mapping[str, Any]) -> Mapping[str, Any]:
    """The figures of parity with other engines that `dunwu.json` has from before, if they are of the same weights."""
    before = read_json(file) if file.is_file() else {}
    same = "parity" in before and _weights(before.get("lineage", {})) == _weights(facts["lineage"])
    return {"parity": before["parity"]} if same else {}


def _weights(lineage: Mapping[str, Any]) -> Any:
    """The hashes of the finished model's weights."""
    stage = next((lineage[name] for name in reversed(TRAINING_STAGES) if name in lineage), {})
    return stage.get("sha256") or stage.get("files")


def _copy(source: Path, target: Path) -> None:
    """Copy a file and wait until it is on the disk."""
    shutil.copyfile(source, target)
    with target.open("rb") as file:
        os.fsync(file.fileno())


def _swap(fresh: Path, place: Path, old: Path) -> None:
    """Put the folder `fresh` at `place`. What was there is moved aside first and removed last: a whole one is always on disk."""
    fsync_folder(fresh)
    if place.exists():
        shutil.rmtree(old, ignore_errors=True)
        os.replace(place, old)
    os.replace(fresh, place)
    fsync_folder(place.parent)
    shutil.rmtree(old, ignore_errors=True)


def model_facts(home: Home, recipe: Recipe, records: Mapping[str, StageRecord]) -> dict[str, Any]:
    """The contents of `dunwu.json`."""
    trained = last_trained(records)
    evaluated = records["evaluate"].facts if "evaluate" in records else {}
    base = records["base"].facts if "base" in records else {}
    tuned = bool({"sft", "prefer", "rl"} & records.keys())
    return {
        "name": recipe.name,
        "dunwu": __version__,
        **({"base": _base(records["base"])} if "base" in records else {}),
        "instruction_tuned": tuned or base.get("instruction_tuned", False),
        "system_prompt": recipe.sft.system_prompt if tuned or not base else base.get("system_prompt", ""),
        **({"licence": base["licence"]} if base.get("licence") else {}),
        "parameters": trained.facts["parameters"],
        "context_length": trained.facts["context_length"],
        "tokens": {name: records[name].facts["tokens"] for name in TRAINING_STAGES if name in records},
        "bytes_by_language": records["corpus"].facts["bytes_by_language"] if "corpus" in records else {},
        **(_of_delta(recipe, trained) if "delta" in trained.facts else {}),
        **({"conversations": records["sft"].facts["conversations"]} if recipe.only_tunes and "sft" in records else {}),
        **({"preferences": _of_preferences(records["prefer"].facts)} if "prefer" in records else {}),
        **({"reinforcement": _of_rl(records["rl"].facts)} if "rl" in records else {}),
        "scores": evaluated.get("scores", {}),
        **(
            {"cut_bytes": cut}
            if "tokenizer" in records and (cut := records["tokenizer"].facts.get("cut_bytes"))
            else {}
        ),
        **({"gain_and_forgetting": evaluated.get("gain_and_forgetting", [])} if "base" in records else {}),
        **({"answers": evaluated["answers"]} if "answers" in evaluated else {}),
        **({"alignment": evaluated["alignment"]} if "alignment" in evaluated else {}),
        "lineage": _lineage(home, records),
        "recipe": recipe.model_dump(mode="json"),
    }


def _base(record: StageRecord) -> dict[str, Any]:
    """What the build went on from: its name, a hub's revision, its shape's size, and the hashes of its files."""
    facts = {key: record.facts[key] for key in ("name", "revision", "parameters", "grown_from")}
    return {**facts, "inputs": record.identity["inputs"]}


def _in_weights(recipe: Recipe, trained: StageRecord) -> bool:
    section = {"prefer": recipe.prefer, "rl": recipe.rl}.get(trained.stage, recipe.sft)
    return section.delta_merged and trained.facts.get("merged", True)


def _of_delta(recipe: Recipe, trained: StageRecord) -> dict[str, Any]:
    """What learned, and whether the weights have it in them."""
    facts, merged = trained.facts, _in_weights(recipe, trained)
    return {"delta": {**facts["delta"], "tuned": facts["tuned_parameters"], "merged": merged, "folder": ADAPTER}}


def _of_preferences(facts: Mapping[str, Any]) -> dict[str, Any]:
    """How preferences were learned, and how well on pairs that were kept out."""
    return {name: facts[name] for name in ("objective", "preferences", "held_out_pairs", "preference") if name in facts}


def _of_rl(facts: Mapping[str, Any]) -> dict[str, Any]:
    """How it was learned from rewards, and what that did to prompts that were kept out."""
    return {name: facts[name] for name in ("algorithm", "rewards", "prompts", "held_out", "kept", "kept_step")}


def _lineage(home: Home, records: Mapping[str, StageRecord]) -> dict[str, Any]:
    """The chain of hashes from the raw files to the weights; each stage's hash covers those of the stages before it."""
    produced = {"corpus": "train.jsonl.zst", "tokenizer": "tokenizer.json", "pretrain": "model.safetensors"}
    chain: dict[str, Any] = {}
    if "corpus" in records:
        raw = read_json(home.folder_of(records["corpus"]) / "card.json")["lineage"]
        chain["raw_files"] = {"count": len(raw), "sha256": stable_hash(raw), "listed_in": "card.json"}
    for name, record in records.items():
        file = produced.get(name, "model.safetensors" if name in TRAINING_STAGES else "")
        known = record.files.get(file)
        chain[name] = {
            "hash": record.hash,
            "needs": record.identity["needs"],
            **({"file": file, "sha256": known.sha256} if known else _shards(name, record)),
        }
    return chain


def _shards(stage: str, record: StageRecord) -> Mapping[str, Any]:
    """The hashes of weights that lie in several files."""
    shards = {name: known.sha256 for name, known in record.files.items() if name.endswith(".safetensors")}
    return {"files": shards} if stage in TRAINING_STAGES and shards else {}


def model_card(facts: Mapping[str, Any]) -> str:
    """A card in the form that model hubs read; it repeats `dunwu.json` for people."""
    if not facts["bytes_by_language"]:
        return _card_of_tuned(facts)
    languages = [language for language in facts["bytes_by_language"] if language in ("en", "zh")]
    text_bytes = sum(facts["bytes_by_language"].values())
    learned = ", ".join(f"{format_count(tokens)} tokens in {stage}" for stage, tokens in facts["tokens"].items())
    scores = "\n".join(_score_row(name, score) for name, score in facts["scores"].items())
    base = facts.get("base")
    origin = (
        f"grown with dunwu {facts['dunwu']} from"
        if base is None
        else (f"that dunwu {facts['dunwu']} made of {base['name']} by going on with")
    )
    front, licence = _front(facts), facts.get("licence")
    cut = facts.get("cut_bytes", {})
    apart = (
        f"\nNot learned, because the other text holds it out for scoring: {format_bytes(cut['corpus'])} of the corpus and "
        f"{format_bytes(cut['replay'])} of the replayed text, exact copies.\n"
        if any(cut.values())
        else ""
    )
    terms = f"\nIts base came under this licence, which holds for it too: {licence}\n" if licence else ""
    use = "It was tuned to answer." if facts["instruction_tuned"] else "It continues text; it was not tuned to answer."
    if facts["instruction_tuned"] and not {"sft", "prefer", "rl"} & facts["tokens"].keys():
        use = "Its base was tuned to answer; what it learned since was plain text."
    return f"""---
language: [{", ".join(languages)}]
library_name: transformers
pipeline_tag: text-generation
{front}---
# {facts["name"]}

A language model of {format_count(facts["parameters"])} parameters, {origin}
{format_bytes(text_bytes)} of text ({learned}). {use} Context: {facts["context_length"]} tokens.

| figure | value | 95% interval | n | unit |
|---|---|---|---|---|
{scores}

A model of this size repeats what it read and makes up what it did not: judge before you use it. `dunwu.json` has the
recipe, all scores and the chain of hashes from the raw files to these weights.
{apart}{terms}"""


def _front(facts: Mapping[str, Any]) -> str:
    """What model hubs read of the base and its licence."""
    base, licence = facts.get("base"), facts.get("licence")
    front = f"base_model: {base['name'].partition('@')[0]}\n" if base is not None and "/" in base["name"] else ""
    return front + (f"license: {licence}\n" if licence and _LICENCE_ID.fullmatch(licence) else "")


def _card_of_tuned(facts: Mapping[str, Any]) -> str:
    """The card of a base that was fine-tuned as it is."""
    base, licence, delta = facts["base"], facts.get("licence"), facts.get("delta")
    how = "all its weights learned"
    if delta is not None:
        place = "in these weights" if delta["merged"] else f"in `{delta['folder']}/`, beside the base's weights"
        how = f"{format_count(delta['tuned'])} numbers of {delta['method']} learned, which are {place}"
    scores = "\n".join(_score_row(name, score) for name, score in facts["scores"].items())
    table = f"\n| figure | value | 95% interval | n | unit |\n|---|---|---|---|---|\n{scores}\n" if scores else ""
    terms = f"\nIts base came under this licence, which holds for it too: {licence}\n" if licence else ""
    return f"""---
library_name: transformers
pipeline_tag: text-generation
{_front(facts)}---
# {facts["name"]}

A language model of {format_count(facts["parameters"])} parameters that dunwu {facts["dunwu"]} made of {base["name"]}: {how}, from
{_learned_from(facts)}. Context: {facts["context_length"]} tokens.
{table}
Its answers are its own guesses: judge before you use it. `dunwu.json` has the recipe, all scores and the chain of hashes to
these weights.
{terms}"""


def _learned_from(facts: Mapping[str, Any]) -> str:
    parts: list[str] = []
    if "sft" in facts["tokens"]:
        parts.append(f"{facts['conversations']:,} conversations ({format_count(facts['tokens']['sft'])} tokens)")
    if "prefer" in facts["tokens"]:
        told = facts["preferences"]
        parts.append(f"{told['preferences']:,} preferences by {told['objective']['method']}")
    if "rl" in facts["tokens"]:
        told = facts["reinforcement"]
        parts.append(f"rewards of its answers to {told['prompts']:,} prompts by {told['algorithm']['method']}")
    return " and ".join(parts)


def _score_row(name: str, score: Mapping[str, Any]) -> str:
    interval = "" if score["low"] is None else f"{score['low']:.3f} to {score['high']:.3f}"
    value = "" if score["value"] is None else f"{score['value']:.3f}"
    return f"| {name} | {value} | {interval} | {score['n']} | {score['unit']} |"
