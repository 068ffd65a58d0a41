"""A vocabulary, learned from the corpus or taken from the base, and the corpus as token ids: `tokenizer.json` and its kin,
`shards/`, and `replay/` with the ids of the text to replay.

Facts: `vocab_size`; `train_tokens`; `bytes_per_token` of the training text, `bytes_per_token_by_language` of held-out text.
With a base: `added_tokens`, `base_bytes_per_token_by_language` before these were added, `replay_tokens`, `cut_bytes` (of training
text that the other of corpus and replay holds out).
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from dunwu.build.base import CONFIG_FILE, GENERATION_FILE, base_folder
from dunwu.build.budget import choose_vocab_size
from dunwu.build.costs import EXTEND_BYTES, tokenizer_seconds
from dunwu.build.graph import Outcome, Outlook, Stage, Work
from dunwu.build.home import Figures, Forecast
from dunwu.build.meters import resident_bytes
from dunwu.build.overlap import WithoutCopies, held_out
from dunwu.build.training import affordable_parameters
from dunwu.core.devices import available_cores
from dunwu.core.files import disk_errors
from dunwu.core.modelfiles import TOKENIZER_FILES
from dunwu.core.recipe import Recipe
from dunwu.core.records import Document
from dunwu.core.units import format_bytes, parse_duration
from dunwu.corpus.shards import ShardFacts, write_shards
from dunwu.corpus.store import read_documents
from dunwu.model.folder import copy_files
from dunwu.tokenizer.bpe import train_tokenizer
from dunwu.tokenizer.extend import extend_tokenizer
from dunwu.tokenizer.like import TokenizerLike
from dunwu.tokenizer.load import load_tokenizer
from dunwu.tokenizer.template import verify_mask

SHARDS, REPLAY_SHARDS = "shards", "replay"
SCORED_BYTES = 1_000_000  # of held-out text a language, to measure bytes per token
BYTES_HELD = 200_000_000  # the trainer's counts of words, and the text under way
_BYTES_PER_TOKEN = {"zh": 3.0, "": 3.8}  # a guess, before anything is measured, at a vocabulary of 4,096
_MORE_A_DOUBLING = 0.4


def _settings(recipe: Recipe) -> Mapping[str, Any]:
    section = recipe.tokenizer
    if recipe.base:
        learned = {"train_bytes": min(section.train_bytes, EXTEND_BYTES)} if section.extend_by else {}
        return {"tokenizer": {"extend_by": section.extend_by, **learned}}
    settings: dict[str, Any] = {"tokenizer": section.model_dump(mode="json", exclude={"extend_by"})}
    if section.vocab_size == "auto":
        settings |= {"budget_s": parse_duration(recipe.budget), "hidden_size": recipe.model.hidden_size}
    return settings


def _forecast(outlook: Outlook) -> Forecast:
    recipe, corpus = outlook.recipe, outlook.facts["corpus"]
    vocab_size = recipe.tokenizer.vocab_size
    if recipe.base:
        vocab_size = outlook.facts["base"]["vocab_size"] + recipe.tokenizer.extend_by
    elif vocab_size == "auto":
        vocab_size = choose_vocab_size(corpus["bytes_by_language"], affordable_parameters(outlook))
    bytes_per_token = _expected_bytes_per_token(vocab_size, corpus["bytes_by_language"])
    train_bytes = corpus["train_bytes"]
    replay_bytes = outlook.facts.get("replay", {}).get("train_bytes", 0)
    return Forecast(
        resolved={"vocab_size": vocab_size},
        predicted=Figures(
            seconds=tokenizer_seconds(recipe, train_bytes, replay_bytes),
            peak_bytes=resident_bytes() + BYTES_HELD,
            tokens=int(train_bytes / bytes_per_token),
        ),
        facts={
            "vocab_size": vocab_size,
            "train_tokens": int(train_bytes / bytes_per_token),
            "bytes_per_token": bytes_per_token,
            "replay_tokens": int(replay_bytes / bytes_per_token),
        },
    )


def _expected_bytes_per_token(vocab_size: int, bytes_by_language: Mapping[str, int]) -> float:
    more = _MORE_A_DOUBLING * (min(math.log2(vocab_size), 15) - 12)
    total = max(1, sum(bytes_by_language.values()))
    tokens = sum(
        size / max(1.0, _BYTES_PER_TOKEN.get(language, _BYTES_PER_TOKEN[""]) + more)
        for language, size in bytes_by_language.items()
    )
    return total / max(tokens, 1.0)


def _run(work: Work) -> Outcome:
    corpus, facts = work.needs["corpus"], work.facts["corpus"]
    section = work.recipe.tokenizer
    most_bytes = min(section.train_bytes, EXTEND_BYTES) if work.recipe.base else section.train_bytes
    train, replayed = _training_texts(work)
    sampled = sample(train, most_bytes, facts["train_bytes"])
    texts = (document.text for document in sampled)
    more: dict[str, Any] = {}
    if work.recipe.base:
        tokenizer, more = _from_base(work, texts)
    else:
        tokenizer = train_tokenizer(texts, vocab_size=work.resolved["vocab_size"], out=work.folder)
        verify_mask(tokenizer)
    shards = _shards(work, train, tokenizer, SHARDS)
    if replayed is not None:
        more["replay_tokens"] = _shards(work, replayed, tokenizer, REPLAY_SHARDS).tokens
        more["cut_bytes"] = {"corpus": train.cut_bytes, "replay": replayed.cut_bytes}
        if cut := sum(more["cut_bytes"].values()):
            work.progress.note(f"{format_bytes(cut)} of training text are not learned: the other text holds them out")
    return Outcome(
        facts={
            "vocab_size": tokenizer.vocab_size,
            "train_tokens": shards.tokens,
            "bytes_per_token": shards.text_bytes / shards.tokens,
            "bytes_per_token_by_language": _heldout_bytes_per_token(tokenizer, read_documents(corpus, "heldout")),
            "tokens_by_language": shards.tokens_by_language,
            **more,
        },
        actual=Figures(tokens=shards.tokens),
    )


def _training_texts(work: Work) -> tuple[WithoutCopies, WithoutCopies | None]:
    """The documents to learn from and those to replay, each without what the other holds out."""
    corpus, replay = work.needs["corpus"], work.needs.get("replay")
    if replay is None:
        return WithoutCopies(_Split(corpus), frozenset()), None
    held = [held_out(read_documents(folder, "heldout")) for folder in (replay, corpus)]
    return WithoutCopies(_Split(corpus), held[0]), WithoutCopies(_Split(replay), held[1])


class _Split:
    """The training documents of a corpus, read anew each time."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __iter__(self) -> Iterator[Document]:
        return read_documents(self._folder, "train")


def _shards(work: Work, documents: Iterable[Document], tokenizer: TokenizerLike, name: str) -> ShardFacts:
    """Training text as ids."""
    return write_shards(
        documents,
        tokenizer,
        work.folder / name,
        progress=work.progress,
        workers=available_cores(),
        # What ends a document of ours also opens the next one: it is not written twice.
        start_ids=() if tuple(tokenizer.start_ids) == (tokenizer.eos_id,) else tokenizer.start_ids,
    )


def _from_base(work: Work, texts: Iterable[str]) -> tuple[TokenizerLike, dict[str, Any]]:
    """The base's tokenizer in this stage's folder, with tokens of `texts` added where the recipe wants any; facts of it."""
    base = base_folder(work.recipe, work.facts["base"]["revision"])
    with disk_errors(work.folder):  # the last two name ids that end a text or a turn
        copy_files(base, work.folder, (*TOKENIZER_FILES, CONFIG_FILE, GENERATION_FILE))
    if not work.recipe.tokenizer.extend_by:
        return load_tokenizer(work.folder), {"added_tokens": 0}
    read = min(work.recipe.tokenizer.train_bytes, EXTEND_BYTES, work.facts["corpus"]["train_bytes"])
    work.progress.note(f"learning new tokens from {format_bytes(read)} of the corpus")
    extension = extend_tokenizer(base, texts, extend_by=work.recipe.tokenizer.extend_by, out=work.folder)
    before = _heldout_bytes_per_token(load_tokenizer(base), read_documents(work.needs["corpus"], "heldout"))
    return load_tokenizer(work.folder), {
        "added_tokens": len(extension.pieces),
        "base_bytes_per_token_by_language": before,
    }


def sample(documents: Iterable[Document], wanted_bytes: int, total_bytes: int) -> Iterator[Document]:
    """About `wanted_bytes` of the documents, spread evenly over all of them, and one at least; all where they
    are no more than that."""
    share = min(1.0, wanted_bytes / max(1, total_bytes))
    seen = taken = 0
    document = None
    for document in documents:
        size = len(document.text.encode("utf-8"))
        seen += size
        if share == 1.0 or taken + size / 2 <= share * seen:
            taken += size
            yield document
    if not taken and document is not None:
        yield document


def _heldout_bytes_per_token(tokenizer: TokenizerLike, documents: Iterable[Document]) -> dict[str, float]:
    texts: dict[str, list[str]] = {}
    sizes: dict[str, int] = {}
    for document in documents:
        size = sizes.get(document.language, 0)
        if size < SCORED_BYTES:
            texts.setdefault(document.language, []).append(document.text[:SCORED_BYTES])
            sizes[document.language] = size + len(document.text.encode("utf-8"))
    return {language: tokenizer.bytes_per_token(held) for language, held in sorted(texts.items())}


TOKENIZER = Stage(
    name="tokenizer",
    title="Learning a vocabulary",
    version="3",
    needs=("base", "corpus", "replay"),
    settings=_settings,
    forecast=_forecast,
    run=_run,
    wanted=lambda recipe: not recipe.only_tunes,
)
