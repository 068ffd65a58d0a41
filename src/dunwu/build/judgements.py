"""What a reward model reads: the judgements of all sources as ids, those that are kept out, and what became of the rest."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from dunwu.align.reward.items import Judged, encode_pair
from dunwu.align.reward.losses import tie_threshold_for
from dunwu.align.reward.steps import encode_steps
from dunwu.build.preferences import EVERY, MOST, SINGLE, questions, said, tell
from dunwu.core.errors import DataError
from dunwu.core.progress import Progress
from dunwu.core.recipe import PreferenceWorldSource, Recipe
from dunwu.core.records import Preference, StepwiseAnswer
from dunwu.core.rewardmodel import PairsSpec
from dunwu.corpus.conversations import system_fault
from dunwu.corpus.instructions import PROBLEMS_KEPT
from dunwu.corpus.json_rows import BadRow
from dunwu.corpus.pairs import PreferenceReader
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

    Facts: `judgements` to learn from, `ties` among them, `held_out`, `exam`, `held_out_prompts` (the first few), and `bad_rows`,
    `first_bad_rows`, `not_wanted`, `formats` of the files."""

    learned: Sequence[Judged]
    held_out: Sequence[Judged]
    exam: Sequence[Judged]
    tie_threshold: float
    facts: dict[str, Any]


def load_judgements(
    recipe: Recipe, tokenizer: TokenizerLike, context_length: int, progress: Progress, *, system_prompt: str
) -> Judgements:
    """Read all sources of `recipe.reward`. Raises DataError where they hold nothing to learn from.

    Prompts are kept out by what they say, so that one that is there twice is on one side alone.
    """
    section = recipe.reward
    fault = system_fault(tokenizer)
    if fault is not None and system_prompt:
        progress.note(f"the system prompt is left out: {fault}")
        system_prompt = ""
    fitting = {"context_length": context_length, "too_long": section.too_long, "system_prompt": system_prompt}
    pair, steps = partial(encode_pair, tokenizer, **fitting), partial(encode_steps, tokenizer, **fitting)
    by_pairs = isinstance(section.objective, PairsSpec)
    readers = [
        PreferenceReader(source, key="reward", graded=True) if by_pairs else StepReader(source, key="reward")
        for source in section.sources
    ]
    found: list[tuple[str, One, Judged]] = []
    unwanted: Counter[str] = Counter()
    for reader in readers:
        for one in reader:
            if (reason := _not_wanted(one, recipe)) is not None:
                unwanted[reason] += 1
                continue
            try:
                if fault is not None and one.prompt[0].role == "system":
                    raise BadRow("has a system prompt that is lost", fault)
                judged = pair(one) if isinstance(one, Preference) else steps(one)
            except BadRow as bad:
                reader.drop(bad, f"{reader.folder / one.source}")
                continue
            found.append((said(one.prompt), one, judged))
    _require_some(found, readers, unwanted, context_length)
    prompts = sorted({digest for digest, _, _ in found})
    kept_out = set(prompts[: min(len(prompts) // EVERY, MOST)])
    learned = [judged for digest, _, judged in found if digest not in kept_out]
    held = [(one, judged) for digest, one, judged in found if digest in kept_out]
    exam = list(_fitting(pair, _exam_pairs(recipe))) if by_pairs else []
    ties = sum(one.tie for one in learned)
    not_wanted = sum((reader.not_wanted for reader in readers), Counter[str]()) + unwanted
    facts: dict[str, Any] = {
        "judgements": len(learned),
        "ties": ties,
        "held_out": len(held),
        "exam": len(exam),
        "held_out_prompts": questions([one for one, _ in held]),
        "formats": {name: kind for reader in readers for name, kind in reader.formats.items()},
        "bad_rows": dict(sum((reader.dropped for reader in readers), Counter[str]())),
        "first_bad_rows": [problem for reader in readers for problem in reader.problems][:PROBLEMS_KEPT],
        "not_wanted": dict(not_wanted),
    }
    what = "pairs" if by_pairs else "answers in steps"
    tell(facts, progress, f"{len(learned):,} {what} to learn from ({ties:,} ties), {len(held):,} kept out")
    return Judgements(
        learned=learned,
        held_out=[judged for _, judged in held],
        exam=exam,
        tie_threshold=_tie_threshold(recipe, ties, len(learned)),
        facts=facts,
    )


def _not_wanted(one: One, recipe: Recipe) -> str | None:
    """Why a row says nothing to this method, though nothing is wrong with it."""
    if isinstance(one, StepwiseAnswer):
        return None
    if not one.is_pair:
        return SINGLE
    spec = recipe.reward.objective
    return TIES if one.tie and isinstance(spec, PairsSpec) and spec.tie_threshold == 0 else None


def _require_some(
    found: Sequence[tuple[str, One, Judged]],
    readers: Sequence[PreferenceReader | StepReader],
    unwanted: Counter[str],
    context_length: int,
) -> None:
    if found and all(judged.tie for _, _, judged in found):
        raise DataError(
            f"all {len(found):,} pairs are ties: nothing says which answer is the better one; give rows that prefer one"
        )
    if found:
        return
    if unwanted:
        why = ", ".join(f"{count:,} hold {reason}" for reason, count in unwanted.items())
        raise DataError(f"a reward model learns from pairs of a better and a worse answer, and of the rows {why}")
    first = next((problem for reader in readers for problem in reader.problems), "there are no rows")
    raise DataError(
        f"none of the judgements can be learned within a context of {context_length} tokens; the first: {first}"
    )


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
