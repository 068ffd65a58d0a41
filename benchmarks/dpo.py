"""Tokens a second and peak extra memory of direct preference optimisation, paired with TRL's DPOTrainer.

    python benchmarks/dpo.py                # about 3 minutes on two cores; needs trl
    python benchmarks/dpo.py --precomputed  # both sides know the reference's log-probabilities beforehand

Both sides train a Llama of about 10M parameters, in float32, with AdamW and clipping, on the same pairs in the same order, 8 a
step. Lengths are drawn as those of short dialogues: the medians are 100 tokens of a prompt and 45 of an answer. Tokens are
those of prompt and answer, of both sides of a pair, as TRL reads them; ours reads a prompt once. Each side reads the
reference as it is set up by default: TRL at every step, from a second copy of the weights; ours once, before the step that
uses it, which is what one pass over data costs. Extra memory is the peak above what the process held once its imports were
done. TRL's gradient checkpointing, which is on by default, is off: it saves memory and takes time (`--checkpointing` turns it on).
The losses of both sides after the same steps are compared before anything is timed.
"""

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import Side, print_figure, serve_steps

from dunwu.align.answers import CHOSEN, REJECTED, Answer, Item, rows_of
from dunwu.align.reference import answer_logprobs
from dunwu.align.registry import PreferenceObjective
from dunwu.core import devices
from dunwu.core.preference import DpoSpec
from dunwu.core.recipe import TrainSection
from dunwu.corpus.packing import pack
from dunwu.model.config import DecoderConfig
from dunwu.model.count import parameters
from dunwu.model.decoder import new_decoder
from dunwu.model.hub import load_model, save_model
from dunwu.train.optim import build_optimizer

Step = Callable[[], None]
PAIRS, STEPS_KNOWN, WIDTH, MICRO_ROWS, WARMUP, TURNS = 8, 16, 512, 2, 2, 1
LR, BETAS, DECAY, CLIP, BETA = 1e-3, (0.9, 0.95), 0.0, 1.0, 0.1
CONFIG = DecoderConfig(
    architecture="llama", vocab_size=8192, hidden_size=288, intermediate_size=768, num_hidden_layers=8,
    num_attention_heads=6, num_key_value_heads=6, head_dim=48, max_position_embeddings=WIDTH, tie_word_embeddings=True,
)  # fmt: skip


def make_items() -> list[Item]:
    """Pairs of random tokens, the same on both sides."""
    random = np.random.default_rng(0)

    def ids(median: float, least: int, most: int) -> np.ndarray:
        size = int(np.clip(random.lognormal(np.log(median), 0.8), least, most))
        return random.integers(1, CONFIG.vocab_size, size).astype(np.int32)

    made: list[Item] = []
    for _ in range(PAIRS * STEPS_KNOWN):
        prompt = ids(100, 8, 300)
        answers = (
            Answer(one, np.ones(len(one), bool), kind)
            for kind, one in ((k, ids(45, 4, 100)) for k in (CHOSEN, REJECTED))
        )
        made.append(Item(prompt, tuple(answers)))
    return made


def tokens_of(items: list[Item]) -> int:
    """As TRL reads them: a prompt twice."""
    return sum(item.ends(answer) for item in items for answer in item.answers)


class Ours:
    """Steps as `train/loop.py` makes them, from rows as `align/stream.py` packs them."""

    def __init__(self, folder: str, *, precomputed: bool) -> None:
        self.items = make_items()
        self.model = load_model(Path(folder))
        section = TrainSection.model_validate({"optimizer": "adamw", "betas": BETAS, "weight_decay": DECAY})
        self.update = build_optimizer(self.model, section, (0.0, LR))
        self.objective = PreferenceObjective(DpoSpec(beta=BETA))
        self.start = load_model(Path(folder)) if not precomputed else None
        self.known = answer_logprobs(self.model, self.items) if precomputed else None
        self.count, self.losses = 0, []

    def __call__(self) -> None:
        at = self.count % STEPS_KNOWN * PAIRS
        items = self.items[at : at + PAIRS]
        reference = self.known[at : at + PAIRS] if self.known is not None else answer_logprobs(self.start, items)
        lengths = np.array([item.length for item in items])
        packing, order = pack(lengths, WIDTH), np.argsort(-lengths, kind="stable")
        rows = [order[packing.places(row)].tolist() for row in range(packing.rows)]
        total = 0.0
        for first in range(0, len(rows), MICRO_ROWS):
            batch = rows_of(items, rows[first : first + MICRO_ROWS], WIDTH, reference=reference)
            loss, _ = self.objective(self.model, batch, total_learned=PAIRS)
            loss.backward()
            total += float(loss.detach())
        self.update.step(1.0, CLIP)
        self.count += 1
        self.losses.append(total)


class Peer:
    """Steps as TRL's trainer makes them: its collator, its loss, the optimiser."""

    def __init__(self, folder: str, *, precomputed: bool, checkpointing: bool) -> None:
        import datasets
        import tokenizers
        import transformers
        from trl import DPOConfig, DPOTrainer
        from trl.trainer.dpo_trainer import DataCollatorForPreference

        words = {f"t{number}": number for number in range(CONFIG.vocab_size)}
        inner = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="t0"))
        inner.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
        tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="t0", eos_token="t0")
        few = datasets.Dataset.from_list([{"prompt": "t1 ", "chosen": "t2", "rejected": "t3"}] * 2)
        settings = DPOConfig(
            output_dir=tempfile.mkdtemp(), beta=BETA, bf16=False, use_cpu=True, report_to="none",
            gradient_checkpointing=checkpointing, precompute_ref_log_probs=precomputed,
        )  # fmt: skip
        load = transformers.AutoModelForCausalLM.from_pretrained
        self.trainer = DPOTrainer(
            load(folder), ref_model=None if precomputed else load(folder), args=settings, train_dataset=few,
            processing_class=tokenizer,
        )  # fmt: skip
        self.model = self.trainer.model
        self.model.train()
        if checkpointing:  # the trainer's own loop would turn it on
            self.model.gradient_checkpointing_enable()
        self.collate = DataCollatorForPreference(pad_token_id=0, max_length=None)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=LR, betas=BETAS, weight_decay=DECAY, fused=True)
        self.count, self.losses = 0, []
        self.examples = [
            {"prompt_ids": item.prompt.tolist(), "chosen_ids": item.answers[0].ids.tolist(), "rejected_ids": item.answers[1].ids.tolist()}
            for item in make_items()
        ]  # fmt: skip
        if precomputed:
            known = answer_logprobs(load_model(Path(folder)), make_items())
            for example, values in zip(self.examples, known, strict=True):
                example["ref_chosen_logps"], example["ref_rejected_logps"] = values.tolist()

    def __call__(self) -> None:
        at = self.count % STEPS_KNOWN * PAIRS
        inputs = self.collate(self.examples[at : at + PAIRS])
        loss = self.trainer.compute_loss(self.model, inputs)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), CLIP)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.count += 1
        self.losses.append(float(loss.detach()))


def child(role: str, folder: str, options: argparse.Namespace) -> None:
    """Be one side; the losses of the first steps go to a file beside the weights."""

    def make() -> Step:
        if role == "ours":
            side: Any = Ours(folder, precomputed=options.precomputed)
        else:
            side = Peer(folder, precomputed=options.precomputed, checkpointing=options.checkpointing)

        def step() -> None:
            side()
            if side.count == WARMUP:
                with open(f"{folder}/{role}.json", "w") as file:
                    json.dump(side.losses, file)

        return step

    if role == "ours":
        devices.prepare_cpu()
    else:
        import trl  # noqa: F401 - its import belongs to the base, not to the extra memory
        from trl import DPOTrainer  # noqa: F401

        torch.set_num_threads(devices.available_cores())
    serve_steps(make, warmup=WARMUP)


def main() -> None:
    """Let the two sides take turns and print their figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--precomputed", action="store_true", help="both sides know the reference beforehand")
    parser.add_argument("--checkpointing", action="store_true", help="TRL's gradient checkpointing, its default")
    parser.add_argument("--child", choices=["ours", "trl"])
    parser.add_argument("--folder", default="")
    options = parser.parse_args()
    if options.child:
        child(options.child, options.folder, options)
        return
    with tempfile.TemporaryDirectory() as folder:
        save_model(new_decoder(CONFIG, seed=0), Path(folder))
        more = [flag for flag in ("--precomputed", "--checkpointing") if getattr(options, flag[2:])]
        sides = [Side(__file__, "--child", role, "--folder", folder, *more) for role in ("ours", "trl")]
        losses = [json.loads((Path(folder) / f"{role}.json").read_text()) for role in ("ours", "trl")]
        worst = max(abs(a - b) for a, b in zip(*losses, strict=True))
        if worst > 1e-3:
            sys.exit(f"the losses differ by {worst}: {losses}")
        items = make_items()
        speeds: list[tuple[float, float]] = []
        answers: list[dict[str, Any]] = []
        for number in range(options.rounds):
            steps = [(WARMUP + number * TURNS + turn) % STEPS_KNOWN * PAIRS for turn in range(TURNS)]
            tokens = sum(tokens_of(items[at : at + PAIRS]) for at in steps)
            answers = [side.run(TURNS) for side in sides]
            ours, theirs = (tokens / sum(answer["seconds"]) for answer in answers)
            speeds.append((ours, theirs))
        for side in sides:
            side.close()
    suffix = "".join(f"_{flag[2:]}" for flag in more)
    memory = [answer["extra_bytes"] / 1e6 for answer in answers]
    import trl

    facts = {
        "peer_name": f"TRL {trl.__version__} DPOTrainer", "parameters": parameters(CONFIG), "dtype": "float32",
        "pairs_a_step": PAIRS, "loss_difference": round(worst, 6),
    }  # fmt: skip
    print_figure(
        f"dpo_tokens_per_s_ratio{suffix}", [a / b for a, b in speeds], target=">=1.4",
        ours=round(statistics.median(a for a, _ in speeds)), peer=round(statistics.median(b for _, b in speeds)), **facts,
    )  # fmt: skip
    print_figure(
        f"dpo_memory_ratio{suffix}", [memory[0] / memory[1]], target="<=0.7", ours=round(memory[0], 1),
        peer=round(memory[1], 1), **facts,
    )  # fmt: skip


if __name__ == "__main__":
    main()
