"""A model behind an endpoint as plain text: our server tells what `LocalText` tells, and what others do wrong is said clearly."""

import pytest

from dunwu.chat.local_text import LocalText
from dunwu.chat.remote_text import RemoteText
from dunwu.chat.text_model import TextModel
from dunwu.core.errors import DataError, PartnerError, RecipeError
from dunwu.infer.generate import Generator
from dunwu.serve.source import ModelSource
from tests.serve.live import make_folder, running

from .fake_completions import fake_completions, logprob

CONTEXT = 64
PAIRS = [
    ("a cat sat. 猫坐", "着。"),
    ("a cat sat. ", "a cat"),
    ("a cat sat. 猫", "坐着。a cat sat."),
    ("a cat", " sat."),
    ("a", "\u0301 naïve 👩‍👩‍👧"),
    ("", "a cat sat."),
    ("a cat sat. 猫坐着。" * 12, "a cat"),
]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return make_folder(tmp_path_factory.mktemp("models") / "kitten", context=CONTEXT)


@pytest.fixture(scope="module")
def live(home):
    with running(ModelSource(id="kitten", folder=home)) as server:
        yield server


@pytest.fixture(scope="module")
def fake():
    with fake_completions() as server:
        yield server


def other(fake, model, **settings):
    return RemoteText(fake.url, model, **{"sleep": lambda _: None, **settings})


@pytest.mark.parametrize("starts", [True, False])
def test_our_server_tells_what_the_model_in_process_tells(live, home, starts):
    near = LocalText.load(home)
    near = LocalText(near.generator, start_ids=near.tokenizer.start_ids if starts else ())
    far = RemoteText(live.api, "kitten", add_special_tokens=starts)
    assert isinstance(far, TextModel)
    assert far.context_length == CONTEXT
    assert far.count_tokens("a cat 猫") == near.count_tokens("a cat 猫")
    for mine, theirs in zip(near.likelihoods(PAIRS[:-1]), far.likelihoods(PAIRS[:-1]), strict=True):
        assert theirs.logprob == pytest.approx(mine.logprob, abs=1e-4)
        assert (theirs.tokens, theirs.greedy, theirs.cut) == (mine.tokens, mine.greedy, mine.cut)
    (long,) = far.likelihoods(PAIRS[-1:])
    (same,) = near.likelihoods(PAIRS[-1:])
    assert long.cut == same.cut + 2  # one place is kept for the token that must be written, and one that is read here
    far.close()


def test_our_server_goes_on_as_the_model_in_process_does(live, home):
    near = LocalText.load(home)
    far = RemoteText(live.api, "kitten", add_special_tokens=False)
    prompts = ["a cat", "猫坐", "a cat sat. 猫"]
    mine, theirs = (one.complete(prompts, max_tokens=6) for one in (near, far))
    assert [(one.text, one.finish_reason) for one in theirs] == [(one.text, one.finish_reason) for one in mine]
    (stopped,) = far.complete(prompts[:1], max_tokens=6, stop=[mine[0].text[1:]])
    assert stopped.text == mine[0].text[:1]
    far.close()


def test_a_long_document_is_judged_in_windows(live, home):
    text = "a cat sat. 猫坐着。" * 40
    far = RemoteText(live.api, "kitten")
    near = LocalText.load(home)
    near = LocalText(Generator(near.generator.model, near.tokenizer, context_length=CONTEXT - 2))
    (one,), (same,) = far.likelihoods([("", text)]), near.likelihoods([("", text)])
    assert one.logprob == pytest.approx(same.logprob, abs=1e-3)
    assert one.tokens == same.tokens > 3 * CONTEXT
    far.close()


def test_vllm_tells_in_its_own_way(fake):
    far = other(fake, "vllm")
    for _ in range(2):
        one, another = far.likelihoods([("abc", "de"), ("a", "ce")])
        assert (one.logprob, one.tokens, one.greedy) == (logprob("abcde", 3) + logprob("abcde", 4), 2, False)
        assert another.greedy
    asked = [body for body in fake.bodies if body["model"] == "vllm"]
    assert ["echo" in body for body in asked] == [True, False, False]  # what brings nothing is asked for once


@pytest.mark.parametrize("model", ["offsets", "starts", "no places"])
def test_places_in_the_text_tell_which_tokens_are_judged(fake, model):
    """Characters 3 and 4, or from the second on after an empty context; `starts` puts a mark before the text."""
    if model == "no places":
        with pytest.raises(PartnerError, match="not of all that are to be judged"):
            other(fake, model).likelihoods([("abc", "de")])  # it does not say where in the text its tokens lie
        return
    one, begun = other(fake, model).likelihoods([("abc", "de"), ("", "ace")])
    wanted = logprob("abcde", 3) + logprob("abcde", 4)
    assert (one.logprob, one.tokens, one.greedy) == (wanted, 2, False)
    assert begun.tokens == (3 if model == "starts" else 2)
    assert begun.greedy


def test_a_space_goes_to_the_continuation(fake):
    (one,) = other(fake, "offsets").likelihoods([("ab ", "c")])
    assert one.tokens == 2
    assert fake.bodies[-1]["prompt"] == ["ab c"]


def test_a_server_that_tells_nothing_of_prompts_is_named(fake):
    with pytest.raises(PartnerError, match=r"does not tell how likely a prompt is.*dunwu serve"):
        other(fake, "silent").likelihoods([("abc", "de")])
    assert "prompt_logprobs" in fake.bodies[-1]


@pytest.mark.parametrize(
    ("model", "text"),
    [
        ("broken", r"failed \(500: .*out of memory.*\); ask again"),
        ("html", "page of text where JSON is due"),
        ("cut", "cannot be reached, or left in the middle of an answer"),
        ("late", r"did not answer within 0.1 s; give it more time"),
    ],
)
def test_what_an_endpoint_does_wrong_is_said(fake, model, text):
    far = other(fake, model, timeout_s=0.1 if model == "late" else 10, attempts=2)
    for ask in (lambda: far.likelihoods([("a", "b")]), lambda: far.complete(["a"], max_tokens=3)):
        with pytest.raises(PartnerError, match=text):
            ask()


def test_what_fails_for_the_moment_is_tried_again(fake):
    waits = []
    far = other(fake, "flaky", sleep=waits.append)
    (one,) = far.likelihoods([("abc", "de")])
    assert one.tokens == 2
    assert len(waits) == 2
    assert 0.25 <= waits[0] <= 0.5 < waits[1] <= 1.0


def test_stop_strings_end_a_text_and_only_four_are_sent(fake):
    stops = ["w", "x", "y", "z", "|"]
    (one,) = other(fake, "any").complete(["p"], max_tokens=3, stop=stops, seed=7)
    assert (one.text, one.finish_reason) == ("a", "stop")
    body = fake.bodies[-1]
    assert (body["stop"], body["seed"], body["max_tokens"]) == (stops[:4], 7, 3)


def test_what_cannot_be_asked(live, fake):
    with pytest.raises(RecipeError, match="must begin with http"):
        RemoteText("localhost:8000", "m")
    with pytest.raises(DataError, match="continuation 2 is empty"):
        other(fake, "offsets").likelihoods([("a", "b"), ("a", "")])
    far = RemoteText(live.api, "kitten")
    with pytest.raises(DataError, match=r"continuation 1 takes \d+ tokens and kitten reads 64"):
        far.likelihoods([("a", " a cat sat. 猫坐着。" * 12)])
    far.close()
