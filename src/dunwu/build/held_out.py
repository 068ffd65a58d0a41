"""The conversations that a build without a corpus keeps out of tuning, so that what it did can be measured."""

from collections.abc import Iterable, Iterator
from dataclasses import asdict

from dunwu.build import costs
from dunwu.core.lineage import stable_hash
from dunwu.core.recipe import Recipe, SftFileSource
from dunwu.core.records import Example
from dunwu.corpus.instructions import InstructionReader

EVERY, MOST = 20, 200


def held_out(recipe: Recipe) -> dict[str, Example]:
    """One of `EVERY` conversations, at most `MOST`, none of fewer than twice `EVERY`, by what they say: one that is there twice
    is on one side alone. Nothing where a corpus is held out in part: all conversations are learned then."""
    return _least(_read(recipe)) if recipe.only_tunes else {}


def said_in(example: Example) -> str:
    """A digest of what is said in a conversation."""
    return stable_hash([[m.role, m.content, [asdict(call) for call in m.tool_calls]] for m in example.messages])[:16]


def _least(examples: Iterable[Example]) -> dict[str, Example]:
    """Those of the least digests, which nobody chose."""
    seen: set[str] = set()
    least: dict[str, Example] = {}
    for example in examples:
        digest = said_in(example)
        seen.add(digest)
        least[digest] = example
        if len(least) > 2 * MOST:
            least = dict(sorted(least.items())[:MOST])
    wanted = min(len(seen) // EVERY, MOST)
    return dict(sorted(least.items())[:wanted]) if wanted > 1 else {}


def _read(recipe: Recipe) -> Iterator[Example]:
    for source in recipe.sft.sources:
        is_file = isinstance(source, SftFileSource)
        yield from InstructionReader(source, seed=recipe.seed) if is_file else costs.sft_examples(source)
