"""How many 5-shot MMLU questions a second we judge, and lm-evaluation-harness over transformers, in one interleaved run.

    python benchmarks/eval.py --peers PYTHON --data ../shared/data [--turns 5] [--questions 50] >> benchmarks/results/eval.jsonl

Both get the same texts (context and continuation, four to a question) and the same weights: 10M parameters of random values, a
vocabulary of 8,192 trained on the questions' own text. Time runs from texts to log-probabilities, tokens included. Each turn is
`--questions` questions of one subject, so that five demonstrations are read once for them; MMLU's own subjects have 100 to 1,534.
Each side has a process of its own with every core, idle while the other has its turn. That both give the same log-probabilities
is checked. `--peer_batch`: rows in a batch of the peer's; of 1 and 8 the latter was faster.
"""

import argparse
import importlib
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

Pairs = Sequence[Sequence[str]]
Judged = Sequence[Sequence[float]]


def ours(folder: str, batch: int) -> tuple[Callable[[Pairs], Judged], str]:
    import torch

    from dunwu.chat.local_text import LocalText
    from dunwu.core.devices import prepare_cpu

    del batch
    prepare_cpu(_cores())
    model = LocalText.load(folder)

    def run(pairs: Pairs) -> Judged:
        return [(one.logprob, one.greedy) for one in model.likelihoods([(context, text) for context, text in pairs])]

    return run, f"torch {torch.__version__}, {torch.get_num_threads()} threads"


def peer(folder: str, batch: int) -> tuple[Callable[[Pairs], Judged], str]:
    os.environ.update(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")
    import torch

    names = ("lm_eval", "transformers", "lm_eval.api.instance", "lm_eval.models.huggingface")
    lm_eval, transformers, instance, huggingface = map(importlib.import_module, names)

    torch.set_num_threads(_cores())
    model = huggingface.HFLM(pretrained=folder, dtype="float32", device="cpu", batch_size=batch)

    def run(pairs: Pairs) -> Judged:
        requests = [
            instance.Instance(request_type="loglikelihood", doc={}, arguments=(context, text), idx=at)
            for at, (context, text) in enumerate(pairs)
        ]
        return [(float(logprob), bool(greedy)) for logprob, greedy in model.loglikelihood(requests, disable_tqdm=True)]

    versions = f"lm-eval {lm_eval.__version__} over transformers {transformers.__version__}, torch {torch.__version__}"
    return run, f"{versions}, {_cores()} threads, batch {batch}"


SIDES = {"ours": ours, "peer": peer}


class Side:
    """A child that answers lines; idle between its turns."""

    def __init__(self, python: str, name: str, *arguments: str) -> None:
        command = [python, __file__, "--side", name, *arguments]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.version = self._line()

    def run(self, pairs: Pairs) -> tuple[float, Judged]:
        assert self.process.stdin is not None
        print(json.dumps(pairs), file=self.process.stdin, flush=True)
        answer = json.loads(self._line())
        return answer["seconds"], answer["judged"]

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()

    def _line(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.process.args} ended early with {self.process.wait()}")
        return line.strip()


def serve(name: str, folder: str, batch: int) -> None:
    told, sys.stdout = sys.stdout, sys.stderr  # libraries print
    run, version = SIDES[name](folder, batch)
    print(version, file=told, flush=True)
    for line in sys.stdin:
        pairs = json.loads(line)
        start = time.perf_counter()
        judged = run(pairs)
        seconds = time.perf_counter() - start
        print(json.dumps({"seconds": seconds, "judged": judged}), file=told, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--peers", default=sys.executable)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--questions", type=int, default=50)
    parser.add_argument("--peer_batch", type=int, default=8)
    parser.add_argument("--side", choices=sorted(SIDES))
    parser.add_argument("--folder")
    options = parser.parse_args()
    if options.side:
        serve(options.side, options.folder, options.peer_batch)
    else:
        compare(options)


def compare(options: argparse.Namespace) -> None:
    from common import print_figure

    with tempfile.TemporaryDirectory() as folder:
        turns = prepare(options.data, Path(folder), options.turns + 1, options.questions)
        arguments = ("--folder", str(Path(folder) / "model"), "--peer_batch", str(options.peer_batch))
        sides = Side(sys.executable, "ours", *arguments), Side(options.peers, "peer", *arguments)
        for side in sides:
            side.run(turns[0][:20])  # each once for nothing
        seconds: dict[Side, list[float]] = {side: [] for side in sides}
        apart = 0.0
        for number, pairs in enumerate(turns[1:]):
            answers = {}
            for side in sides if number % 2 else sides[::-1]:
                took, answers[side] = side.run(pairs)
                seconds[side].append(took)
            mine, theirs = (answers[side] for side in sides)
            apart = max(apart, *(abs(a[0] - b[0]) for a, b in zip(mine, theirs, strict=True)))
        for side in sides:
            side.close()
    assert apart < 1e-3, f"log-probabilities lie {apart} nats apart"
    own, other = (seconds[side] for side in sides)
    facts: dict[str, Any] = {
        "ours": round(options.questions / statistics.median(own), 2),
        "peer": round(options.questions / statistics.median(other), 2),
        "peer_name": sides[1].version,
        "ours_version": sides[0].version,
        "questions_a_turn": options.questions,
        "logprobs_apart_most_nats": apart,
        "load_average": round(os.getloadavg()[0], 1),
    }
    print_figure("questions_per_s_ratio", [b / a for a, b in zip(own, other, strict=True)], target=">=4", **facts)


def prepare(data: Path, folder: Path, turns: int, questions: int) -> list[list[tuple[str, str]]]:
    """A model home with random weights in `folder/model`, and the pairs of each turn: one subject each, as far as there are any."""
    from dunwu.evaluate.tasks.demonstrations import usual_shots
    from dunwu.evaluate.tasks.finding import find_task
    from dunwu.model.config import DecoderConfig
    from dunwu.model.decoder import new_decoder
    from dunwu.model.hub import save_model
    from dunwu.tokenizer.bpe import train_tokenizer

    task = find_task("mmlu", data=data / "eval_mmlu")
    shots = usual_shots(task)
    groups: dict[str, list[list[tuple[str, str]]]] = {}
    for problem in task.problems():
        group = groups.setdefault(problem.subject, [])
        if len(group) < questions:
            group.append(list(task.pairs(problem, shots(problem))))
    full = [group for group in groups.values() if len(group) == questions]
    tokenizer = train_tokenizer(
        (pairs[0][0] for group in groups.values() for pairs in group), vocab_size=8192, out=folder / "model"
    )
    config = DecoderConfig(
        architecture="llama",
        vocab_size=tokenizer.vocab_size,
        hidden_size=256,
        intermediate_size=768,
        num_hidden_layers=9,
        num_attention_heads=8,
        num_key_value_heads=8,
        head_dim=32,
        max_position_embeddings=4096,
    )
    save_model(new_decoder(config, seed=1), folder / "model")
    return [[pair for pairs in full[turn % len(full)] for pair in pairs] for turn in range(turns)]


def _cores() -> int:
    return len(os.sched_getaffinity(0))


if __name__ == "__main__":
    main()
