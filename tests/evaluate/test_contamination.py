"""How much of a test was in a corpus: planted questions are found, English and Chinese, and others are not."""

import random

import pytest

from dunwu.core.errors import DataError, RecipeError
from dunwu.core.problems import Problem
from dunwu.core.records import Document
from dunwu.evaluate.contamination import Runs, Searched, exposure, read_corpus
from dunwu.evaluate.contamination import seen_shares as shares_of_tests
from dunwu.evaluate.outcome import figure_named
from dunwu.evaluate.tasks.measures import Measured

WORDS = [f"{a}{b}" for a in ("ba", "ko", "mi", "su", "te", "lo") for b in ("ran", "del", "vik", "som", "pat", "nur")]


def question(seed, words=20):
    rng = random.Random(seed)
    return " ".join(rng.choice(WORDS) for _ in range(words)) + "?"


def chinese(seed):
    rng = random.Random(seed)
    return "".join(chr(0x4E00 + rng.randrange(2000)) for _ in range(40)) + "？"


def document(text):
    return Document(text=text, source="a.txt")


def problems(texts):
    return [Problem(id=str(place), input=text, target="yes") for place, text in enumerate(texts)]


def seen_shares(asked, documents, **options):
    """Of one task, all of whose questions are asked."""
    (shares,) = shares_of_tests([Searched(asked=asked, all=asked)], documents, **options)
    return shares


def test_questions_of_the_corpus_are_seen_whatever_their_case_and_punctuation():
    asked = [question(seed) for seed in range(6)] + [chinese(seed) for seed in range(6)]
    corpus = [
        document("Before. " + question(1).upper().replace(" ", ",\n") + " After."),
        document("前文。" + chinese(2) + "后文。"),
        document(" ".join(question(4).split()[:12])),  # a run of twelve is no run of thirteen
    ]
    shares = seen_shares(problems(asked), corpus)
    assert [bool(share) for share in shares] == [place in (1, 8) for place in range(12)]
    assert shares[1] > 0.8  # but for the runs that go on into the answer
    assert seen_shares(problems(asked), corpus, runs=Runs(words=12))[4] > 0


def test_a_short_question_is_looked_for_as_a_whole_and_a_shorter_one_tells_nothing():
    asked = problems([question(1, 9), question(2, 9), question(3, 5)])  # with the answer one word more
    shares = seen_shares(asked, [document(f"Look: {question(1, 9)} yes, and {question(3, 5)} yes.")])
    assert shares == [1.0, 0.0, None]


def test_what_all_questions_of_a_task_say_tells_of_none():
    opening = question(99, 30)
    asked = problems([f"{opening} {question(seed)}" for seed in range(40)])
    assert sum(bool(share) for share in seen_shares(asked, [document(opening)])) == 0
    assert sum(bool(share) for share in seen_shares(asked, [document(f"{opening} {question(7)}")])) == 1


def test_wording_is_a_tasks_own_however_few_of_its_questions_are_asked_and_whatever_others_are():
    opening = question(99, 30)
    task = problems([f"{opening} {question(seed)}" for seed in range(40)])
    other = problems([question(seed) for seed in range(1000, 1600)])  # a tenth of all together is more than 40
    tests = [Searched(asked=task[:3], all=task), Searched(asked=other, all=other)]
    first, second = shares_of_tests(tests, [document(opening), document(question(1001))])
    assert first == [0.0] * 3
    assert [place for place, share in enumerate(second) if share] == [1]


def test_a_question_that_shares_a_run_is_told_from_one_that_stands_there_whole():
    asked = problems([question(seed, 40) for seed in range(10)])
    begun = " ".join(question(3, 40).split()[:14])
    shares = seen_shares(asked, [document(begun), document(f"{question(7, 40)} yes")])
    told = exposure("corpus", asked, shares, [Measured(name="exact", values=(1.0,) * 10, weights=(1.0,) * 10)])
    assert (shares[3], shares[7]) == (pytest.approx(2 / 29), 1.0)  # 41 words with the answer
    assert (told.seen.value, told.whole.value) == (0.2, 0.1)


def test_the_score_is_told_for_what_was_seen_and_what_was_not():
    asked = problems([question(seed) for seed in range(20)])
    shares = seen_shares(asked, [document(question(seed)) for seed in range(5)])
    values = tuple(1.0 if place < 5 or place % 3 == 0 else 0.0 for place in range(20))
    told = exposure("corpus", asked, shares, [Measured(name="exact", values=values, weights=(1.0,) * 20)])
    assert (told.seen.value, told.checked) == (0.25, 20)
    assert 0.1 < told.seen.low < 0.25 < told.seen.high < 0.5
    assert figure_named(told.dirty, "exact").score.value == 1.0
    assert figure_named(told.clean, "exact").score.value == pytest.approx(5 / 15)
    assert figure_named(told.clean, "exact").score.n == 15


def test_runs_that_are_everywhere_are_refused():
    with pytest.raises(RecipeError, match="runs of 3 words are too common"):
        Runs(words=3)


def test_a_folder_of_documents_is_read_and_an_empty_one_refused(tmp_path):
    with pytest.raises(DataError, match="holds no document"):
        list(read_corpus(tmp_path))
    (tmp_path / "a.txt").write_text(question(1))
    (tmp_path / "b.jsonl").write_text('{"text": "' + question(2) + '"}\n')
    shares = seen_shares(problems([question(seed) for seed in range(4)]), read_corpus(tmp_path))
    assert [bool(share) for share in shares] == [False, True, True, False]
