"""What learning preferences reads: the preferences of all sources as ids, those that are kept out, and what became of the rest."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from dunwu.align.answers import Item
from dunwu.align.encode import encode_preference, with_unrelated
from dunwu.core.errors import DataError
from dunwu.core.lineage import stable_hash
from dunwu.core.progress import Progress
from dunwu.core.recipe import Recipe
from dunwu.core.records import Message, Preference, StepwiseAnswer
from dunwu.corpus.conversations import system_fault
from dunwu.corpus.instructions import PROBLEMS_KEPT
from dunwu.corpus.json_rows import BadRow
from dunwu.corpus.pairs import PreferenceReader
from dunwu.tokenizer.like import TokenizerLike

EVERY, MOST = 10, 500  # of the prompts one in so many is kept out, at most so many
SINGLE = "one answer without another"
PROMPTS_KEPT = 64  # of those that are kept out: models answer them for samples and for the alignment card


@dataclass(frozen=True, kw_only=True)
class Preferences:
    """Items to learn from and items that are kept out, and facts: `preferences` to learn, `pairs` of them, `held_out_pairs`,
    `held_out_prompts` (the first few), and `bad_rows`, `first_bad_rows`, `not_wanted`, `formats` of the files."""

    items: Sequence[Item]
    held_out: Sequence[Item]
    facts: dict[str, Any]


def load_preferences(
    recipe: Recipe, tokenizer: TokenizerLike, context_length: int, progress: Progress, *, system_prompt: str
) -> Preferences:
    """Read all sources of `recipe.prefer`. Raises DataError where they hold nothing that the method can learn from.

    Prompts are kept out by what they say, so that one that is there twice is on one side alone.
    """
    section = recipe.prefer
    fault = system_fault(tokenizer)
    if fault is not None and system_prompt:
        progress.note(f"the system prompt is left out: {fault}")
        system_prompt = ""
    readers = [PreferenceReader(source) for source in section.sources]
    found: list[tuple[str, Preference, Item]] = []
    single = 0
    for reader in readers:
        for one in reader:
            if not one.is_pair and not section.objective.takes_single_answers:
                single += 1
                continue
            try:
                if fault is not None and one.prompt[0].role == "system":
                    raise BadRow("has a system prompt that is lost", fault)
                item = encode_preference(
                    tokenizer,
                    one,
                    context_length=context_length,
                    too_long=section.too_long,
                    system_prompt=system_prompt,
                )
            except BadRow as bad:
                reader.drop(bad, f"{reader.folder / one.source}")
                continue
            found.append((said(one.prompt), one, item))
    _require_some(recipe, found, readers, single, context_length)
    prompts = sorted({digest for digest, _, _ in found})
    kept_out = set(prompts[: min(len(prompts) // EVERY, MOST)])
    items = [item for digest, _, item in found if digest not in kept_out]
    held = [(one, item) for digest, one, item in found if digest in kept_out]
    if section.objective.over_the_batch:
        items = with_unrelated(items, seed=recipe.seed, context_length=context_length)
    not_wanted = sum((reader.not_wanted for reader in readers), Counter[str]())
    facts: dict[str, Any] = {
        "preferences": len(items),
        "pairs": sum(one.is_pair for digest, one, _ in found if digest not in kept_out),
        "held_out_pairs": sum(one.is_pair for one, _ in held),
        "held_out_prompts": questions([one for one, _ in held]),
        "formats": {name: kind for reader in readers for name, kind in reader.formats.items()},
        "bad_rows": dict(sum((reader.dropped for reader in readers), Counter[str]())),
        "first_bad_rows": [problem for reader in readers for problem in reader.problems][:PROBLEMS_KEPT],
        "not_wanted": dict(not_wanted + Counter({SINGLE: single} if single else {})),
    }
    kept = f"{facts['preferences']:,} preferences to learn from, {facts['held_out_pairs']:,} pairs kept out"
    tell(facts, progress, kept)
    return Preferences(items=items, held_out=[item for _, item in held], facts=facts)


def said(messages: Sequence[Message]) -> str:
    """A digest of what was asked."""
    return stable_hash([[m.role, m.content, [asdict(call) for call in m.tool_calls]] for m in messages])[:16]


def questions(held: Sequence[Preference | StepwiseAnswer]) -> list[str]:
    """The prompts of a single turn among those that were kept out, the first few."""
    asked = [one.prompt[-1].content for one in held if len(one.prompt) == 1]
    return list(dict.fromkeys(asked))[:PROMPTS_KEPT]


def _require_some(
    recipe: Recipe,
    found: Sequence[object],
    readers: Sequence[PreferenceReader],
    single: int,
    context_length: int,
) -> None:
    if found:
        return
    if single:
        raise DataError(
            f"{recipe.prefer.objective.name} compares two answers to one prompt, and all {single:,} rows hold {SINGLE}; "
            "learn from them with prefer.objective.method=kto"
        )
    first = next((problem for reader in readers for problem in reader.problems), "there are no rows")
    raise DataError(
        f"none of the preferences can be learned within a context of {context_length} tokens; the first: {first}"
    )


def tell(facts: dict[str, Any], progress: Progress, what: str) -> None:
    """Say aloud what was left out, and what is there: `what`."""
    if dropped := Counter(facts["bad_rows"]):
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in dropped.most_common(4))
        progress.note(f"{dropped.total():,} rows left out ({reasons}); first: {facts['first_bad_rows'][0]}")
    if not_wanted := facts["not_wanted"]:
        progress.note("; ".join(f"{count:,} rows hold {what}" for what, count in not_wanted.items()))
    progress.note(what)
