"""`dunwu quantise` on a tiny model."""

import re

import pytest

from dunwu.cli import run
from dunwu.model.hub import save_model
from tests.infer.tiny import tiny_model, tiny_tokenizer


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    tokenizer = tiny_tokenizer(folder)
    save_model(tiny_model(tokenizer.vocab_size, context=48), folder)
    (folder / "text.txt").write_text("a cat sat. the mat sat on a cat. " * 20, "utf-8")
    return folder


def test_it_prints_perplexity_size_and_speed_before_and_after(folder, capsys):
    options = ["--weights", "int4", "--cache-kind", "int8", "--text", str(folder / "text.txt"), "--windows", "5"]
    assert run(["quantise", str(folder), *options]) == 0
    said = capsys.readouterr().out
    before, after = re.findall(r"perplexity ([\d.]+) \(([\d.]+) to ([\d.]+)\); weights ([\d.]+) (\w+)", said)
    assert float(before[1]) < float(before[0]) < float(before[2])
    assert float(after[3]) < float(before[3])
    loss, factor = re.search(r"loss: ([+-][\d.]+) nats.*perplexity times ([\d.]+)", said).groups()
    assert float(factor) == pytest.approx(float(after[0]) / float(before[0]), rel=2e-3)
    assert float(loss) != 0


def test_a_float_model_loses_nothing(folder, capsys):
    options = ["--weights", "float", "--text", str(folder / "text.txt"), "--windows", "3"]
    assert run(["quantise", str(folder), *options]) == 0
    assert "loss: +0.0000 nats a token" in capsys.readouterr().out


def test_a_text_that_is_too_short_or_missing_is_refused(folder, capsys):
    (folder / "short.txt").write_text("a", "utf-8")
    for name, word in (("short.txt", "tokens; give one"), ("missing.txt", "can't be read")):
        assert run(["quantise", str(folder), "--text", str(folder / name)]) == 2
        assert word in capsys.readouterr().err
