"""What fine-tuning learns from: the conversations of all sources, fitted to the context, mixed, packed, and what became of them."""

from collections import Counter
from collections.abc import Container, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from dunwu.build import costs
from dunwu.build.held_out import said_in
from dunwu.core.errors import DataError, RecipeError
from dunwu.core.progress import Progress
from dunwu.core.recipe import Recipe, SftFileSource, SftSource
from dunwu.core.records import Example, Message, Tokens
from dunwu.corpus.conversations import Cut, Fitted, encode_example, fit, system_fault
from dunwu.corpus.instructions import InstructionReader
from dunwu.corpus.json_rows import BadRow
from dunwu.corpus.source_mix import Mix, per_pass
from dunwu.corpus.stream import SftStream
from dunwu.corpus.tally import tally_facts
from dunwu.tokenizer.like import TokenizerLike

CUTS: dict[Cut, str] = {
    "turns": "lose their oldest turns",
    "question": "lose the middle of a question or result",
    "answer": "lose the end of their answer",
}


@dataclass(frozen=True, kw_only=True)
class SourceFacts:
    """What one source gives: `conversations` in all and `per_pass`, with `tokens` and `learned_tokens` of them all."""

    name: str
    conversations: int
    per_pass: int
    tokens: int
    learned_tokens: int
    formats: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class Conversations:
    """The stream of fine-tuning and its facts: `sources`, `conversations` that are met, `cut_conversations` by what they lose,
    `left_out` (too long), `learned_tokens` in one pass, `filled` (the share of places in rows that hold a token), and
    `bad_rows`, `first_bad_rows`, `not_wanted`, `end_markers` of the files."""

    stream: SftStream
    sources: tuple[SourceFacts, ...]
    facts: dict[str, Any]


class _Source:
    """One source while it is read."""

    def __init__(self, source: SftSource, recipe: Recipe, tokenizer: TokenizerLike, most: int) -> None:
        self.source, self.recipe, self.tokenizer, self.most = source, recipe, tokenizer, most
        self.reader = InstructionReader(source, seed=recipe.seed) if isinstance(source, SftFileSource) else None
        self.examples = 0
        self.cut: Counter[Cut] = Counter()
        self.cut_conversations = self.left_out = self.unlearned = 0
        self.name = Path(source.path).name if isinstance(source, SftFileSource) else "world"

    def tokens(self, system_fault: str | None, without: Container[str]) -> Iterator[Tokens]:
        for example in self.reader if self.reader is not None else costs.sft_examples(self.source):
            if without and said_in(example) in without:
                continue
            self.examples += 1
            example = with_system(example, self.recipe.sft.system_prompt)
            try:
                if system_fault is not None and example.messages[0].role == "system":
                    raise BadRow("has a system prompt that is lost", system_fault)
                fitted = self._fitted(example)
            except (BadRow, DataError) as error:
                self._drop(error, example)
                continue
            if fitted.tokens is None:
                self.left_out += 1
            elif not fitted.tokens.learned[1:].any():
                self.unlearned += 1
            else:
                self.cut.update(fitted.cut)
                self.cut_conversations += bool(fitted.cut)
                yield fitted.tokens

    def _fitted(self, example: Example) -> Fitted:
        def encode(shorter: Example) -> Tokens:
            return encode_example(self.tokenizer, shorter)

        if self.recipe.sft.too_long == "cut":
            return fit(example, encode, self.most)
        tokens = encode(example)
        return Fitted(tokens=tokens if len(tokens.ids) <= self.most else None)

    def _drop(self, error: BadRow | DataError, example: Example) -> None:
        bad = error if isinstance(error, BadRow) else BadRow("is refused by the chat template", str(error))
        if self.reader is None:
            raise DataError(f"{example.source}: {bad}; take another base, or leave this source out") from error
        self.reader.kept -= 1
        self.reader.drop(bad, f"{Path(self.reader.source.path).parent / example.source}")


def load_conversations(
    recipe: Recipe,
    tokenizer: TokenizerLike,
    context_length: int,
    progress: Progress,
    *,
    without: Container[str] = (),
) -> Conversations:
    """Read all sources of `recipe.sft`, but for the conversations in `without`, by what they say (see `held_out`).

    Raises DataError where a source has nothing to learn, RecipeError where the system prompt would be lost.
    """
    section = recipe.sft
    fault = system_fault(tokenizer)
    if fault is not None and section.system_prompt:
        raise RecipeError(f"sft.system_prompt is set, but {fault}; remove it, or mend the template of the base")
    sources = [_Source(source, recipe, tokenizer, context_length + 1) for source in section.sources]
    tokens: list[list[Tokens]] = []
    for source in sources:
        tokens.append(list(source.tokens(fault, without)))
        if not tokens[-1]:
            raise DataError(_nothing(source, context_length))
    sizes = tuple(map(len, tokens))
    counts = per_pass(
        sizes,
        weights=[source.weight for source in section.sources],
        caps=[source.cap for source in section.sources],
        temperature=section.temperature,
    )
    mix = Mix(sizes=sizes, per_pass=counts)
    everything = [one for some in tokens for one in some]
    stream = SftStream(everything, context_length=context_length, seed=recipe.seed, mix=mix)
    facts = tuple(_source_facts(*one) for one in zip(sources, tokens, counts, strict=True))
    found = Conversations(stream=stream, sources=facts, facts=_facts(sources, facts, stream))
    _tell(found, sources, context_length, progress)
    return found


def with_system(example: Example, prompt: str) -> Example:
    """With the recipe's system prompt, where the conversation has none of its own."""
    if not prompt or example.messages[0].role == "system":
        return example
    moved = frozenset(place + 1 for place in example.only_read)
    return replace(example, messages=(Message(role="system", content=prompt), *example.messages), only_read=moved)


def _source_facts(source: _Source, tokens: Sequence[Tokens], count: int) -> SourceFacts:
    return SourceFacts(
        name=source.name,
        conversations=len(tokens),
        per_pass=count,
        tokens=sum(len(one.ids) for one in tokens),
        learned_tokens=int(sum(one.learned[1:].sum() for one in tokens)),
        formats={} if source.reader is None else dict(source.reader.formats),
    )


def _facts(sources: Sequence[_Source], facts: Sequence[SourceFacts], stream: SftStream) -> dict[str, Any]:
    readers = [source.reader for source in sources if source.reader is not None]
    learned = sum(one.learned_tokens * one.per_pass / one.conversations for one in facts)
    return {
        "sources": [asdict(one) for one in facts],
        "conversations": stream.conversations,
        "cut_conversations": sum(source.cut_conversations for source in sources),
        "cut": dict(sum((source.cut for source in sources), Counter[Cut]())),
        "left_out": sum(source.left_out for source in sources),
        "learned_tokens": round(learned),
        "filled": stream.filled,
        **tally_facts(readers),
        "not_wanted": dict(sum((reader.not_wanted for reader in readers), Counter[str]())),
        "end_markers": sum(reader.end_markers for reader in readers),
    }


def _nothing(source: _Source, context_length: int) -> str:
    first = source.reader.problems[0] if source.reader is not None and source.reader.problems else None
    why = (
        f"the first row left out: {first}"
        if first
        else f"{source.left_out} are too long, {source.unlearned} have no answer"
    )
    return (
        f"none of the {source.examples} conversations of {source.name} has a token to learn within a context of "
        f"{context_length} ({why}); each needs an assistant's turn that fits"
    )


def _tell(found: Conversations, sources: Sequence[_Source], context_length: int, progress: Progress) -> None:
    """Say aloud what was left out, what was cut, how sources are mixed and how full the rows are."""
    facts = found.facts
    examples = sum(source.examples for source in sources)
    if dropped := Counter(facts["bad_rows"]):
        reasons = ", ".join(f"{reason}: {count:,}" for reason, count in dropped.most_common(3))
        progress.note(f"rows left out: {dropped.total():,} ({reasons}); first: {facts['first_bad_rows'][0]}")
    if not_wanted := facts["not_wanted"]:
        progress.note("; ".join(f"{count:,} rows hold {what}" for what, count in not_wanted.items()))
    if facts["end_markers"]:
        progress.note(
            f"{facts['end_markers']:,} answers ended with a marker such as <|endoftext|>, which was taken off"
        )
    for what, count in facts["cut"].items():
        progress.note(
            f"{count:,} of {examples:,} conversations are longer than the context of {context_length} tokens and {CUTS[what]}; "
            "a larger model.context_length keeps more, sft.too_long=drop leaves them out"
        )
    if facts["left_out"]:
        progress.note(
            f"{facts['left_out']:,} of {examples:,} conversations are left out: they do not fit the context of {context_length} "
            "tokens"
        )
    if unlearned := sum(source.unlearned for source in sources):
        progress.note(f"{unlearned:,} of {examples:,} conversations have nothing to learn within the context")
    if len(found.sources) > 1:
        shares = ", ".join(f"{one.name} {one.per_pass:,} of {one.conversations:,}" for one in found.sources)
        progress.note(f"conversations in a pass: {shares}")
    progress.note(f"{found.stream.rows_per_epoch:,} rows of {context_length} tokens a pass, {facts['filled']:.1%} full")
