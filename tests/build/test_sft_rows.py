"""Rows of an instruction file that cannot be used are on record, not silently gone."""

import json
from pathlib import Path

from dunwu.build.stages.sft import _bad_rows, _conversations
from dunwu.core.progress import RecordedProgress
from dunwu.core.recipe import Recipe
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
