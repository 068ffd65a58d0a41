"""Training on a replay mixture goes on exactly where it stopped, and frozen parameters stay out of it altogether."""

import pytest
import torch

from dunwu.build.learn import freeze
from dunwu.core.errors import RecipeError
from dunwu.core.progress import SilentProgress
from dunwu.corpus.mix import MixedStream
from dunwu.corpus.shards import TokenShards, write_shards
from dunwu.corpus.stream import PretrainStream
from dunwu.model.decoder import new_decoder
from dunwu.train.objectives import causal_lm
from dunwu.train.optim import build_optimizer
from dunwu.train.signals import Interrupted, StopSignal

from . import tiny


def mixed(folder):
    streams = []
    for name, documents in (("sums", tiny.documents()), ("general", list(reversed(tiny.documents(30))))):
        if not (folder / name / "shards.json").exists():
            write_shards(documents, tiny.Bytes(), folder / name, progress=SilentProgress())
        streams.append(PretrainStream(TokenShards.open(folder / name), context_length=tiny.CONTEXT, seed=0))
    return MixedStream(*streams, share=0.2, seed=0)


def test_a_mixture_interrupted_and_gone_on_ends_in_the_same_weights(tmp_path):
    tiny.run(tmp_path / "whole", progress=SilentProgress(), rows=mixed(tmp_path))
    stop, calls = StopSignal(), []

    def stopping(model, batch, *, total_learned):
        calls.append(1)
        if len(calls) == 13:
            stop.request()
        return causal_lm(model, batch, total_learned=total_learned)

    broken = tmp_path / "broken"
    with pytest.raises(Interrupted):
        tiny.run(broken, progress=SilentProgress(), rows=mixed(tmp_path), stop=stop, objective=stopping)
    result = tiny.run(broken, progress=SilentProgress(), rows=mixed(tmp_path))
    assert 0 < result.resumed_from < 20
    assert tiny.weights(broken) == tiny.weights(tmp_path / "whole")


def test_frozen_parameters_have_no_gradient_no_state_and_do_not_change():
    model = new_decoder(tiny.CONFIG, seed=0)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    numbers = freeze(model, ["model.embed_tokens.*", "model.layers.0.*"], "pretrain")
    frozen = {name for name in before if name.startswith(("model.embed_tokens.", "model.layers.0."))}
    assert numbers == sum(before[name].numel() for name in frozen)
    optimizer = build_optimizer(model, tiny.section(weight_decay=0.5), (0.02, 3e-3))
    kept = sum(tensor.numel() for name, tensor in optimizer.state_tensors().items() if not name.endswith("step"))
    full = build_optimizer(new_decoder(tiny.CONFIG, seed=0), tiny.section(), (0.02, 3e-3))
    assert kept < sum(tensor.numel() for tensor in full.state_tensors().values()) / 2
    ids = torch.arange(1, 33)[None]
    for _ in range(3):
        hidden = model(ids)
        loss = torch.nn.functional.cross_entropy(model.logits(hidden)[0, :-1], ids[0, 1:])
        loss.backward()
        assert all((p.grad is None) == (name in frozen) for name, p in model.named_parameters())
        optimizer.step(1.0, 1.0)
    changed = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert changed == set(before) - frozen


def test_a_pattern_that_fits_nothing_is_refused_with_the_nearest_name():
    model = new_decoder(tiny.CONFIG, seed=0)
    with pytest.raises(RecipeError, match=r"sft\.freeze.*model\.embed_tokens\.weight"):
        freeze(model, ["model.embed_token.weight"], "sft")
    with pytest.raises(RecipeError, match="nothing to learn"):
        freeze(model, ["model.*"], "pretrain")
    assert freeze(model, [], "pretrain") == 0
