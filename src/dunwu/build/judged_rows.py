"""What learning preferences and making a reward model share in reading: what can be used, what is kept out, what became of the rest."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Generic, TypeVar

from dunwu.core.errors import DataError
from dunwu.core.lineage import stable_hash
from dunwu.core.progress import Progress
from dunwu.core.records import Message, Preference, StepwiseAnswer
from dunwu.corpus.conversations import system_fault
from dunwu.corpus.json_rows import BadRow
from dunwu.corpus.pairs import JudgementReader
from dunwu.corpus.tally import tally_facts
from dunwu.tokenizer.like import TokenizerLike

EVERY, MOST = 10, 500  # of the prompts one in so many is kept out, at most so many
SINGLE = "one answer without another"
PROMPTS_KEPT = 64  # of those that are kept out: models answer them for samples and for the alignment card

One = TypeVar("One", bound=Preference | StepwiseAnswer)
Encoded = TypeVar("Encoded")


@dataclass(frozen=True, kw_only=True)
class JudgedRows(Generic[One, Encoded]):
    """Rows with what they became, to learn from and kept out; `unwanted`: rows that say nothing to a method, by why; facts:
    `held_out_prompts` (the first few), and `bad_rows`, `first_bad_rows`, `not_wanted`, `formats` of the files."""

    learned: Sequence[tuple[One, Encoded]]
    held_out: Sequence[tuple[One, Encoded]]
    unwanted: Counter[str]
    facts: dict[str, Any]

    def require_some(self, what: str, context_length: int) -> None:
        """Raise DataError where there are none."""
        if not self.learned and not self.held_out:
            first = next(iter(self.facts["first_bad_rows"]), "there are no rows")
            raise DataError(
                f"none of the {what} can be learned within a context of {context_length} tokens; the first: {first}"
            )


def read_judged(
    readers: Sequence[JudgementReader[One]],
    encode: Callable[[One], Encoded],
    unwanted_for: Callable[[One], str | None],
    fault: str | None,
) -> JudgedRows[One, Encoded]:
    """Read all sources. `encode` raises BadRow for what cannot be used; `unwanted_for` says why a sound row says nothing here;
    `fault`: why the chat template loses a system prompt.

    Prompts are kept out by what they say, so that one that is there twice is on one side alone.
    """
    found: list[tuple[str, One, Encoded]] = []
    unwanted: Counter[str] = Counter()
    for reader in readers:
        for one in reader:
            if (reason := unwanted_for(one)) is not None:
                unwanted[reason] += 1
                continue
            try:
                if fault is not None and one.prompt[0].role == "system":
                    raise BadRow("has a system prompt that is lost", fault)
                found.append((_said(one.prompt), one, encode(one)))
            except BadRow as bad:
                reader.drop(bad, f"{reader.folder / one.source}")
    prompts = sorted({digest for digest, _, _ in found})
    kept_out = set(prompts[: min(len(prompts) // EVERY, MOST)])
    held = [(one, encoded) for digest, one, encoded in found if digest in kept_out]
    facts: dict[str, Any] = {
        "held_out_prompts": _questions([one for one, _ in held]),
        "formats": {name: kind for reader in readers for name, kind in reader.formats.items()},
        **tally_facts(readers),
        "not_wanted": dict(sum((reader.not_wanted for reader in readers), Counter[str]()) + unwanted),
    }
    learned = [(one, encoded) for digest, one, encoded in found if digest not in kept_out]
    return JudgedRows(learned=learned, held_out=held, unwanted=unwanted, facts=facts)


def prompt_and_fault(tokenizer: TokenizerLike, system_prompt: str, progress: Progress) -> tuple[str, str | None]:
    """The system prompt, as far as the chat template shows it, and why it does not."""
    fault = system_fault(tokenizer)
    if fault is None or not system_prompt:
        return system_prompt, fault
    progress.note(f"the system prompt is left out: {fault}")
    return "", fault


def tell(facts: dict[str, Any], progress: Progress, what: str) -> None:
    """Say aloud what was left out, and what is there: `what`."""
    if dropped := Counter(facts["bad_rows"]):
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in dropped.most_common(4))
        progress.note(f"{dropped.total():,} rows left out ({reasons}); first: {facts['first_bad_rows'][0]}")
    if not_wanted := facts["not_wanted"]:
        progress.note("; ".join(f"{count:,} rows hold {what}" for what, count in not_wanted.items()))
    progress.note(what)


def _said(messages: Sequence[Message]) -> str:
    return stable_hash([[m.role, m.content, [asdict(call) for call in m.tool_calls]] for m in messages])[:16]


def _questions(held: Sequence[Preference | StepwiseAnswer]) -> list[str]:
    """The prompts of a single turn among those that were kept out, the first few."""
    asked = [one.prompt[-1].content for one in held if len(one.prompt) == 1]
    return list(dict.fromkeys(asked))[:PROMPTS_KEPT]
