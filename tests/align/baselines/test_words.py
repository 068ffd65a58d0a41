"""Prompts that are generated are named by a word."""

import pytest

from dunwu.cli.target import resolve
from dunwu.cli.tuning import aligning_words


@pytest.mark.parametrize("word", ["world", "sums"])
def test_generated_prompts_are_named_by_a_word(tmp_path, monkeypatch, word):
    monkeypatch.chdir(tmp_path)
    words = aligning_words(str(tmp_path), [word], method="grpo", delta="full", out=tmp_path / "o", rewards=("math",))
    recipe, _ = resolve(words)
    assert [source.kind for source in recipe.rl.sources] == [word]
