"""What learning preferences reads: the preferences of all sources as ids, those that are kept out, and what became of the rest."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from dunwu.align.answers import Item
from dunwu.align.encode import encode_preference, with_unrelated
from dunwu.build.judged_rows import SINGLE, prompt_and_fault, read_judged, tell
from dunwu.core.errors import DataError
from dunwu.core.progress import Progress
from dunwu.core.recipe import Recipe
from dunwu.corpus.pairs import PreferenceReader
from dunwu.tokenizer.like import TokenizerLike


@dataclass(frozen=True, kw_only=True)
class Preferences:
    """Items to learn from and items that are kept out, and facts: `preferences` to learn, `pairs` of them, `held_out_pairs`, and
    those of `JudgedRows`."""

    items: Sequence[Item]
    held_out: Sequence[Item]
    facts: dict[str, Any]


def load_preferences(
    recipe: Recipe, tokenizer: TokenizerLike, context_length: int, progress: Progress, *, system_prompt: str
) -> Preferences:
    """Read all sources of `recipe.prefer`. Raises DataError where they hold nothing that the method can learn from."""
    section = recipe.prefer
    system_prompt, fault = prompt_and_fault(tokenizer, system_prompt, progress)
    encode = partial(
        encode_preference,
        tokenizer,
        context_length=context_length,
        too_long=section.too_long,
        system_prompt=system_prompt,
    )
    takes_single = section.objective.takes_single_answers
    rows = read_judged(
        [PreferenceReader(source) for source in section.sources],
        encode,
        lambda one: None if one.is_pair or takes_single else SINGLE,
        fault,
    )
    if not rows.learned and not rows.held_out and rows.unwanted:
        raise DataError(
            f"{section.objective.name} compares two answers to one prompt, and all {rows.unwanted.total():,} rows hold {SINGLE}; "
            "learn from them with prefer.objective.method=kto"
        )
    rows.require_some("preferences", context_length)
    items = [item for _, item in rows.learned]
    if section.objective.over_the_batch:
        items = with_unrelated(items, seed=recipe.seed, context_length=context_length)
    facts: dict[str, Any] = {
        "preferences": len(items),
        "pairs": sum(one.is_pair for one, _ in rows.learned),
        "held_out_pairs": sum(one.is_pair for one, _ in rows.held_out),
        **rows.facts,
    }
    kept = f"{facts['preferences']:,} preferences to learn from, {facts['held_out_pairs']:,} pairs kept out"
    tell(facts, progress, kept)
    return Preferences(items=items, held_out=[item for _, item in rows.held_out], facts=facts)
