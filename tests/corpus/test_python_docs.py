"""The documentation of Python as a source: real prose, bounded, and the same each time."""

from dunwu.corpus.language import identify
from dunwu.corpus.python_docs import python_documents
from dunwu.corpus.quality import broken_rule
from dunwu.corpus.shape import shape_of


def test_topics_and_docstrings_within_the_size_asked_for() -> None:
    documents = list(python_documents(600_000))
    size = sum(len(document.text.encode()) for document in documents)
    assert 580_000 < size <= 600_000
    sources = [document.source for document in documents]
    assert any(source.endswith("/topics/if") for source in sources)
    assert any("/library/" in source for source in sources)
    assert len(set(sources)) == len(sources)
    assert documents == list(python_documents(600_000))


def test_it_is_english_that_the_rules_keep() -> None:
    documents = list(python_documents(300_000))
    kept = [d for d in documents if identify(d.text) == "en" and not broken_rule(shape_of(d.text), "prose", "en")]
    assert len(kept) >= 0.9 * len(documents)


def test_a_small_budget_gives_little() -> None:
    assert sum(len(document.text.encode()) for document in python_documents(5_000)) <= 5_000
