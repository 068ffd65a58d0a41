"""The imported stories260K: its loss on TinyStories text beside the published one, and its entropy on stories of its own.

    python benchmarks/stories260k.py --model FOLDER     # made by `dunwu import stories260K.bin`; half a minute on one core

Published: 1.2968 nats a token (karpathy/llama2.c, doc/stories260K.md), on the first shard of all TinyStories, both the GPT-3.5
and the GPT-4 part, as its training reads it: each story stripped and begun with BOS, stories one after another, cut into
windows of 512 inputs and the 512 tokens after them, every prediction counted, that of BOS too, and no mask between stories.

`stories260k_loss` counts the same way on the excerpt at hand, which is not that shard. Its stories are separated as its
paragraphs are, by blank lines; a story is taken to begin where a paragraph opens as TinyStories open (see `OPENINGS`).
`stories260k_loss_one_newline` has one newline between paragraphs, as the model itself writes. Intervals are over windows.

`stories260k_entropy` needs no text: the mean entropy of the next token over stories that the model samples from BOS at
temperature 1. A model that has learned the distribution which it was measured on has a validation loss of its own entropy, so
this tells whether the import, rather than the text, makes a difference to the published figure.
"""

import argparse
import gzip
import re
from pathlib import Path

import torch
from common import print_figure
from torch.nn import functional as F

from dunwu.core.devices import prepare_cpu
from dunwu.model.cache import KeyValueCache
from dunwu.model.decoder import Decoder
from dunwu.model.hub import load_model
from dunwu.tokenizer.load import load_tokenizer

WINDOW = 512
PUBLISHED = 1.2968
DEFAULT_TEXT = Path(__file__).resolve().parents[2] / "shared" / "data" / "en_tinystories" / "tinystories.txt.gz"
OPENINGS = re.compile(
    r"Once (upon a time|there)|Once, there"
    r"|One ([a-z]+ )?(day|morning|night|evening),? (a|an|two|three|there|[A-Z][a-z]+ (was|went|wanted|and)) ?"
)
SAMPLES, SAMPLE_TOKENS = 48, 256


def stories(path: Path, between: str) -> list[str]:
    """The excerpt's stories, with `between` between paragraphs."""
    raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    found: list[list[str]] = [[]]
    for paragraph in raw.decode("utf-8").split("\n\n"):
        if OPENINGS.match(paragraph) and found[-1]:
            found.append([])
        found[-1].append(paragraph)
    return [between.join(story).strip() for story in found]


@torch.no_grad()
def window_losses(model: Decoder, ids: list[int]) -> list[float]:
    """Mean nats a token of each whole window."""
    stream = torch.tensor(ids)
    count = (len(stream) - 1) // WINDOW
    inputs = stream[: count * WINDOW].view(count, WINDOW)
    targets = stream[1 : count * WINDOW + 1].view(count, WINDOW)
    losses: list[float] = []
    for x, y in zip(inputs.split(16), targets.split(16), strict=True):
        logits = model.logits(model(x))
        losses += F.cross_entropy(logits.transpose(1, 2), y, reduction="none").mean(1).tolist()
    return losses


@torch.no_grad()
def entropies(model: Decoder, bos_id: int) -> list[float]:
    """Mean nats of the next token's distribution over each of the model's own stories; a sample goes on past its end."""
    generator = torch.Generator().manual_seed(0)
    cache = KeyValueCache(model.config, SAMPLES, SAMPLE_TOKENS, "cpu", torch.float32)
    ids = torch.full((SAMPLES, 1), bos_id)
    total = torch.zeros(SAMPLES)
    for _ in range(SAMPLE_TOKENS):
        logprobs = model.logits(model(ids, cache=cache))[:, -1].log_softmax(-1)
        total -= (logprobs.exp() * logprobs).sum(-1)
        ids = torch.multinomial(logprobs.exp(), 1, generator=generator)
    return (total / SAMPLE_TOKENS).tolist()


def print_mean(name: str, values: list[float], **facts: object) -> None:
    """The mean with its 95% interval: print_figure's own median would weigh windows otherwise than the published mean."""
    sample = torch.tensor(values)
    half = 1.96 * float(sample.std()) / len(values) ** 0.5
    mean = float(sample.mean())
    interval = [round(mean - half, 4), round(mean + half, 4)]
    print_figure(name, values, unit="nats/token", target="none", mean=round(mean, 4), interval=interval, **facts)


def main() -> None:
    """Parse the command line and print three figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--text", type=Path, default=DEFAULT_TEXT)
    arguments = parser.parse_args()
    prepare_cpu()
    model = load_model(arguments.model).requires_grad_(False).eval()
    tokenizer = load_tokenizer(arguments.model)
    bos_id = model.config.bos_token_id
    assert bos_id is not None
    for name, between in (("stories260k_loss", "\n\n"), ("stories260k_loss_one_newline", "\n")):
        found = stories(arguments.text, between)
        ids = [number for story in found for number in (bos_id, *tokenizer.encode(story))]
        print_mean(name, window_losses(model, ids), published=PUBLISHED, stories=len(found), tokens=len(ids))
    print_mean(
        "stories260k_entropy", entropies(model, bos_id), published_loss=PUBLISHED, tokens=SAMPLES * SAMPLE_TOKENS
    )


if __name__ == "__main__":
    main()
