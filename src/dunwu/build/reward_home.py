"""The finished reward model in the home's `reward/`: a Hugging Face directory to score with, and where it comes from."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dunwu import __version__
from dunwu.align.reward.disk import FACTS_FILE, FACTS_KEY
from dunwu.build.export import WEIGHTS, copy_whole
from dunwu.build.home import Home, StageRecord
from dunwu.core.modelfiles import TOKENIZER_FILES
from dunwu.core.recipe import Recipe
from dunwu.core.units import format_count
from dunwu.model.folder import files_of

CARD_FILE = "README.md"


def export_reward_model(home: Home, recipe: Recipe, records: Mapping[str, StageRecord]) -> list[Path]:
    """Write `reward/` anew, whole or not at all; returns its files. Raises DiskError."""
    record = records["reward"]
    files = files_of(home.folder_of(record), ("config.json", *WEIGHTS, *TOKENIZER_FILES))
    facts = _facts(recipe, records)
    return copy_whole(home.reward, files, json_files={FACTS_FILE: facts}, text_files={CARD_FILE: _card(recipe, record)})


def _facts(recipe: Recipe, records: Mapping[str, StageRecord]) -> dict[str, Any]:
    """The contents of `dunwu.json`."""
    record = records["reward"]
    told = ("objective", "judgements", "ties", "held_out", "exam", "held_out_measures", "exam_measures")
    return {
        "name": f"{recipe.name}-reward",
        "dunwu": __version__,
        FACTS_KEY: record.facts["reward_model"],
        **{name: record.facts[name] for name in told},
        "parameters": record.facts["parameters"],
        "context_length": record.facts["context_length"],
        "lineage": {name: one.hash for name, one in records.items() if name in (*record.identity["needs"], "reward")},
    }


def _card(recipe: Recipe, record: StageRecord) -> str:
    measures = record.facts["held_out_measures"].get("scores", {})
    share = measures.get("accuracy")
    found = (
        f"On {share['n']:,} judgements that it did not learn it is right in {share['value']:.1%} "
        f"(95% interval {share['low']:.1%} to {share['high']:.1%}).\n"
        if share
        else "No judgements were kept out to measure it by.\n"
    )
    reads = (
        "the end of each line" if record.facts["reward_model"]["reads"] == "steps" else "the token that ends the turn"
    )
    return f"""---
library_name: transformers
pipeline_tag: text-classification
tags: [dunwu, reward-model]
---
# {recipe.name}: a reward model

A language model of {format_count(record.facts["parameters"])} parameters that scores answers, made by dunwu from
{record.facts["judgements"]:,} judgements. {found}
Scores can be compared between answers to one prompt; a difference d means that the better answer wins with probability
1 / (1 + exp(-d)). The score is read at {reads}:

    dunwu reward score FOLDER rows.jsonl

    model = AutoModelForSequenceClassification.from_pretrained(FOLDER)
    text = tokenizer.apply_chat_template(messages, tokenize=False).rstrip()  # up to the token that ends the turn
    score = model(**tokenizer(text, add_special_tokens=False, return_tensors="pt")).logits
"""
