"""`dunwu quantise`: what fewer bits save, and what they cost."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from dunwu.cli.talking import model_folder
from dunwu.core.devices import prepare_cpu
from dunwu.core.errors import DataError
from dunwu.core.units import format_bytes
from dunwu.corpus.python_docs import python_documents
from dunwu.delta.quantise import Weights, quantise, weight_bytes
from dunwu.evaluate.stats import Estimate, paired_ratio_difference, ratio_interval
from dunwu.infer.engine import Engine
from dunwu.infer.paged import CacheKind, token_bytes
from dunwu.infer.sampling import SamplingParams
from dunwu.infer.sequence import Request
from dunwu.model.decoder import Decoder
from dunwu.model.hub import load_model
from dunwu.tokenizer.like import TokenizerLike
from dunwu.tokenizer.load import load_tokenizer

WINDOW_TOKENS = 256
SPEED_TOKENS = 48


@dataclass(frozen=True, kw_only=True)
class _Measured:
    """`nats`: of each window, summed over all its tokens but the first."""

    nats: list[float]
    weight_bytes: int
    token_bytes: int
    tokens_per_s: float


def quantising(model: str, *, weights: Weights, cache: CacheKind, text: Path | None, windows: int) -> None:
    """Measure the model as it is and with fewer bits, on the same text, and print both."""
    prepare_cpu()
    folder = model_folder(model)
    network = load_model(folder, dtype=torch.float32).requires_grad_(False).eval()
    tokenizer = load_tokenizer(folder)
    ids = _windows(tokenizer, _text(text), min(WINDOW_TOKENS, network.config.max_position_embeddings - 1), windows)
    before = _measured(network, tokenizer, ids, "float")
    after = _measured(quantise(network, weights), tokenizer, ids, cache)
    source = text or "the documentation of this Python"
    print(f"{sum(map(len, ids))} tokens in {len(ids)} windows of {source}; intervals are 95%, over windows")
    print(_line("float", before, ids))
    print(_line(f"{weights}, cache {cache}", after, ids))
    sizes = [len(one) - 1 for one in ids]
    change = paired_ratio_difference(before.nats, after.nats, sizes)
    print(
        f"loss: {change.value:+.4f} nats a token ({change.low:+.4f} to {change.high:+.4f}), "
        f"perplexity times {math.exp(change.value):.4f}"
    )
    print(f"Use it: dunwu serve {model} --weights {weights} --cache-kind {cache}")


def _text(path: Path | None) -> str:
    if path is None:
        return "\n\n".join(document.text for document in python_documents(400_000))
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} can't be read as UTF-8 text ({error}); give a plain text file") from error


def _windows(tokenizer: TokenizerLike, text: str, size: int, most: int) -> list[list[int]]:
    """Stretches of `size` tokens, spread over the text; two are needed for an interval."""
    start = [*tokenizer.start_ids]
    size -= len(start)
    ids = tokenizer.encode(text)
    whole = [ids[at : at + size] for at in range(0, len(ids), size)]
    whole = [one for one in whole if len(one) > 1]
    if len(whole) < 2:
        raise DataError(f"the text has {len(ids)} tokens; give one of at least {size + 2}")
    count = min(most, len(whole))
    return [[*start, *whole[i * len(whole) // count]] for i in range(count)]


def _measured(model: Decoder, tokenizer: TokenizerLike, windows: Sequence[list[int]], cache: CacheKind) -> _Measured:
    engine = Engine(model, tokenizer, cache=cache, max_sequences=8, cache_bytes=256 << 20)
    judged = SamplingParams(temperature=0, max_tokens=1, prompt_logprobs=0, ignore_eos=True)
    nats: list[float] = []
    for number, ids in enumerate(windows):
        (answer,) = engine.run([Request(id=f"text {number}", prompt_ids=tuple(ids), params=judged)])
        assert answer.prompt is not None
        nats.append(-sum(token.logprob for token in answer.prompt if token is not None))
    room = min(SPEED_TOKENS, engine.context_length - 2)
    written = SamplingParams(temperature=0, max_tokens=room, ignore_eos=True)
    start = time.perf_counter()
    engine.run([Request(id="speed", prompt_ids=tuple(windows[0][:1]), params=written)])
    return _Measured(
        nats=nats,
        weight_bytes=weight_bytes(model),
        token_bytes=token_bytes(model.config, torch.float32, cache),
        tokens_per_s=room / (time.perf_counter() - start),
    )


def _line(name: str, measured: _Measured, windows: Sequence[list[int]]) -> str:
    found = ratio_interval(measured.nats, [len(one) - 1 for one in windows])
    return (
        f"{name}: perplexity {_perplexity(found)}; weights {format_bytes(measured.weight_bytes)}, "
        f"cache {format_bytes(measured.token_bytes)} a token; {measured.tokens_per_s:.1f} tokens/s, one text"
    )


def _perplexity(nats: Estimate) -> str:
    if math.isnan(nats.low):
        return f"{math.exp(nats.value):.3f}"
    return f"{math.exp(nats.value):.3f} ({math.exp(nats.low):.3f} to {math.exp(nats.high):.3f})"
