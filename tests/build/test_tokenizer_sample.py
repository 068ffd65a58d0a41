"""What the vocabulary is learned from."""

from dunwu.build.stages.tokenizer import sample
from dunwu.core.records import Document


def test_documents_longer_than_the_sample_still_teach_a_vocabulary() -> None:
    long = Document(text="word " * 2000, source="a")
    assert list(sample([long], 1000, 10_000)) == [long]
