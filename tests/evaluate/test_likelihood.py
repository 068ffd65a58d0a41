"""Bits per byte against a slow, plain sum; every token once; padding, windows and chunks change nothing that they should not."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from dunwu.core.progress import RecordedProgress, SilentProgress
from dunwu.core.records import Document
from dunwu.evaluate import likelihood
from dunwu.evaluate.heldout import choose_text
from dunwu.model.config import DecoderConfig, RopeScaling
from dunwu.model.decoder import Decoder, new_decoder

VOCABULARY = 300


class Bytes:
    """A tokenizer of bytes, with the end of text at 256."""

    eos_id = 256

    def encode_batch(self, texts):
        return [np.frombuffer(text.encode(), dtype=np.uint8).astype(np.int32) for text in texts]


def _model(context_length: int = 64) -> Decoder:
    config = DecoderConfig(
        architecture="qwen3",
        qk_norm="head",
        vocab_size=VOCABULARY,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        intermediate_size=64,
        tie_word_embeddings=True,
        max_position_embeddings=context_length,
    )
    model = new_decoder(config, seed=0)
    with torch.no_grad():  # far from uniform, so that a wrong context shows
        for parameter in model.parameters():
            parameter.mul_(4)
    return model


def _documents(*texts: str) -> list[Document]:
    return [
        Document(text=text, source=f"{i}.txt", language="zh" if "中" in text else "en") for i, text in enumerate(texts)
    ]


@torch.no_grad()
def _slow_bits(model: Decoder, text: str, context_length: int) -> float:
    """Each target in its own forward pass, with the context that the docstring promises."""
    row = [Bytes.eos_id, *text.encode()]
    step, bits, begin, end = context_length // 2, 0.0, 0, min(context_length + 1, len(row))
    for target in range(1, len(row)):
        if target >= end:
            begin = end - 1 - (context_length - step)
            end = min(begin + context_length + 1, len(row))
        logits = model.logits(model(torch.tensor([row[begin:target]]))[0, -1])
        bits -= float(torch.log_softmax(logits, -1)[row[target]]) / math.log(2)
    return bits


@pytest.mark.parametrize("context_length", [4, 7, 16, 64])
def test_equals_a_slow_plain_sum(context_length):
    texts = ["The quick brown fox jumps over the lazy dog.", "中文也可以。", "x"]
    model = _model()
    found = likelihood.bits_per_byte(
        model, Bytes(), _documents(*texts), context_length=context_length, max_bytes=10**6, progress=SilentProgress()
    )
    slow = [_slow_bits(model, text, context_length) for text in texts]
    assert [row.bits for row in found.documents] == pytest.approx(slow, rel=1e-4)
    assert [row.bytes for row in found.documents] == [len(text.encode()) for text in texts]
    assert found.score.value == pytest.approx(sum(slow) / sum(len(text.encode()) for text in texts), rel=1e-4)
    assert found.score.n == 3
    assert found.score.low < found.score.value < found.score.high
    assert {score.name: score.n for score in found.by_language} == {"bits_per_byte.en": 2, "bits_per_byte.zh": 1}


@pytest.mark.parametrize("length", [0, 1, 7, 8, 9, 16, 17, 100])
@pytest.mark.parametrize("context_length", [1, 2, 5, 8])
def test_windows_score_every_token_once_with_at_least_half_a_context(length, context_length):
    ids = np.arange(length, dtype=np.int32)
    scored = []
    for window in likelihood._windows(0, ids, (999,), context_length):
        assert len(window.ids) <= context_length + 1
        targets = window.ids[1:][window.first_scored :]
        assert len(targets) > 0
        for i, target in enumerate(targets):
            context = window.first_scored + i + 1
            assert context >= min(context_length // 2, target + 1)
        scored.extend(targets.tolist())
    assert scored == list(range(length))


def test_batches_and_chunks_do_not_change_the_sum(monkeypatch):
    texts = ["a longer text than the other one, " * 9, "short", "middle sized text " * 3]
    model = _model()

    def total() -> float:
        found = likelihood.bits_per_byte(
            model, Bytes(), _documents(*texts), context_length=32, max_bytes=10**6, progress=SilentProgress()
        )
        return found.score.value

    together = total()
    monkeypatch.setattr(likelihood, "BATCH_TOKENS", 1)
    monkeypatch.setattr(likelihood, "LOGITS_BYTES", 3 * 4 * VOCABULARY)
    assert total() == pytest.approx(together, rel=1e-5)


def test_padding_makes_no_text_longer(monkeypatch):
    scaling = RopeScaling(
        kind="longrope", factor=4.0, original_max_position_embeddings=8, short_factor=(1.0,) * 8, long_factor=(9.0,) * 8
    )
    model = Decoder(replace(_model().config, rope_scaling=scaling))
    model.load_state_dict(_model().state_dict())
    batch = [likelihood._Window(i, np.arange(length + 1, dtype=np.int32), 0) for i, length in enumerate((6, 20))]
    with torch.no_grad():
        together = likelihood._window_nats(model, batch)
        alone = [likelihood._window_nats(model, [window])[0] for window in batch]
    assert together == pytest.approx(alone, rel=1e-5)


def test_logits_never_exist_whole(monkeypatch):
    seen = []
    model = _model()
    plain = Decoder.logits
    monkeypatch.setattr(Decoder, "logits", lambda self, hidden: seen.append(hidden.shape[0]) or plain(self, hidden))
    monkeypatch.setattr(likelihood, "LOGITS_BYTES", 10 * 4 * VOCABULARY)
    likelihood.bits_per_byte(
        model, Bytes(), _documents("word " * 100), context_length=64, max_bytes=10**6, progress=SilentProgress()
    )
    assert max(seen) == 10


def test_an_untrained_model_with_even_weights_needs_log2_of_its_vocabulary_for_each_token():
    model = _model()
    with torch.no_grad():
        model.model.embed_tokens.weight.zero_()
    found = likelihood.bits_per_byte(
        model, Bytes(), _documents("abc", "中文"), context_length=8, max_bytes=10**6, progress=SilentProgress()
    )
    assert found.score.value == pytest.approx(math.log2(VOCABULARY), rel=1e-6)


def test_keeps_the_training_mode_tells_progress_and_scores_no_more_than_asked():
    model, progress = _model().train(), RecordedProgress()
    text = choose_text(_documents("line of text\n" * 2000, "other\n" * 3000), max_bytes=5_000, piece_bytes=500)
    found = likelihood.score_text(model, Bytes(), text, context_length=64, progress=progress)
    assert model.training
    done, total, _ = progress.updates[-1]
    assert done == total
    assert 4_000 < sum(row.bytes for row in found.documents) <= 5_000
    assert len(found.documents) == 2
    assert found.text is text
