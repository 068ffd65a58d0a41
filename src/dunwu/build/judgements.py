"""What a reward model reads: the judgements of all sources as ids, those that are kept out, and what became of the rest."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from dunwu.align.reward.items import Judged, encode_pair
from dunwu.align.reward.losses import tie_threshold_for
from dunwu.align.reward.steps import encode_steps
from dunwu.build.judged_rows import SINGLE, JudgedRows, prompt_and_fault, read_judged, tell
from dunwu.core.errors import DataError
from dunwu.core.progress import Progress
from dunwu.core.recipe import AnyPreferenceSource, PreferenceWorldSource, Recipe
from dunwu.core.records import Preference, StepwiseAnswer
from dunwu.core.rewardmodel import PairsSpec
from dunwu.corpus.json_rows import BadRow
from dunwu.corpus.pairs import JudgementReader, PreferenceReader
from dunwu.corpus.stepwise import StepReader
from dunwu.corpus.world.preferences import world_preferences
from dunwu.tokenizer.like import TokenizerLike

EXAM_PAIRS = 600  # of each small world, to questions that only its exam asks
TIES = "two answers that are equally good"
One = Preference | StepwiseAnswer


@dataclass(frozen=True, kw_only=True)
class Judgements:
    """What to learn from, what is kept out, and pairs to questions of the small world's exam, which combine what no pair to
    learn from combines; `tie_threshold`: what to tell ties by.

    Facts: `judgements` to learn from, `ties` among them, `held_out`, `exam`, and those of `JudgedRows`."""

    learned: Sequence[Judged]
    held_out: Sequence[Judged]
    exam: Sequence[Judged]
    tie_threshold: float
    facts: dict[str, Any]


def load_judgements(
    recipe: Recipe, tokenizer: TokenizerLike, context_length: int, progress: Progress, *, system_prompt: str
) -> Judgements:
    """Read all sources of `recipe.reward`. Raises DataError where they hold nothing to learn from."""
    section = recipe.reward
    system_prompt, fault = prompt_and_fault(tokenizer, system_prompt, progress)
    fitting = {"context_length": context_length, "too_long": section.too_long, "system_prompt": system_prompt}
    pair, steps = partial(encode_pair, tokenizer, **fitting), partial(encode_steps, tokenizer, **fitting)
    by_pairs = isinstance(section.objective, PairsSpec)
    rows = read_judged(
        [_reader(source, by_pairs=by_pairs) for source in section.sources],
        lambda one: pair(one) if isinstance(one, Preference) else steps(one),
        lambda one: _not_wanted(one, recipe),
        fault,
    )
    _require_some(rows, context_length)
    learned, held = ([judged for _, judged in some] for some in (rows.learned, rows.held_out))
    exam = list(_fitting(pair, _exam_pairs(recipe))) if by_pairs else []
    ties = sum(one.tie for one in learned)
    facts: dict[str, Any] = {
        "judgements": len(learned),
        "ties": ties,
        "held_out": len(held),
        "exam": len(exam),
        **rows.facts,
    }
    what = "pairs" if by_pairs else "answers in steps"
    tell(facts, progress, f"{len(learned):,} {what} to learn from ({ties:,} ties), {len(held):,} kept out")
    return Judgements(
        learned=learned,
        held_out=held,
        exam=exam,
        tie_threshold=_tie_threshold(recipe, ties, len(learned)),
        facts=facts,
    )


def _reader(source: AnyPreferenceSource, *, by_pairs: bool) -> JudgementReader[Any]:
    return PreferenceReader(source, key="reward", graded=True) if by_pairs else StepReader(source, key="reward")


def _not_wanted(one: One, recipe: Recipe) -> str | None:
    """Why a row says nothing to this method, though nothing is wrong with it."""
    if isinstance(one, StepwiseAnswer):
        return None
    if not one.is_pair:
        return SINGLE
    spec = recipe.reward.objective
    return TIES if one.tie and isinstance(spec, PairsSpec) and spec.tie_threshold == 0 else None


def _require_some(rows: JudgedRows[Any, Judged], context_length: int) -> None:
    found = [judged for _, judged in (*rows.learned, *rows.held_out)]
    if found and all(judged.tie for judged in found):
        raise DataError(
            f"all {len(found):,} pairs are ties: nothing says which answer is the better one; give rows that prefer one"
        )
    if not found and rows.unwanted:
        why = ", ".join(f"{count:,} hold {reason}" for reason, count in rows.unwanted.items())
        raise DataError(f"a reward model learns from pairs of a better and a worse answer, and of the rows {why}")
    rows.require_some("judgements", context_length)


def _fitting(encode: Callable[[Preference], Judged], pairs: Sequence[Preference]) -> Iterator[Judged]:
    """Those that can be used; nobody chose the others, so they are not told."""
    for one in pairs:
        with suppress(BadRow):
            yield encode(one)


def _exam_pairs(recipe: Recipe) -> list[Preference]:
    """Pairs to the questions that only the exam of each small world asks."""
    worlds = [source for source in recipe.reward.sources if isinstance(source, PreferenceWorldSource)]
    return [
        one
        for source in worlds
        for one in world_preferences(source.model_copy(update={"pairs": EXAM_PAIRS}), for_exam=True)
    ]


def _tie_threshold(recipe: Recipe, ties: int, count: int) -> float:
    spec = recipe.reward.objective
    if not isinstance(spec, PairsSpec) or not ties:
        return 0.0
    return tie_threshold_for(ties / count) if spec.tie_threshold == "auto" else spec.tie_threshold
