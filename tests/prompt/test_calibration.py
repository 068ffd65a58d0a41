"""Calibration of choices, by hand, and on a model with a known bias."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dunwu.chat.text_model import Likelihood, TextModel
from dunwu.core.errors import DataError, RecipeError
from dunwu.core.problems import Problem
from dunwu.prompt.calibration import CalibratedText, calibrated, domain_texts, prior, without_content


def test_contextual_calibration_by_hand():
    # content-free: yes 0.8, no 0.2; asked: yes 0.6, no 0.4: 0.75 to 2, so yes has 3/11
    found = np.exp(calibrated(np.log([0.6, 0.4]), prior(np.log([[0.8, 0.2]]))))
    assert found == pytest.approx([3 / 11, 8 / 11])


def test_a_prior_is_the_mean_of_probabilities_among_the_choices():
    # 0.3 and 0.1 among themselves are 3/4 and 1/4; with 1/2 and 1/2 their mean is 5/8 and 3/8
    assert np.exp(prior(np.log([[0.3, 0.1], [0.2, 0.2]]))) == pytest.approx([5 / 8, 3 / 8])
    with pytest.raises(DataError, match="a prior needs"):
        prior(np.zeros((0, 2)))


@given(st.lists(st.floats(-30, 0), min_size=2, max_size=6), st.floats(-20, 20))
def test_calibration_sums_to_one_and_of_a_question_without_content_nothing_is_left(logprobs, shift):
    found = calibrated(logprobs, prior([logprobs]))
    assert np.exp(found) == pytest.approx([1 / len(logprobs)] * len(logprobs))
    other = calibrated([0.0] * len(logprobs), prior([[one + shift for one in logprobs]]))
    assert np.exp(other).sum() == pytest.approx(1)
    assert other == pytest.approx(calibrated([0.0] * len(logprobs), prior([logprobs])), abs=1e-9)


class Biased(TextModel):
    """Likes "yes" by a nat and a half, and knows the answer by one."""

    name, context_length = "biased", None

    def __init__(self):
        self.asked = []

    def count_tokens(self, text):
        return None

    def complete(self, prompts, **options):
        return ["completed", list(prompts), options]

    def likelihoods(self, pairs):
        self.asked.append(list(pairs))
        return [
            Likelihood(
                logprob=-3.0 + 1.5 * (choice == "yes") + 1.0 * (context.endswith(choice)), tokens=2, greedy=False, cut=1
            )
            for context, choice in pairs
        ]


def test_a_bias_is_taken_out_of_a_models_choices():
    model = Biased()
    wrapped = CalibratedText(model, lambda context: [] if context == "" else ["N/A", "[MASK]"])
    pairs = [(f"Q{n} {answer}", choice) for n, answer in enumerate(["no", "yes", "no"]) for choice in ("yes", "no")]
    plain = [one.logprob for one in Biased().likelihoods(pairs)]
    assert [plain[at] > plain[at + 1] for at in (0, 2, 4)] == [True, True, True]
    told = wrapped.likelihoods(pairs)
    assert [told[at].logprob > told[at + 1].logprob for at in (0, 2, 4)] == [False, True, False]
    assert math.exp(told[0].logprob) + math.exp(told[1].logprob) == pytest.approx(1)
    assert (told[0].tokens, told[0].cut) == (2, 1)
    assert [len(asked) for asked in model.asked] == [6, 4]  # the prior is learned once for all three
    wrapped.likelihoods(pairs)
    assert len(model.asked) == 3
    alone = [("", "yes"), ("", "no"), ("Q no", "yes")]
    assert [one.logprob for one in wrapped.likelihoods(alone)] == [one.logprob for one in model.likelihoods(alone)]
    assert wrapped.likelihoods([]) == []
    assert wrapped.complete(["a"], max_tokens=3)[1] == ["a"]


def test_a_problem_without_content_keeps_the_words_around_it():
    problem = Problem(
        id="1",
        input="Review: I slept through it.\nI slept\nSentiment:",
        columns={"text": "I slept through it.", "short": "I slept", "n": 3, "options": [{"text": "Sentiment"}]},
    )
    assert without_content(problem, "N/A").input == "Review: N/A\nN/A\nN/A:"
    assert without_content(Problem(id="1", input="all", columns={"x": "y"}), "N/A").input == "N/A"


def test_random_words_of_the_domain():
    texts = domain_texts(["a b c d", "e f"], count=50, seed=1)
    assert all(len(text.split()) == 3 for text in texts)
    assert {word for text in texts for word in text.split()} == set("abcdef")
    assert texts == domain_texts(["a b c d", "e f"], count=50, seed=1) != domain_texts(["a b c d", "e f"], count=50)
    assert all(len(text) == 4 for text in domain_texts(["猫吃鱼吗"], count=5))
    with pytest.raises(RecipeError, match="20 texts of 0 inputs"):
        domain_texts([])
