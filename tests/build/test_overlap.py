"""Nothing that one text holds out is learned from the other."""

from dunwu.build.overlap import WithoutCopies, held_out
from dunwu.core.records import Document

LONG = "This paragraph is long enough that nobody writes it twice by accident, number {}, whatever they meant to say."


def document(*paragraphs):
    return Document(text="\n\n".join(paragraphs), source="a", language="en")


def test_copies_of_held_out_documents_and_paragraphs_are_left_out_and_counted():
    held = held_out([document("Short."), document(LONG.format(1), LONG.format(2), "Yes.")])
    mixed = document(LONG.format(3), LONG.format(2) + "  ", "Yes.")
    train = WithoutCopies([document(" Short.\n"), mixed, document("Other."), document(LONG.format(1))], held)
    for _ in range(2):  # it can be read again
        assert [one.text for one in train] == [LONG.format(3) + "\n\nYes.", "Other."]
        assert train.cut_bytes == len(" Short.\n") + len(LONG.format(2) + "  \n\n") + len(LONG.format(1))


def test_text_that_is_not_held_out_stays_as_it_is():
    documents = [document("a", "", "", LONG.format(4)), document("")]
    assert list(WithoutCopies(documents, held_out([document("b")]))) == documents
