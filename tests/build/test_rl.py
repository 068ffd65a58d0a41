"""A model learns from rewards: from the recipe's words to the finished home, and what is refused."""

import json
import shutil

import pytest
import torch

from dunwu.build import training
from dunwu.build.home import Home
from dunwu.cli import run
from dunwu.core.files import sha256_file
from dunwu.core.load import check_recipe
from dunwu.model.hub import load_model
from dunwu.model.native.compiling import cache_folder
from tests.build.test_base import STOPPED, write_chat_model

WORDS = ["--reward", "function:likes.py:an_a", "budget=60s", "model.context_length=64", "evaluate.samples=0"]
LESS = ["rl.steps=12", "rl.prompts=4", "rl.completions=4", "rl.answer_tokens=8", "rl.eval_every=6"]
REWARD = '''
def an_a(prompts, completions, **columns):
    """The share of an answer's letters that are an a."""
    return [one.count("a") / max(1, len(one)) for one in completions]

def broken(prompts, completions, **columns):
    raise ValueError("the judge is away")
'''


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A chat model of others, prompts, and a reward."""
    folder = tmp_path_factory.mktemp("place")
    patch = pytest.MonkeyPatch()
    if (kernels := cache_folder()).is_dir():  # compiled once, not for every folder
        shutil.copytree(kernels, folder / "cache" / "dunwu" / kernels.name)
    patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
    patch.setattr(training, "EXACT_PROBE_S", (0.05, 0.05))
    patch.chdir(folder)
    write_chat_model(folder / "open", STOPPED)
    write_chat_model(folder / "mute", STOPPED)
    (folder / "mute" / "chat_template.jinja").unlink()
    (folder / "likes.py").write_text(REWARD)
    rows = [{"prompt": f"{i} + 1?", "answer": str(i + 1)} for i in range(60)]
    (folder / "prompts.jsonl").write_text("\n".join(map(json.dumps, [*rows, {"prompt": "what? " * 60}])))
    (folder / "long.jsonl").write_text("\n".join(json.dumps({"prompt": f"what {i}? " * 60}) for i in range(20)))
    yield folder
    patch.undo()


def facts_of(place, name):
    home = Home(place / "builds" / name)
    return home, home.current()["rl"].facts


def align(*words, method="grpo", name="open-aligned", lr=0.02):
    more = [*WORDS, *LESS, f"rl.lr_adamw={lr}", f"name={name}", *words]
    return run(["align", "open", "prompts.jsonl", "--method", method, *more])


def test_a_model_prompts_and_a_reward_are_enough(place, capsys):
    before = sha256_file(place / "open" / "model.safetensors")
    assert align("--delta", "full", "--plan") == 0
    assert "grpo: 12 rollouts of 4 prompts with 4 answers of at most 8 tokens" in capsys.readouterr().out
    assert align("--delta", "full") == 0
    captured = capsys.readouterr()
    assert "reward on prompts that it did not learn: " in captured.out
    assert "1 of 55 prompts left out: they have more than 56 tokens" in captured.err
    home, facts = facts_of(place, "open-aligned")
    assert list(home.current()) == ["base", "rl", "evaluate", "report"]
    assert facts["prompts"] + facts["kept_out"] == 60
    assert facts["held_out"]["after"] > facts["held_out"]["before"]
    assert facts["held_out"]["change"]["n"] == facts["kept_out"]
    assert facts["kept"] == "best"
    assert facts["rollouts"] == 12
    rows = [json.loads(line) for line in (home.folder_of(home.current()["rl"]) / "metrics.jsonl").open()]
    assert [row["prompts"] for row in rows] == [4 * step for step in range(1, 13)]
    assert rows[5]["held_out_score"] == pytest.approx(rows[5]["held_out_reward.function"])
    assert rows[-1]["reward"] > rows[0]["reward"]
    told = json.loads((home.model / "dunwu.json").read_text())
    assert told["reinforcement"]["algorithm"]["method"] == "grpo"
    assert told["instruction_tuned"] is True
    assert sha256_file(place / "open" / "model.safetensors") == before
    assert align("--delta", "full") == 0  # done already
    assert "never run" not in capsys.readouterr().err


def test_a_delta_learns_on_a_frozen_base_and_is_its_own_reference(place):
    assert align("--delta", "lora", "rl.algorithm.beta=0.01", "rl.keep=last", name="delta", lr=0.1) == 0
    home, facts = facts_of(place, "delta")
    assert facts["delta"]["method"] == "lora"
    folder = home.folder_of(home.current()["rl"])
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").open()]
    assert abs(rows[0]["kl"]) < 1e-3 < abs(rows[-1]["kl"])
    base, merged = load_model(place / "open"), load_model(home.model)
    assert torch.equal(base.model.embed_tokens.weight, merged.model.embed_tokens.weight)
    assert not torch.equal(base.model.layers[0].self_attn.q_proj.weight, merged.model.layers[0].self_attn.q_proj.weight)


def test_ppo_learns_values_beside_it(place):
    assert align("--delta", "full", "rl.algorithm.kl_target=2", method="ppo", name="ppo") == 0
    _, facts = facts_of(place, "ppo")
    home = Home(place / "builds" / "ppo")
    rows = [json.loads(line) for line in (home.folder_of(home.current()["rl"]) / "metrics.jsonl").open()]
    assert len(rows) == 12 * 4
    assert {"value_loss", "explained_variance", "kl_coefficient", "kl", "values_grad_norm"} <= rows[0].keys()
    assert facts["algorithm"]["method"] == "ppo"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["align", "open", "prompts.jsonl", "--method", "grpo"], "needs to know how answers are judged"),
        (["align", "open", "prompts.jsonl", "--reward", "exact"], "dpo learns from pairs of answers"),
        (["align", "open", "--method", "grpo", "--reward", "exact"], "there is nothing to answer"),
        (["align", "open", "none.jsonl", "--method", "grpo", "--reward", "exact"], "does not exist"),
        (["align", "open", "prompts.jsonl", "--method", "grpo", "--reward", "exactly"], "there is no 'exactly'"),
        (["align", "mute", "prompts.jsonl", "--method", "grpo", "--reward", "exact"], "has no chat template"),
        (["align", "open", "long.jsonl", "--method", "grpo", *WORDS, *LESS, "name=long"], "prompts are too long"),
        (["align", "open", "prompts.jsonl", "--method", "grpo", *WORDS, "rl.completions=1"], "rl.completions=1"),
        (
            [
                *["align", "open", "prompts.jsonl", "--method", "ppo", "rl.completions=1"],
                "rl.algorithm.dynamic_sampling=true",
                *WORDS,
            ],
            "rl.completions=1",
        ),
        (
            ["align", "open", "prompts.jsonl", "--method", "grpo", *WORDS, "rl.answer_tokens=64", "name=short"],
            "leaves 0 beside an answer; lower rl.answer_tokens",
        ),
    ],
)
def test_what_cannot_be_done_is_said_in_one_error(place, capsys, words, said):
    assert run(words) == 2
    captured = capsys.readouterr()
    assert said in captured.err
    assert "Traceback" not in captured.err


def test_a_reward_that_fails_is_said_and_the_same_command_goes_on(place, capsys):
    words = [*WORDS, *LESS, "name=fails", "--delta", "full"]
    good = (place / "likes.py").read_text()
    calls = 'import pathlib\nif pathlib.Path("away").exists(): an_a = broken\n'
    (place / "likes.py").write_text(good + calls)
    (place / "away").touch()
    assert run(["align", "open", "prompts.jsonl", "--method", "grpo", *words]) == 2
    assert "the judge is away" in capsys.readouterr().err
    (place / "away").unlink()
    assert run(["align", "open", "prompts.jsonl", "--method", "grpo", *words]) == 0
    (place / "likes.py").write_text(good)


def test_recipes_name_prompts_rewards_and_an_algorithm(place):
    recipe = check_recipe(
        {
            "base": str(place / "open"),
            "rl": {
                "sources": [{"path": "prompts.jsonl"}, {"kind": "world"}],
                "rewards": ["0.5*exact", {"kind": "length", "most": 8}, "function:likes.py:an_a"],
                "algorithm": {"method": "reinforce++"},
            },
        },
        [],
        origin="here",
    )
    assert [source.kind for source in recipe.rl.sources] == ["file", "world"]
    assert [reward.weight for reward in recipe.rl.rewards] == [0.5, 1.0, 1.0]
    assert recipe.rl.rewards[2].path == f"{place / 'likes.py'}:an_a"  # found from wherever the build goes on
