"""What reinforcement learning asks: the prompts of all sources as ids, those that are kept out, and what became of the rest."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dunwu.align.policy_run import Asked
from dunwu.core.errors import DataError
from dunwu.core.progress import Progress
from dunwu.core.recipe import Recipe
from dunwu.core.records import Completion, Message
from dunwu.corpus.conversations import system_fault
from dunwu.corpus.prompts import Prompt, load_prompt_sets
from dunwu.evaluate.scorers.base import Case
from dunwu.tokenizer.like import TokenizerLike
from dunwu.tokenizer.template import encode_prompt

PROMPTS_KEPT = 8
_NOTHING = Completion(text="", ids=(), finish_reason="stop")


@dataclass(frozen=True, kw_only=True)
class Asking:
    """Prompts to learn from and prompts that are kept out, `longest` of their tokens, and facts: `prompts`, `too_long`, and those
    of `PromptSets`."""

    learned: Sequence[Asked]
    held_out: Sequence[Asked]
    longest: int
    facts: dict[str, Any]


def load_asking(
    recipe: Recipe, tokenizer: TokenizerLike, most_prompt: int, progress: Progress, *, system_prompt: str
) -> Asking:
    """Read all sources of `recipe.rl`. Raises DataError where no prompt leaves room for an answer, and where there are too few.

    A prompt of more than `most_prompt` tokens is left out: what is missing of it might be what was asked.
    """
    fault = system_fault(tokenizer)
    if fault is not None and system_prompt:
        progress.note(f"the system prompt is left out: {fault}")
        system_prompt = ""
    sets = load_prompt_sets(recipe.rl.sources, exam_questions=recipe.evaluate.exam_questions)
    learned = [_asked(tokenizer, prompt, system_prompt) for prompt in sets.learned]
    held_out = [_asked(tokenizer, prompt, system_prompt) for prompt in sets.held_out]
    fitting = [one for one in learned if len(one.ids) <= most_prompt]
    too_long = len(learned) - len(fitting)
    if not learned:
        raise DataError("rl.sources hold no prompt to learn from; add some, ten at least")
    if not fitting:
        shortest = min(len(one.ids) for one in learned)
        raise DataError(
            f"all {len(learned):,} prompts are too long: the shortest takes {shortest} tokens, and the context leaves "
            f"{most_prompt} beside an answer; lower rl.answer_tokens, raise model.context_length, or give shorter prompts"
        )
    if too_long:
        progress.note(f"{too_long:,} of {len(learned):,} prompts left out: they have more than {most_prompt} tokens")
    held_out = [one for one in held_out if len(one.ids) <= most_prompt]
    progress.note(f"{len(fitting):,} prompts to learn from, {len(held_out):,} kept out")
    return Asking(
        learned=fitting,
        held_out=held_out,
        longest=max(len(one.ids) for one in (*fitting, *held_out)),
        facts={
            **sets.facts,
            "prompts": len(fitting),
            "held_out": {},
            "kept_out": len(held_out),
            "too_long": too_long,
            "held_out_prompts": _questions(held_out),
        },
    )


def _asked(tokenizer: TokenizerLike, prompt: Prompt, system_prompt: str) -> Asked:
    messages = prompt.messages
    if system_prompt and messages[0].role != "system":
        messages = (Message(role="system", content=system_prompt), *messages)
    case = Case(prompt=messages, completion=_NOTHING, columns=prompt.columns)
    return Asked(ids=tuple(encode_prompt(tokenizer, messages)), case=case)


def _questions(held: Sequence[Asked]) -> list[str]:
    """The prompts of a single turn among those that were kept out, the first few."""
    asked = [one.case.prompt[-1].content for one in held if len(one.case.prompt) == 1]
    return list(dict.fromkeys(asked))[:PROMPTS_KEPT]
