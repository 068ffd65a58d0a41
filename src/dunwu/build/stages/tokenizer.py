"""A vocabulary learned from the corpus, and the corpus as token ids: `tokenizer.json` and its kin, `shards/`.

Facts: `vocab_size`; `train_tokens`; `bytes_per_token` of the training text, `bytes_per_token_by_language` of held-out text.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from dunwu.build.budget import choose_vocab_size
from dunwu.build.costs import tokenizer_seconds
from dunwu.build.graph import Outcome, Outlook, Stage, Work
from dunwu.build.home import Figures, Forecast
from dunwu.build.meters import resident_bytes
from dunwu.build.training import affordable_parameters
from dunwu.core.devices import available_cores
from dunwu.core.recipe import Recipe
from dunwu.core.records import Document
from dunwu.corpus.shards import write_shards
from dunwu.corpus.store import read_documents
from dunwu.tokenizer.bpe import Tokenizer, train_tokenizer
from dunwu.tokenizer.template import verify_mask

SCORED_BYTES = 1_000_000  # of held-out text a language, to measure bytes per token
BYTES_HELD = 200_000_000  # the trainer's counts of words, and the text under way
_BYTES_PER_TOKEN = {"zh": 3.0, "": 3.8}  # a guess, before anything is measured, at a vocabulary of 4,096
_MORE_A_DOUBLING = 0.4


def _settings(recipe: Recipe) -> Mapping[str, Any]:
    settings: dict[str, Any] = {"tokenizer": recipe.tokenizer.model_dump(mode="json")}
    if recipe.tokenizer.vocab_size == "auto":
        settings |= {"budget": recipe.budget, "hidden_size": recipe.model.hidden_size}
    return settings


def _forecast(outlook: Outlook) -> Forecast:
    recipe, corpus = outlook.recipe, outlook.facts["corpus"]
    vocab_size = recipe.tokenizer.vocab_size
    if vocab_size == "auto":
        vocab_size = choose_vocab_size(corpus["bytes_by_language"], affordable_parameters(outlook))
    bytes_per_token = _expected_bytes_per_token(vocab_size, corpus["bytes_by_language"])
    train_bytes = corpus["train_bytes"]
    return Forecast(
        resolved={"vocab_size": vocab_size},
        predicted=Figures(
            seconds=tokenizer_seconds(recipe, train_bytes),
            peak_bytes=resident_bytes() + BYTES_HELD,
            tokens=int(train_bytes / bytes_per_token),
        ),
        facts={
            "vocab_size": vocab_size,
            "train_tokens": int(train_bytes / bytes_per_token),
            "bytes_per_token": bytes_per_token,
        },
    )


def _expected_bytes_per_token(vocab_size: int, bytes_by_language: Mapping[str, int]) -> float:
    more = _MORE_A_DOUBLING * (math.log2(vocab_size) - 12)
    total = max(1, sum(bytes_by_language.values()))
    tokens = sum(
        size / max(1.0, _BYTES_PER_TOKEN.get(language, _BYTES_PER_TOKEN[""]) + more)
        for language, size in bytes_by_language.items()
    )
    return total / max(tokens, 1.0)


def _run(work: Work) -> Outcome:
    corpus, facts = work.needs["corpus"], work.facts["corpus"]
    sampled = sample(read_documents(corpus, "train"), work.recipe.tokenizer.train_bytes, facts["train_bytes"])
    tokenizer = train_tokenizer(
        (document.text for document in sampled), vocab_size=work.resolved["vocab_size"], out=work.folder
    )
    verify_mask(tokenizer)
    shards = write_shards(
        read_documents(corpus, "train"),
        tokenizer,
        work.folder / "shards",
        progress=work.progress,
        workers=available_cores(),
    )
    return Outcome(
        facts={
            "vocab_size": tokenizer.vocab_size,
            "train_tokens": shards.tokens,
            "bytes_per_token": shards.text_bytes / shards.tokens,
            "bytes_per_token_by_language": _heldout_bytes_per_token(tokenizer, read_documents(corpus, "heldout")),
            "tokens_by_language": shards.tokens_by_language,
        },
        actual=Figures(tokens=shards.tokens),
    )


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


def _heldout_bytes_per_token(tokenizer: Tokenizer, documents: Iterable[Document]) -> dict[str, float]:
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
    version="1",
    needs=("corpus",),
    settings=_settings,
    forecast=_forecast,
    run=_run,
)
