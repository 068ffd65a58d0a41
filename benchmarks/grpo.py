"""Seconds a step and peak extra memory of group relative policy optimisation, paired with TRL's GRPOTrainer.

    python benchmarks/grpo.py [--peers PYTHON] [--rounds 5] [--prompts 1] >> benchmarks/results/grpo.jsonl    # about 2 minutes

A step asks one prompt of 64 tokens, writes 8 answers of at most 64, judges them by the same function on both sides, and updates
all weights of a Llama of about 10M parameters, in float32, with AdamW and clipping: TRL by its own loop, ours as
`train/loop.py` makes steps, from rollouts that are put on disk first. No reference, one update for each rollout, temperature 1:
TRL's defaults. Its gradient checkpointing, which is on by default, is off: it saves memory and takes time. Extra memory is the
peak above what the process held once its imports were done. `--peers`: the Python that has TRL, if it is another one.

`step_core_time_ratio` is of the time that cores worked, which other work beside disturbs less.

Before anything is timed both sides compute the gradient of one batch, answers of ours with their advantages: `gradient_difference`
is the norm of the difference, as a share of the gradient's.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import forget_peak, print_figure, status_bytes

VOCABULARY, PROMPT, ANSWER, ANSWERS, PROMPTS_KNOWN, WARMUP = 8192, 64, 64, 8, 64, 2
LR, BETAS, CLIP = 1e-5, (0.9, 0.999), 1.0


def prompts() -> list[list[int]]:
    """The same on both sides."""
    random = np.random.default_rng(0)
    return random.integers(2, VOCABULARY, (PROMPTS_KNOWN, PROMPT)).tolist()


def share_of_even(ids: Sequence[int]) -> float:
    """The reward: how many of an answer's ids are even."""
    return sum(number % 2 == 0 for number in ids) / max(1, len(ids))


def write_model(folder: Path) -> int:
    """Weights and a tokenizer of whole words; gives the parameters."""
    import tokenizers
    import transformers

    from dunwu.model.config import DecoderConfig
    from dunwu.model.count import parameters
    from dunwu.model.decoder import new_decoder
    from dunwu.model.hub import save_model

    config = DecoderConfig(
        architecture="llama", vocab_size=VOCABULARY, hidden_size=288, intermediate_size=768, num_hidden_layers=8,
        num_attention_heads=6, num_key_value_heads=6, head_dim=48, max_position_embeddings=512, tie_word_embeddings=True,
        bos_token_id=0, eos_token_id=0, pad_token_id=1,
    )  # fmt: skip
    save_model(new_decoder(config, seed=0), folder)
    words = {f"t{number}": number for number in range(VOCABULARY)}
    inner = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="t1"))
    inner.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    inner.decoder = tokenizers.decoders.Fuse()
    transformers.PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="t0", pad_token="t1").save_pretrained(folder)
    return parameters(config)


def ours(folder: Path, count: int) -> Callable[[], None]:
    """A step of ours."""
    from dunwu.align.objectives.policy import PolicyObjective
    from dunwu.align.policy_run import Asked, PolicyRun, RunSettings
    from dunwu.align.rollout import Sampler, Sampling
    from dunwu.align.rollout_stream import RolloutStream
    from dunwu.core.policy import GrpoSpec
    from dunwu.core.progress import SilentProgress
    from dunwu.core.recipe import RlSection
    from dunwu.core.records import Completion, Message
    from dunwu.evaluate.scorers.base import Case, Scored
    from dunwu.model.hub import load_model
    from dunwu.tokenizer.load import load_tokenizer
    from dunwu.train.optim import build_optimizer
    from dunwu.train.signals import StopSignal

    def reward(cases: Sequence[Case]) -> Scored:
        scores = [share_of_even(case.completion.ids) for case in cases]
        return Scored(scores, {"even": scores})

    model = load_model(folder, mapped=False)
    section = RlSection(betas=BETAS)
    spec = GrpoSpec()
    stream = RolloutStream(spec, prompts=count, most_tokens=ANSWER, seed=0)
    objective = PolicyObjective(spec)
    case = Case(
        prompt=(Message(role="user", content=""),),
        completion=Completion(text="", ids=(), finish_reason="stop"),
        columns={},
    )
    run = PolicyRun(
        model, stream, objective,
        Sampler(model, load_tokenizer(folder), most_prompt=PROMPT, most_answer=ANSWER),
        reward, [Asked(ids=tuple(ids), case=case) for ids in prompts()], [],
        RunSettings(
            prompts=count, completions=ANSWERS, sampling=Sampling(), eval_every=1, seed=0, folder=folder / "run", key=""
        ),
        SilentProgress(),
    )  # fmt: skip
    update = build_optimizer(model, section, (0.0, LR))
    done, stop = 0, StopSignal()

    def step() -> None:
        nonlocal done
        run.before(done, done * count, stop)
        batch = stream.batch(done * count, count)
        loss, _ = objective(model, batch, total_learned=batch.learned_tokens)
        loss.backward()
        if done == 0:
            save_batch(folder, stream, model)
        update.step(1.0, CLIP)
        done += 1
        run.figures(done)

    return step


def save_batch(folder: Path, stream: Any, model: Any) -> None:
    """A batch and its gradient, for the other side to compare."""
    at_hand, annotated = stream.at_hand, stream.annotated
    items = at_hand.items
    torch.save(
        {
            "prompts": [item.prompt.tolist() for item in items for _ in item.answers],
            "answers": [answer.ids.tolist() for item in items for answer in item.answers],
            "advantages": [
                float(part[0])
                for part in np.split(annotated.advantage_N, np.cumsum(at_hand.tokens_A)[:-1])
            ],
            "gradient": {name: parameter.grad.clone() for name, parameter in model.named_parameters()},
        },
        folder / "batch.pt",
    )  # fmt: skip


def trl(folder: Path, count: int, take_turns: Callable[[Callable[[], None]], None]) -> None:
    """TRL's trainer in its own loop, which waits between two steps for its parent's next wish."""
    import transformers
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    transformers.logging.set_verbosity_error()
    arguments = GRPOConfig(
        output_dir=str(folder / "trl"), use_cpu=True, bf16=False, max_steps=10_000, per_device_train_batch_size=ANSWERS * count,
        num_generations=ANSWERS, max_completion_length=ANSWER, gradient_checkpointing=False, learning_rate=LR,
        lr_scheduler_type="constant", logging_strategy="no", save_strategy="no", report_to="none", disable_tqdm=True, seed=0,
        loss_type="grpo",
    )  # fmt: skip

    class Pause(transformers.TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if not take_turns(compared) and state.global_step > WARMUP:
                control.should_training_stop = True

    def reward(completion_ids: Sequence[Sequence[int]], **_: Any) -> list[float]:
        return [share_of_even([number for number in ids if number != 0]) for ids in completion_ids]

    data = Dataset.from_list([{"prompt": " ".join(f"t{number}" for number in ids)} for ids in prompts()])
    trainer = GRPOTrainer(
        model=transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32), reward_funcs=reward,
        args=arguments, train_dataset=data, processing_class=transformers.AutoTokenizer.from_pretrained(folder),
        callbacks=[Pause()],
    )  # fmt: skip

    def compared() -> None:
        """Compare the gradient of our batch with ours, at the weights that both began with."""
        known, model = torch.load(folder / "batch.pt"), trainer.model
        learned = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        fresh = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        model.load_state_dict(fresh.state_dict())
        trainer._compute_loss(model, batch_of(known)).backward()
        own = {name: parameter.grad for name, parameter in model.named_parameters()}
        pairs = [(own[name], gradient) for name, gradient in known["gradient"].items()]
        apart = sum(float((a - b).square().sum()) for a, b in pairs) ** 0.5
        (folder / "difference").write_text(str(apart / sum(float(b.square().sum()) for _, b in pairs) ** 0.5))
        model.zero_grad()
        model.load_state_dict(learned)

    trainer.train()


def batch_of(known: dict[str, Any]) -> dict[str, Any]:
    """What TRL's loss is given."""
    longest = max(map(len, known["answers"]))
    answers = torch.tensor([ids + [1] * (longest - len(ids)) for ids in known["answers"]])
    mask = torch.tensor([[1] * len(ids) + [0] * (longest - len(ids)) for ids in known["answers"]])
    given = torch.tensor(known["prompts"])
    return {
        "prompt_ids": given, "prompt_mask": torch.ones_like(given), "completion_ids": answers, "completion_mask": mask,
        "advantages": torch.tensor(known["advantages"]), "num_items_in_batch": mask.sum(),
    }  # fmt: skip


def child(role: str, folder: Path, count: int) -> None:
    """Be one side: so many steps for each number on standard input."""
    from dunwu.core import devices

    devices.prepare_cpu() if role == "ours" else torch.set_num_threads(devices.available_cores())
    if role == "trl":
        from trl import GRPOTrainer  # noqa: F401 - its import belongs to the base, not to the extra memory
    forget_peak()
    base = status_bytes("VmRSS")
    state = {"left": WARMUP, "ready": False, "start": 0.0, "cpu": 0.0, "steps": 0}

    def turn(compared: Callable[[], None]) -> bool:
        """After a step: whether to make another; between two wishes it waits."""
        state["left"] -= 1
        if state["left"]:
            return True
        if state["ready"]:
            seconds = (time.perf_counter() - state["start"]) / state["steps"]
            cores_s = (time.process_time() - state["cpu"]) / state["steps"]
            told = {"seconds": seconds, "cores_s": cores_s, "extra_bytes": status_bytes("VmHWM") - base}
            print("answer", json.dumps(told), flush=True)
        else:
            print("answer ready", flush=True)
            state["ready"] = True
        while (line := sys.stdin.readline().strip()) == "compare":
            compared()
            print("answer compared", flush=True)
        state["left"] = state["steps"] = int(line or 0)
        state["start"], state["cpu"] = time.perf_counter(), time.process_time()
        return bool(state["left"])

    if role == "trl":
        trl(folder, count, turn)
        return
    step = ours(folder, count)
    step()
    while turn(lambda: None):
        step()


class Side:
    """One child process, idle between its turns; what it says beside its answers is passed over."""

    def __init__(self, role: str, folder: str, count: int, python: str) -> None:
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": f"{folder}/cache"}
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path)) if python == sys.executable else ""
        self.process = subprocess.Popen(
            [python, __file__, "--child", role, "--folder", folder, "--prompts", str(count)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment,
        )  # fmt: skip
        self.answer()

    def say(self, word: object) -> str:
        """Tell it what to do, and wait for its answer."""
        assert self.process.stdin is not None
        print(word, file=self.process.stdin, flush=True)
        return self.answer()

    def answer(self) -> str:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("answer "):
                return line.removeprefix("answer ").strip()
        raise RuntimeError(f"{self.process.args} ended early with {self.process.wait()}")

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def main() -> None:
    """Let the two sides take turns and print their figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--prompts", type=int, default=1, help="of a step")
    parser.add_argument("--peers", default=sys.executable, help="the Python that has trl")
    parser.add_argument("--child", choices=["ours", "trl"])
    parser.add_argument("--folder", default="")
    options = parser.parse_args()
    if options.child:
        child(options.child, Path(options.folder), options.prompts)
        return
    with tempfile.TemporaryDirectory() as folder:
        size = write_model(Path(folder))
        sides = {
            "ours": Side("ours", folder, options.prompts, sys.executable),
            "trl": Side("trl", folder, options.prompts, options.peers),
        }
        sides["trl"].say("compare")
        apart = float((Path(folder) / "difference").read_text())
        if apart > 1e-3:
            sys.exit(f"the gradients differ by {apart:.2%}")
        answers: dict[str, list[dict[str, float]]] = {"ours": [], "trl": []}
        for _ in range(options.rounds):
            for name, side in sides.items():
                answers[name].append(json.loads(side.say(3 if name == "ours" else 1)))
        for side in sides.values():
            side.close()
    seconds = {name: [one["seconds"] for one in turns] for name, turns in answers.items()}
    memory = {name: turns[-1]["extra_bytes"] / 1e6 for name, turns in answers.items()}
    asked = [options.peers, "-c", "import trl; print(trl.__version__)"]
    version = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()
    facts = {
        "peer_name": f"TRL {version} GRPOTrainer", "parameters": size, "dtype": "float32", "prompts": options.prompts,
        "answers": ANSWERS, "answer_tokens": ANSWER, "gradient_difference": round(apart, 8),
    }  # fmt: skip
    print_figure(
        "step_time_ratio", [a / b for a, b in zip(seconds["ours"], seconds["trl"], strict=True)], target="<=0.333",
        ours=round(statistics.median(seconds["ours"]), 4), peer=round(statistics.median(seconds["trl"]), 4),
        each_unit="s", **facts,
    )  # fmt: skip
    cores = {name: [one["cores_s"] for one in turns] for name, turns in answers.items()}
    print_figure(
        "step_core_time_ratio", [a / b for a, b in zip(cores["ours"], cores["trl"], strict=True)], target="<=0.333",
        ours=round(statistics.median(cores["ours"]), 4), peer=round(statistics.median(cores["trl"]), 4),
        each_unit="s of a core", **facts,
    )  # fmt: skip
    print_figure(
        "grpo_memory_ratio", [memory["ours"] / memory["trl"]], target="<=1", ours=round(memory["ours"], 1),
        peer=round(memory["trl"], 1), each_unit="MB", **facts,
    )  # fmt: skip


if __name__ == "__main__":
    main()
