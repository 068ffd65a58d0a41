import itertools
import json

from dunwu.build import costs
from dunwu.build.stages.sft import within_budget
from dunwu.build.stages.tokenizer import sample
from dunwu.core.progress import RecordedProgress
from dunwu.core.recipe import Recipe
from dunwu.core.records import Document


def recipe(*sources, **more):
    return Recipe.model_validate({"corpus": {"sources": list(sources)}, **more})


def test_text_is_counted_by_what_files_hold_rather_than_by_their_size(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"x" * 1000)
    (tmp_path / "b.txt.gz").write_bytes(b"x" * 1000)
    (tmp_path / "c.pdf").write_bytes(b"x" * 1000)
    sizes = costs.text_bytes(recipe({"kind": "folder", "path": str(tmp_path)}))
    assert sizes == {"": 1000 + 2800 + 50}


def test_the_small_world_is_counted_exactly_and_by_language():
    sizes = costs.text_bytes(recipe({"kind": "world", "size": 0.02}, {"kind": "python_docs", "max_bytes": 5000}))
    assert set(sizes) == {"en", "zh"}
    assert sizes["en"] > 5000


def test_conversations_are_counted_by_weight(tmp_path):
    file = tmp_path / "talk.jsonl"
    file.write_text("\n".join(json.dumps({"prompt": "12345", "completion": "67890"}) for _ in range(10)))
    source = {"kind": "file", "path": str(file)}
    once = costs.sft_bytes(recipe({"kind": "python_docs"}, sft={"sources": [source]}))
    thrice = costs.sft_bytes(recipe({"kind": "python_docs"}, sft={"sources": [{**source, "weight": 3.0}]}))
    assert (once, thrice) == (100, 300)


def test_the_text_for_the_vocabulary_is_spread_over_the_whole_corpus():
    documents = [Document(text=f"{i:04}" * 25, source=str(i)) for i in range(1000)]
    taken = [int(document.source) for document in sample(documents, 10_000, 100_000)]
    assert 90 <= len(taken) <= 110
    assert max(b - a for a, b in itertools.pairwise(taken)) <= 12
    assert len(list(sample(documents, 10**9, 100_000))) == 1000


def test_fine_tuning_that_the_budget_cuts_is_told():
    progress = RecordedProgress()
    assert within_budget(200, None, 100, progress) == within_budget(200, 300, 100, progress) == 200
    assert progress.notes == []
    assert within_budget(200, 25, 100, progress) == 25
    assert "0.25 of 2.00 passes" in progress.notes[0]
