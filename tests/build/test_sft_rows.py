"""What of an instruction file cannot be used, or not whole, is on record, not silently gone."""

import json
from pathlib import Path

import numpy as np

from dunwu.build.stages.sft import _bad_rows, _conversations, tell_of_lengths
from dunwu.core.progress import RecordedProgress
from dunwu.core.recipe import Recipe
from dunwu.core.records import Tokens
from dunwu.corpus.stream import SftStream
from dunwu.tokenizer.bpe import train_tokenizer


def test_a_bad_line_7_is_in_the_facts_and_said_aloud(tmp_path: Path) -> None:
    row = json.dumps({"instruction": "Add 1 and 2.", "output": "3"})
    (tmp_path / "a.jsonl").write_text("\n".join([*[row] * 6, row[:-5], *[row] * 3]))
    recipe = Recipe.model_validate(
        {
            "name": "rows",
            "corpus": {"sources": [{"kind": "world"}]},
            "sft": {"sources": [{"kind": "file", "path": str(tmp_path / "a.jsonl"), "weight": 2}, {"kind": "world"}]},
        }
    )
    tokenizer = train_tokenizer(["Add 1 and 2."], vocab_size=300, out=tmp_path)
    readers, progress = [], RecordedProgress()
    from_file = [tokens for tokens, _ in zip(_conversations(recipe, tokenizer, readers), range(18), strict=False)]
    assert len(from_file) == 18
    facts = _bad_rows(readers, progress)
    assert facts["bad_rows"] == {"is not valid JSON": 1}
    assert "a.jsonl, line 7: is not valid JSON" in facts["first_bad_rows"][0]
    assert "1 rows left out (1 is not valid JSON)" in progress.notes[0]


def test_conversations_that_do_not_fit_the_context_are_counted_and_said_aloud() -> None:
    def conversation(length: int, learned: int) -> Tokens:
        return Tokens(ids=np.arange(length, dtype=np.int32), learned=np.arange(length) >= length - learned)

    conversations = [conversation(9, 2), conversation(10, 2), conversation(30, 5), conversation(5, 0)]
    progress = RecordedProgress()
    stream = SftStream(conversations, context_length=8, seed=0)
    tell_of_lengths(stream, len(conversations), progress)
    assert (stream.cut, stream.conversations) == (2, 3)
    assert "2 of 4 conversations are longer than the context of 8 tokens" in progress.notes[0]
    assert "1 of 4 conversations have nothing to learn" in progress.notes[1]
    quiet = RecordedProgress()
    tell_of_lengths(SftStream(conversations[:1], context_length=8, seed=0), 1, quiet)
    assert quiet.notes == []
