"""A published model of 260 thousand parameters through every form: the same story everywhere."""

from pathlib import Path

import numpy as np
import pytest

from dunwu.build.handover import hand_over, report
from dunwu.build.importing import import_model
from dunwu.evaluate.peers import OwnPeer
from dunwu.model.gguf import import_gguf

CHECKPOINT = Path(__file__).parents[2].parent / "shared/data/models/stories260K_llama2c/stories260K.bin"
pytestmark = pytest.mark.skipif(not CHECKPOINT.is_file(), reason=f"{CHECKPOINT} is not here")


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return import_model(
        str(CHECKPOINT), out=tmp_path_factory.mktemp("home") / "stories", tokenizer=None, revision=None
    ).home


@pytest.fixture(scope="module")
def own(home):
    return OwnPeer(home)


def story(peer):
    start = list(peer.tokenizer.start_ids)
    return peer.tokenizer.decode(peer.greedy(start + peer.encode("Once upon a time"), 100))


def test_the_story_is_the_published_one(own):
    assert story(own).startswith(", there was a little girl named Lily. She loved to play outside in the park.")


def test_transformers_tells_the_same(home, tmp_path):
    pytest.importorskip("transformers")
    done = hand_over(home, to="hf", dtype=None, out=tmp_path / "hf", check=True)
    assert done.passed, report(done)
    assert done.comparisons[0].figures["greedy"]["equal"] == 4


def test_llama_cpp_tells_the_same(home, tmp_path):
    pytest.importorskip("llama_cpp")
    done = hand_over(home, to="gguf", dtype="f32", out=tmp_path / "x.gguf", check=True)
    assert done.passed, report(done)
    assert done.comparisons[0].figures["greedy"]["equal"] == 4
    assert done.comparisons[0].figures["token_ids"] == {"n": 60, "differ": 0, "differ_for_want_of_nfc": 0}


def test_from_gguf_it_comes_back_the_same(own, home, tmp_path):
    hand_over(home, to="gguf", dtype="f32", out=tmp_path / "x.gguf", check=False)
    import_gguf(tmp_path / "x.gguf", tmp_path / "back")
    back = OwnPeer(tmp_path / "back")
    text = " It's  a cat; 猫. 🙂\n\n<s>"
    assert back.encode(text) == own.encode(text)
    assert back.tokenizer.decode(back.encode(text)) == own.tokenizer.decode(own.encode(text))
    assert list(back.tokenizer.start_ids) == list(own.tokenizer.start_ids)
    assert story(back) == story(own)


def test_eight_bits_stay_close(home, tmp_path):
    pytest.importorskip("llama_cpp")
    pytest.importorskip("gguf")
    done = hand_over(home, to="gguf", dtype="q8_0", out=tmp_path / "x.gguf", check=True)
    figures = done.comparisons[0].figures["logits"]
    assert done.passed, report(done)
    assert 0 < figures["mean_kl_nats"] < 0.01
    assert figures["top1_agreement"] > 0.9
    assert np.isfinite(figures["max_abs_difference"])
