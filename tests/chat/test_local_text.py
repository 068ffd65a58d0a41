"""A model as plain text: the likelihoods are those of the plain forward pass over lm-evaluation-harness's tokens."""

import random

import pytest
import torch

from dunwu.chat.local_text import LocalText, file_start_ids
from dunwu.chat.text_model import TextModel
from dunwu.core.errors import DataError
from dunwu.infer.generate import Generator
from tests.chat.conftest import make_home

CONTEXT = 48
PAIRS = [
    ("a cat sat. 猫坐", "着。"),
    ("a cat sat. 猫坐", " a"),
    ("a cat sat. ", "a cat"),
    ("a cat sat.", " a cat"),
    ("a cat sat. 猫", "坐着。a cat sat."),
    ("", "a cat"),
    ("  ", "a cat"),
    ("a cat sat. 猫坐着。" * 8, "a cat"),
    ("a cat sat. 猫坐着。" * 8, "a dog"),
    ("é", "\u0301 naïve 👩‍👩‍👧"),
]


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> LocalText:
    return LocalText.load(make_home(tmp_path_factory.mktemp("home"), context=CONTEXT, facts={"name": "kitten"}))


@torch.inference_mode()
def plainly(model: LocalText, context: str, continuation: str):
    """What lm-evaluation-harness does with one pair, over `Decoder.forward`: the sum, the tokens judged, whether greedy, the cut.

    Of "猫坐" and "着。", which are one token together, it would leave nothing to judge, and stop."""
    tokenizer, decoder = model.tokenizer, model.generator.model
    kept = context.rstrip()
    continuation = context[len(kept) :] + continuation
    before = tokenizer.encode(kept) if kept else [tokenizer.eos_id]
    judged = (kept and tokenizer.encode(kept + continuation)[len(before) :]) or tokenizer.encode(continuation)
    whole = (before + judged)[-(CONTEXT + 1) :]
    logprobs = decoder.logits(decoder(torch.tensor([whole[:-1]])))[0].log_softmax(-1)[-len(judged) :]
    targets = torch.tensor(judged)
    total = logprobs.gather(1, targets[:, None]).double().sum().item()
    greedy = bool((logprobs.argmax(-1) == targets).all())
    return total, len(judged), greedy, len(before) + len(judged) - len(whole)


def test_likelihoods_are_those_of_the_plain_pass_in_any_order(model):
    draw = random.Random(3)
    wanted = {pair: plainly(model, *pair) for pair in PAIRS}
    for _ in range(4):
        pairs = draw.sample(PAIRS, len(PAIRS))
        for pair, one in zip(pairs, model.likelihoods(pairs), strict=True):
            total, tokens, greedy, cut = wanted[pair]
            assert one.logprob == pytest.approx(total, abs=1e-4)
            assert (one.tokens, one.greedy, one.cut) == (tokens, greedy, cut)
    assert wanted[PAIRS[7]][3] > 0  # one was cut
    assert isinstance(model, TextModel)


def test_a_space_belongs_to_the_word_after_it(model):
    before, after = model.likelihoods([("a cat sat. ", "a cat"), ("a cat sat.", " a cat")])
    assert before == after


def test_shared_beginnings_are_read_once(tmp_path):
    model = LocalText.load(make_home(tmp_path / "home", context=CONTEXT))
    context = "a cat sat. 猫坐着。"
    tokens = model.count_tokens(context)
    model.likelihoods([(context, choice) for choice in ("a", "c", "s", "t")])
    assert model.read_tokens == tokens


def test_a_long_document_is_judged_in_windows(model):
    """Against lm-evaluation-harness's windows, written out: each holds the context, the last one reaches back."""
    text = "a cat sat. 猫坐着。" * 33
    ids = [model.tokenizer.eos_id, *model.tokenizer.encode(text)]
    decoder, total = model.generator.model, 0.0
    for done in range(0, len(ids) - 1, CONTEXT):
        end = min(done + CONTEXT, len(ids) - 1)
        window = torch.tensor([ids[max(0, end - CONTEXT) : end + 1]])
        logprobs = decoder.logits(decoder(window[:, :-1]))[0].log_softmax(-1)[-(end - done) :]
        total += logprobs.gather(1, window[0, -(end - done) :, None]).double().sum().item()
    (one,) = model.likelihoods([("", text)])
    assert len(ids) > 3 * CONTEXT
    assert one.logprob == pytest.approx(total, abs=1e-3)
    assert (one.tokens, one.cut) == (len(ids) - 1, 0)


def test_a_continuation_that_does_not_fit_or_is_empty_is_named(model):
    with pytest.raises(DataError, match=r"continuation 2 \(' a cat sat. .*…'\) takes \d+ tokens and kitten reads 48"):
        model.likelihoods([("a", " cat"), ("a", " a cat sat. 猫坐着。" * 9)])
    with pytest.raises(DataError, match="continuation 1 is empty"):
        model.likelihoods([("a", "")])


def test_texts_go_on_as_the_model_goes_on(model):
    prompts = ["a cat", "猫坐", "a cat sat. 猫"]
    together = model.complete(prompts, max_tokens=6)
    for prompt, one in zip(prompts, together, strict=True):
        ids = model.tokenizer.encode(prompt)
        (alone,) = Generator(model.generator.model, model.tokenizer).complete_batch([ids], max_new_tokens=6)
        assert (one.text, one.ids, one.finish_reason) == (alone.text, alone.ids, alone.finish_reason)
        assert one.usage is not None
        assert one.usage.prompt_tokens == len(ids)
    (stopped,) = model.complete(prompts[:1], max_tokens=6, stop=[together[0].text[1:]])
    assert stopped.text == together[0].text[:1]


def test_sampling_is_a_function_of_the_seed(model):
    texts = [[one.text for one in model.complete(["a"] * 3, max_tokens=8, temperature=1.0, seed=s)] for s in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]
    assert len(set(texts[0])) > 1


def test_a_prompt_that_fills_the_context_is_named(model):
    with pytest.raises(DataError, match=r"prompt 2 .* takes \d+ tokens and kitten reads 48"):
        model.complete(["a", "a cat sat. " * 30], max_tokens=1)


def test_what_stands_before_every_text_may_be_chosen(tmp_path):
    home = make_home(tmp_path / "home", context=CONTEXT)
    plain = LocalText.load(home)
    started = LocalText.load(home, start_ids=plain.tokenizer.start_ids)
    assert file_start_ids(plain.tokenizer) == ()
    assert plain.likelihoods([("", "a cat")])[0].logprob == pytest.approx(
        started.likelihoods([("", "a cat")])[0].logprob, abs=1e-5
    )
    assert started.likelihoods([("a", " cat")]) != plain.likelihoods([("a", " cat")])
    eos = plain.tokenizer.eos_id
    ids = [eos, *plain.tokenizer.encode("a cat")]
    decoder = plain.generator.model
    logprobs = decoder.logits(decoder(torch.tensor([ids[:-1]])))[0].log_softmax(-1)
    first = len([eos, *plain.tokenizer.encode("a")])
    wanted = sum(float(logprobs[place - 1, ids[place]]) for place in range(first, len(ids)))
    assert started.likelihoods([("a", " cat")])[0].logprob == pytest.approx(wanted, abs=1e-4)
