"""A reward model: from the recipe's words to the finished home, alone, after fine-tuning, and on the small world."""

import json

import numpy as np
import pytest
import torch

from dunwu.align.reward.disk import load_reward_model
from dunwu.align.reward.scorer import RewardModelScorer
from dunwu.build import costs, judgements
from dunwu.build.home import Home
from dunwu.build.stages import reward
from dunwu.build.stages.prefer import PREFER
from dunwu.cli import run
from dunwu.core.errors import RecipeError
from dunwu.core.files import sha256_file
from dunwu.core.load import check_recipe
from dunwu.core.recipe import PreferenceWorldSource
from dunwu.core.records import Completion, Example, Message
from dunwu.corpus.conversations import encode_example
from dunwu.corpus.world.preferences import world_preferences
from dunwu.evaluate.scorers.base import Case
from dunwu.tokenizer.load import load_tokenizer
from dunwu.train.signals import Interrupted
from tests.build.place import new_place
from tests.build.test_base import STOPPED, write_chat_model

WORDS = ["budget=60s", "model.context_length=64", "reward.batch_tokens=512", "reward.lr_adamw=0.01"]
ALL = ["--method", "reward", "--delta", "full"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A chat model of others, and judgements: polite answers rather than rude ones."""
    with new_place(tmp_path_factory) as folder:
        write_chat_model(folder / "open", STOPPED)
        numbers = range(150)
        good = "It is {}, please."
        pairs = [
            {"prompt": f"{i} + 1?", "chosen": good.format(i + 1), "rejected": f"Go away {i % 7}!"} for i in numbers
        ]
        odd = [
            {"prompt": "a?", "chosen": "b", "rejected": "b"},
            {"prompt": "what? " * 60, "chosen": "b", "rejected": "c"},
            {"prompt": "a?", "chosen": "b", "rejected": "c", "margin": float("nan")},
            {"prompt": "a?", "chosen": "", "rejected": "c"},
        ]
        ties = [
            {"prompt": f"{i} + 2?", "chosen": good.format(i), "rejected": good.format(i + 1), "tie": True}
            for i in range(50)
        ]
        steps = [
            {"prompt": f"{i} + 1?", "completions": ["It is so.", "Go away!", f"{i}"], "labels": [True, False, None]}
            for i in numbers
        ]
        steps.append({"prompt": "a?", "completions": ["b", "c"], "labels": [True]})
        talks = [{"prompt": f"{i} + 1?", "completion": f"It is {i + 1}."} for i in range(60)]
        files = {"pairs": pairs + odd, "ties": pairs + ties, "only_ties": ties, "steps": steps, "talks": talks}
        for name, rows in files.items():
            (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
        yield folder


def home_of(place, name):
    return Home(place / "builds" / name)


def facts_of(home):
    return home.current()["reward"].facts


def score(folder, prompt, text):
    case = Case(
        prompt=(Message(role="user", content=prompt),),
        completion=Completion(text=text, ids=(), finish_reason="stop"),
        columns={},
    )
    return RewardModelScorer.load(folder)([case])[0]


def test_a_model_and_a_file_of_pairs_are_enough(place, capsys):
    assert run(["align", "open", "pairs.jsonl", *WORDS, *ALL, "reward.epochs=3", "--plan"]) == 0
    assert "reward model: pairs" in capsys.readouterr().out
    assert run(["align", "open", "pairs.jsonl", *WORDS, *ALL, "reward.epochs=3"]) == 0
    captured = capsys.readouterr()
    assert "judgements that it did not learn: right in 100.0%" in captured.out
    assert "dunwu reward score builds/open-reward FILE" in captured.out
    assert "4 rows left out" in captured.err
    home = home_of(place, "open-reward")
    assert list(home.current()) == ["base", "reward", "report"]
    assert not home.model.exists()
    facts = facts_of(home)
    assert (facts["judgements"], facts["held_out"], facts["ties"]) == (135, 15, 0)
    assert facts["bad_rows"] == {
        "has two equal answers": 1,
        "has a prompt that is too long": 1,
        "has a margin that is no number from 0 on": 1,
        "has an empty answer": 1,
    }
    measures = facts["held_out_measures"]
    assert measures["scores"]["accuracy"]["n"] == 15
    assert measures["mean"]["chosen"] > measures["mean"]["rejected"]
    rows = [json.loads(line) for line in (home.folder_of(home.current()["reward"]) / "metrics.jsonl").open()]
    assert rows[-1]["loss"] < 0.3 < rows[0]["loss"]
    assert rows[-1]["reward_accuracy"] == 1.0
    told = json.loads((home.reward / "dunwu.json").read_text())
    assert told["reward_model"]["heads"] == 1
    assert told["held_out_measures"] == measures
    assert score(home.folder, "7 + 1?", "It is 8, please.") > score(home.folder, "7 + 1?", "Go away 3!")
    page = home.report.read_text()
    assert "The reward model is right on 100% of 15 judgements" in page
    assert "expected calibration error" in page
    assert run(["status", str(home.folder)]) == 0
    assert "reward     done in" in capsys.readouterr().out
    assert run(["explain", "reward", str(home.folder)]) == 0


def test_transformers_reads_the_finished_folder(place):
    transformers = pytest.importorskip("transformers")
    home = home_of(place, "open-reward")
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(home.reward, dtype=torch.float32).eval()
    talk = (Message(role="user", content="7 + 1?"), Message(role="assistant", content="It is 8, please."))
    tokens = encode_example(load_tokenizer(home.reward), Example(messages=talk, source=""))
    ids = torch.from_numpy(tokens.ids[: np.flatnonzero(tokens.learned)[-1] + 1]).long()[None]
    padded = torch.cat((ids, torch.full((1, 5), theirs.config.pad_token_id)), -1)
    with torch.no_grad():
        given = [theirs(row).logits.item() for row in (ids, padded)]
    ours = score(home.reward, "7 + 1?", "It is 8, please.")
    assert given == pytest.approx([ours, ours], abs=1e-4)


def test_rows_are_scored_from_the_command_line(place, capsys):
    rows = [
        {"prompt": "3 + 1?", "completion": "It is 4, please.", "kept": 1},
        {"prompt": "3 + 1?", "chosen": "It is 4, please.", "rejected": "Go away 1!"},
        {"messages": [{"role": "user", "content": "3 + 1?"}, {"role": "assistant", "content": "Go away 1!"}]},
        {"prompt": "3 + 1?", "completions": ["It is 4, please.", "Go away 1!", ""]},
        {"prompt": "3 + 1?"},
    ]
    (place / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert run(["reward", "score", "builds/open-reward", "rows.jsonl"]) == 0
    captured = capsys.readouterr()
    found = [json.loads(line) for line in captured.out.splitlines()]
    good, bad = (score(place / "builds/open-reward", "3 + 1?", text) for text in ("It is 4, please.", "Go away 1!"))
    assert found[0] == {**rows[0], "score": pytest.approx(good, abs=1e-5)}
    assert (found[1]["chosen_score"], found[1]["rejected_score"]) == pytest.approx((good, bad), abs=1e-5)
    assert found[2]["score"] == pytest.approx(bad, abs=1e-5)
    assert found[3]["scores"][:2] == pytest.approx([good, bad], abs=1e-5)
    assert found[4]["score"] is None
    assert "4 rows scored; 1 left without a score (score: null); first: line 5: has no answer" in captured.err
    assert "the chosen answer has the higher score in 100.0% [20.7%, 100.0%] of 1 pairs" in captured.err
    assert run(["reward", "score", "builds/open-reward", "rows.jsonl", "--out", "scored.jsonl"]) == 0
    assert [json.loads(line) for line in (place / "scored.jsonl").read_text().splitlines()] == found
    capsys.readouterr()
    assert run(["reward", "score", "open", "rows.jsonl"]) == 2
    assert "open is no reward model: its config.json names LlamaForCausalLM" in capsys.readouterr().err


def test_a_killed_run_ends_in_the_same_weights(place, monkeypatch):
    inner = reward.JudgedStream.batch

    def cut(self, first_row, rows):
        if first_row >= 24:
            raise Interrupted("cut", 143)
        return inner(self, first_row, rows)

    words = [
        "align",
        "open",
        "pairs.jsonl",
        *WORDS,
        *ALL,
        "reward.heads=2",
        "reward.checkpoint_every_s=1e-3",
    ]
    monkeypatch.setattr(reward.JudgedStream, "batch", cut)
    assert run([*words, "out=builds/cut"]) == 143
    monkeypatch.setattr(reward.JudgedStream, "batch", inner)
    assert run([*words, "out=builds/cut"]) == 0
    assert run([*words, "out=builds/straight"]) == 0
    assert facts_of(home_of(place, "cut"))["resumed_from"] is not None
    hashes = [sha256_file(home_of(place, name).reward / "model.safetensors") for name in ("cut", "straight")]
    assert hashes[0] == hashes[1]


def test_ties_are_learned_and_set_the_threshold(place, capsys):
    words = ["align", "open", "ties.jsonl", *WORDS, *ALL, "out=builds/ties"]
    assert run(words) == 0
    facts = facts_of(home_of(place, "ties"))
    share = facts["ties"] / facts["judgements"]
    assert 0.15 < share < 0.35
    threshold = load_reward_model(home_of(place, "ties").reward).tie_threshold
    assert torch.tensor(threshold).exp().item() == pytest.approx((1 + share) / (1 - share))
    assert run([*words, "reward.objective.tie_threshold=0", "out=builds/no-ties"]) == 0
    facts = facts_of(home_of(place, "no-ties"))
    assert (facts["ties"], facts["not_wanted"]) == (0, {"two answers that are equally good": 50})
    capsys.readouterr()
    assert run(["align", "open", "only_ties.jsonl", *WORDS, *ALL, "out=builds/only-ties"]) == 2
    assert "all 50 pairs are ties: nothing says which answer is the better one" in capsys.readouterr().err


def test_steps_are_learned_with_a_delta(place, capsys):
    words = ["align", "open", "steps.jsonl", *WORDS, "--method", "reward", "reward.epochs=3", "out=builds/steps"]
    assert run([*words, "reward.objective.method=steps"]) == 0
    assert "1 rows left out (1 has labels of another number than steps)" in capsys.readouterr().err
    home = home_of(place, "steps")
    facts = facts_of(home)
    assert facts["delta"]["method"] == "lora"
    assert facts["merge_error"] < 1e-3
    assert facts["held_out_measures"]["scores"]["accuracy"]["value"] == 1.0
    assert facts["held_out_measures"]["scores"]["first_error"]["value"] == 1.0
    assert load_reward_model(home.reward).reads == "steps"
    assert (
        score(home.reward, "3 + 1?", "It is so.\nIt is so.") > 0 > score(home.reward, "3 + 1?", "It is so.\nGo away!")
    )
    assert run([*words, "out=builds/wrong"]) == 2
    assert (
        "steps.jsonl holds no preferences: its keys are ['completions', 'labels', 'prompt']" in capsys.readouterr().err
    )


def test_after_fine_tuning_it_begins_from_those_weights(place, capsys):
    words = [
        "build", "base=open", "sft.sources.0.kind=file", "sft.sources.0.path=talks.jsonl", "sft.epochs=1",
        "reward.sources.0.path=pairs.jsonl", "evaluate.samples=0", "out=builds/both", *WORDS,
    ]  # fmt: skip
    assert run(words) == 0
    home = home_of(place, "both")
    assert list(home.current()) == ["base", "sft", "reward", "evaluate", "report"]
    assert home.current()["reward"].identity["needs"].keys() == {"base", "sft"}
    assert (home.model / "model.safetensors").is_file()
    assert (home.reward / "model.safetensors").is_file()
    out = capsys.readouterr().out
    assert "judgements that it did not learn" in out
    assert "dunwu chat builds/both" in out


def test_the_small_world_is_a_source(place, monkeypatch):
    monkeypatch.setattr(judgements, "EXAM_PAIRS", 60)
    words = ["align", "open", "world", *WORDS[:1], *WORDS[2:], *ALL, "reward.sources.0.pairs=100"]
    assert run([*words, "model.context_length=256", "reward.tokens=1000", "out=builds/world"]) == 0
    facts = facts_of(home_of(place, "world"))
    assert 50 < facts["exam"] <= 60
    assert facts["exam_measures"]["scores"]["accuracy"]["n"] == facts["exam_measures"]["pairs"]
    assert facts["bad_rows"].keys() <= {"has an empty answer"}  # which this model's template does not show


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        (["reward.heads=3"], "reward: there is nothing to learn from"),
        (["reward.sources.0.path=x", "reward.delta.method=lora", "reward.freeze=[model.norm.*]"], "reward.freeze="),
        (["reward.sources.0.path=x", "reward.delta.method=prompt"], "use a delta that can be merged, such as lora"),
        (["reward.sources.0.path=x", "reward.base_weights=nf4"], "weights of few bits learn nothing"),
        (["reward.sources.0.path=x", "reward.objective.centering=1"], "centring"),
        (["reward.sources.0.kind=folder"], "world"),
    ],
)
def test_what_does_not_go_together_is_said(words, fault):
    with pytest.raises(RecipeError, match=fault):
        check_recipe({"name": "x", "base": "/models/base"}, words, origin="words")


def test_the_small_world_is_a_source_of_preferences_too():
    words = ["prefer.sources.0.path=a.jsonl", "prefer.sources.1.kind=world", "prefer.sources.1.pairs=60"]
    settings = PREFER.settings(check_recipe({"name": "x", "base": "/models/base"}, words, origin="words"))
    file, world = settings["prefer"]["sources"]
    assert file == {"bad_rows": "drop"}  # as before there was another kind: homes of then stay done
    assert (world["kind"], world["pairs"], world["languages"]) == ("world", 60, ["en", "zh"])


def test_bytes_of_the_small_worlds_pairs_are_counted_by_a_few():
    def counted(pairs):
        words = ["reward.sources.0.kind=world", f"reward.sources.0.pairs={pairs}"]
        return costs.reward_bytes(check_recipe({"name": "x", "base": "/models/base"}, words, origin="words"))

    source = PreferenceWorldSource(pairs=1200)
    whole = sum(
        len(message.content.encode())
        for one in world_preferences(source)
        for message in (*one.prompt, *one.chosen, *one.rejected)
    )
    assert counted(1200) == pytest.approx(whole, rel=0.1)
    assert counted(12_000) == 10 * counted(1200)
