"""Real tokens a second of fine-tuning on conversations of real lengths, paired with TRL's SFTTrainer, padded and packed.

    python benchmarks/sft.py [--peers PYTHON] [--peer padded|packed] >> benchmarks/results/sft.jsonl

Both sides train a Llama of 12.5M parameters with AdamW in float32 on the same 2,000 conversations of Alpaca, cut to 512 tokens by
one tokenizer and one chat template, with the loss on the answers alone, some 2,000 real tokens an update. Ours packs whole
conversations into rows (best fit) and computes two rows at a time. TRL is measured as its users run it: padded, with 8
conversations a micro-batch; and packed, with its default strategy (best fit too), two rows a micro-batch as ours. Its
gradient checkpointing, on by default, is off: it would add a forward pass. Each side is a process of its own; they take
turns. Tokens that are padding do not count. `--peers`: the Python that has TRL, if it is another one.
"""

import argparse
import gzip
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from common import print_figure

from dunwu.core.files import write_json
from dunwu.model.config import DecoderConfig
from dunwu.model.count import parameters
from dunwu.model.families import config_to_hf
from dunwu.tokenizer.bpe import train_tokenizer

SIDES = Path(__file__).with_name("sft_sides.py")
DATA = Path(__file__).resolve().parents[2] / "shared" / "data" / "instruct_alpaca_en" / "alpaca_en_10k.jsonl.gz"
TALKS = 2000
SETTINGS = {"context": 512, "rows": 4, "micro_rows": 2, "padded_talks": 8, "lr": 1e-3, "warmup": 1}
TARGETS = {"padded": ">=2", "packed": ">=1.2"}


def prepare(data: Path, folder: Path) -> DecoderConfig:
    """Conversations, tokenizer, shape and settings for both sides."""
    talks: list[list[dict[str, str]]] = []
    with gzip.open(data, "rt", encoding="utf-8") as lines:
        for row in map(json.loads, lines):
            question = "\n\n".join(part for part in (row["instruction"].strip(), row["input"].strip()) if part)
            if question and row["output"].strip() and len(talks) < TALKS:
                turns = (("user", question), ("assistant", row["output"].strip()))
                talks.append([{"role": role, "content": text} for role, text in turns])
    text = "".join(json.dumps({"messages": talk}, ensure_ascii=False) + "\n" for talk in talks)
    (folder / "talks.jsonl").write_text(text, "utf-8")
    tokenizer = train_tokenizer((m["content"] for talk in talks for m in talk), vocab_size=8192, out=folder)
    config = DecoderConfig(
        architecture="llama", vocab_size=tokenizer.vocab_size, hidden_size=320, intermediate_size=864, num_hidden_layers=8,
        num_attention_heads=5, num_key_value_heads=5, head_dim=64, max_position_embeddings=SETTINGS["context"],
        tie_word_embeddings=True,
    )  # fmt: skip
    write_json(folder / "config.json", config_to_hf(config))
    write_json(folder / "settings.json", SETTINGS)
    return config


class Side:
    """One child process, idle between its turns; what it says beside its answers is passed over."""

    def __init__(self, name: str, folder: Path, python: str) -> None:
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": str(folder / "cache")}
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path)) if python == sys.executable else ""
        self.process = subprocess.Popen(
            [python, str(SIDES), name, str(folder)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment,
        )  # fmt: skip
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.stdin, self.stdout = self.process.stdin, self.process.stdout
        self._line("ready")

    def run(self, updates: int) -> dict[str, Any]:
        """Run so many updates and return the child's answer."""
        print(updates, file=self.stdin, flush=True)
        return json.loads(self._line("answer "))

    def close(self) -> None:
        """Let the child end."""
        self.stdin.close()
        self.process.wait()

    def _line(self, begins: str) -> str:
        for line in self.stdout:
            if line.startswith(begins):
                return line.removeprefix(begins)
        raise RuntimeError(f"{self.process.args} ended early with {self.process.wait()}")


def measure(sides: dict[str, Side], rounds: int) -> dict[str, list[dict[str, Any]]]:
    """Let the sides take turns; ours, which is quicker, makes two updates in its."""
    answers: dict[str, list[dict[str, Any]]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, side in sides.items():
            answers[name].append(side.run(2 if name == "ours" else 1))
            last = answers[name][-1]
            print(f"{name}: {last['real'] / last['seconds']:.0f} real tokens/s", file=sys.stderr, flush=True)
    return answers


def report(answers: dict[str, list[dict[str, Any]]], config: DecoderConfig) -> None:
    """Print a figure for each peer."""
    speeds = {name: [one["real"] / one["seconds"] for one in turns] for name, turns in answers.items()}
    learned = {
        name: round(sum(one["learned"] for one in turns) / sum(one["real"] for one in turns), 3)
        for name, turns in answers.items()
    }
    for peer, target in TARGETS.items():
        if f"trl-{peer}" not in speeds:
            continue
        ours, theirs = speeds["ours"], speeds[f"trl-{peer}"]
        print_figure(
            f"real_tokens_per_s_ratio_{peer}", [a / b for a, b in zip(ours, theirs, strict=True)], target=target,
            ours=round(statistics.median(ours)), peer=round(statistics.median(theirs)),
            peer_name=f"TRL SFTTrainer, {peer}", parameters=parameters(config), ours_learned_share=learned["ours"],
            peer_learned_share=learned[f"trl-{peer}"], dtype="float32",
        )  # fmt: skip


def main() -> None:
    """Parse the command line and run the pairs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", default=sys.executable, help="the Python that has trl")
    parser.add_argument("--peer", choices=["padded", "packed"], help="this one alone")
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        config = prepare(arguments.data, Path(folder))
        sides = {"ours": Side("ours", Path(folder), sys.executable)}
        for peer in (arguments.peer,) if arguments.peer else TARGETS:
            sides[f"trl-{peer}"] = Side(f"trl-{peer}", Path(folder), arguments.peers)
        report(measure(sides, arguments.rounds), config)
        for side in sides.values():
            side.close()


if __name__ == "__main__":
    main()
