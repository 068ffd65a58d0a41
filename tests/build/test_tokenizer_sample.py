"""What the vocabulary is learned from."""

from dunwu.build.stages.tokenizer import sample
from dunwu.core.records import Document


def test_documents_longer_than_the_sample_still_teach_a_vocabulary() -> None:
    long = Document(text="word " * 2000, source="a")
    assert list(sample([long], 1000, 10_000)) == [long]


def test_the_sample_is_spread_over_all_documents() -> None:
    documents = [Document(text="x" * 100, source=str(number)) for number in range(100)]
    taken = [int(document.source) for document in sample(documents, 1000, 10_000)]
    assert 9 <= len(taken) <= 11
    assert max(after - before for before, after in zip(taken, taken[1:], strict=False)) <= 15
