"""The reference is computed once, kept by what it follows from, and gone on with where it was interrupted."""

import numpy as np
import pytest
import torch

from dunwu.align import reference
from dunwu.align.answers import judge_answers
from dunwu.align.reference import answer_logprobs, reference_logprobs
from dunwu.core.deltas import LoraSpec
from dunwu.core.errors import ModelError
from dunwu.core.progress import SilentProgress
from dunwu.delta.registry import attach
from dunwu.model.decoder import new_decoder

from .helpers import CONFIG, items, plain_logprob


class Counted:
    """How often rows were read, and a kill in the middle of them."""

    def __init__(self, monkeypatch, stop_after=10**9):
        self.count, self.stop_after = 0, stop_after

        def counted(model, batch):
            if self.count >= self.stop_after:
                raise KeyboardInterrupt
            self.count += 1
            return judge_answers(model, batch)

        monkeypatch.setattr(reference, "judge_answers", counted)


def compute(model, made, folder, **more):
    return reference_logprobs(model, made, folder, rows=2, progress=SilentProgress(), **more)


@pytest.mark.parametrize("share", [True, False])
def test_it_is_what_the_model_says(tmp_path, share):
    made, model = items(15), new_decoder(CONFIG, seed=1)
    found = compute(model, made, tmp_path, share=share)
    for one, values in zip(made, found, strict=True):
        expected = [float(plain_logprob(model, one, side).detach()) for side in (0, 1)]
        assert values == pytest.approx(expected, abs=1e-4)
    for one, other in zip(found, answer_logprobs(model, made, share=share, rows=2), strict=True):
        assert np.array_equal(one, other)


def test_it_is_computed_once_for_the_same_weights_and_ids(tmp_path, monkeypatch):
    made, model = items(15), new_decoder(CONFIG, seed=1)
    counted = Counted(monkeypatch)
    first = compute(model, made, tmp_path)
    work = counted.count
    assert work > 3
    again = compute(model, items(15), tmp_path)
    assert counted.count == work
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    compute(new_decoder(CONFIG, seed=2), made, tmp_path)
    compute(model, items(15, seed=7), tmp_path)
    assert counted.count > 2 * work
    assert len(list(tmp_path.iterdir())) == 3


def test_an_interrupted_one_goes_on_to_the_same_bits(tmp_path, monkeypatch):
    made, model = items(15), new_decoder(CONFIG, seed=1)
    counted = Counted(monkeypatch)
    whole = compute(model, made, tmp_path / "whole")
    all_rows = counted.count
    Counted(monkeypatch, stop_after=2)
    with pytest.raises(KeyboardInterrupt):
        compute(model, made, tmp_path / "cut")
    rest = Counted(monkeypatch)
    found = compute(model, made, tmp_path / "cut")
    assert rest.count == all_rows - 2
    assert all(np.array_equal(a, b) for a, b in zip(whole, found, strict=True))


def test_a_damaged_file_is_made_anew(tmp_path, monkeypatch):
    made, model = items(6), new_decoder(CONFIG, seed=1)
    first = compute(model, made, tmp_path)
    (file,) = tmp_path.iterdir()
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    assert all(np.array_equal(a, b) for a, b in zip(first, compute(model, made, tmp_path), strict=True))


def test_with_a_delta_the_reference_is_the_model_without_it(tmp_path):
    made, model = items(6), new_decoder(CONFIG, seed=1)
    before = answer_logprobs(model, made)
    delta = attach(model, LoraSpec(r=2), seed=0)
    with torch.no_grad():
        for parameter in delta.trained().values():
            parameter.normal_(0, 0.5)
    found = reference_logprobs(model, made, tmp_path, progress=SilentProgress())
    assert all(np.array_equal(a, b) for a, b in zip(before, found, strict=True))
    assert delta.enabled
    after = answer_logprobs(model, made)
    assert max(float(np.abs(a - b).max()) for a, b in zip(before, after, strict=True)) > 0.1


def test_a_model_that_says_nothing_sound_is_refused(tmp_path):
    model = new_decoder(CONFIG, seed=1)
    with torch.no_grad():
        model.model.norm.weight.fill_(float("nan"))
    with pytest.raises(ModelError, match="log-probability of an answer is nan"):
        reference_logprobs(model, items(3), tmp_path, progress=SilentProgress())
