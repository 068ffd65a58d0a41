"""lm-evaluation-harness's questions answered by our model: as `LocalText` answers them, and, where the package is there, through it."""

import importlib.util
from types import SimpleNamespace

import pytest

from dunwu.core.errors import MissingExtraError, RecipeError
from dunwu.evaluate import harness
from dunwu.evaluate.harness import Harness
from tests.chat.conftest import make_home

CONTEXT = 48


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return make_home(tmp_path_factory.mktemp("home"), context=CONTEXT)


@pytest.fixture(scope="module")
def model(home) -> Harness:
    return Harness(str(home), batch_size=8, device="cpu")


def asked(*args):
    return [SimpleNamespace(args=one) for one in args]


def test_likelihoods(model):
    pairs = [("a cat sat. 猫坐", "着。"), ("a cat ", "sat."), ("", "a cat")]
    wanted = [(one.logprob, one.greedy) for one in model.text.likelihoods(pairs)]
    assert model.loglikelihood(asked(*pairs)) == wanted


def test_whole_texts(model):
    text = "a cat sat. 猫坐着。" * 20
    (one,) = model.text.likelihoods([("", text)])
    assert model.loglikelihood_rolling(asked((text,), ("",))) == [one.logprob, 0.0]


def test_texts_go_on_until_they_are_to_stop_and_a_long_one_loses_its_beginning(model):
    long = "a cat sat. 猫坐着。" * 20
    ids = model.text.prompt_ids(long)
    first, second, third = model.generate_until(
        asked(
            ("a cat", {"until": ["zzz"], "max_gen_toks": 5}),
            (long, {"until": [], "max_gen_toks": 7, "do_sample": False, "temperature": 0.9}),
            ("猫", {"until": "zzz", "max_gen_toks": 5}),
        )
    )
    assert [first, third] == [one.text for one in model.text.complete(["a cat", "猫"], max_tokens=5)]
    (wanted,) = model.text.complete_ids([ids[-(CONTEXT - 7) :]], max_tokens=7)
    assert second == wanted.text
    (stopped,) = model.generate_until(asked(("a cat", {"until": [first[1:]], "max_gen_toks": 5})))
    assert stopped == first[:1]


def test_arguments_that_nobody_knows_are_errors(home):
    with pytest.raises(RecipeError, match="lacks path"):
        Harness()
    with pytest.raises(RecipeError, match="has patch, which is not known"):
        Harness(str(home), patch="x")


def test_an_answer_that_leaves_no_room_and_a_chat_template_are_refused(model):
    with pytest.raises(RecipeError, match="max_gen_toks=48 leaves nothing of the 48"):
        model.generate_until(asked(("a", {"max_gen_toks": CONTEXT})))
    with pytest.raises(RecipeError, match="local-chat-completions"):
        model.apply_chat_template([])


def test_without_the_package_the_extra_is_named(monkeypatch, capsys):
    def missing(name):
        raise ImportError(name)

    monkeypatch.setattr(harness.importlib, "import_module", missing)
    with pytest.raises(MissingExtraError, match=r"dunwu\[lm-eval\]"):
        harness.register()
    with pytest.raises(SystemExit) as ended:
        harness.main()
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith(
        "dunwu: running lm-evaluation-harness's tasks needs the package 'lm-eval'"
    )


@pytest.mark.skipif(
    importlib.util.find_spec("lm_eval") is None, reason="lm-evaluation-harness (the extra lm-eval) is not there"
)
def test_its_own_loop_runs_on_our_model(home):
    made = harness.register()
    assert harness.register() is made
    one = made.create_from_arg_string(f"path={home}", {"batch_size": 1})
    assert one.loglikelihood(asked(("a", " cat"))) == Harness(str(home)).loglikelihood(asked(("a", " cat")))
