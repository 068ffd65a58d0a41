"""The two sides of `sft.py`, each in a process of its own: a number of updates in, what they took out.

    python benchmarks/sft_sides.py ours|trl-padded|trl-packed FOLDER

Each line of standard input is a number of updates; the answer is a JSON object with `seconds`, `real` (tokens that are no
padding) and `learned` (those with a loss). FOLDER holds a tokenizer, `config.json`, `talks.jsonl` and `settings.json`.
"""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

Turns = Callable[[], int]


def next_turns() -> int:
    """How many updates the parent wants; 0 at the end."""
    line = sys.stdin.readline()
    return int(line) if line.strip() else 0


def answer(**values: float) -> None:
    """Tell the parent."""
    print("answer " + json.dumps(values), flush=True)


def ours(folder: Path, settings: dict[str, Any]) -> None:
    """Updates as `train/loop.py` makes them: micro-batches of packed rows, the objective, the optimiser."""
    from dunwu.core import devices
    from dunwu.core.recipe import TrainSection
    from dunwu.core.records import Example, Message
    from dunwu.corpus.conversations import encode_example, fit
    from dunwu.corpus.stream import SftStream
    from dunwu.model.decoder import new_decoder
    from dunwu.model.hub import load_config
    from dunwu.tokenizer.bpe import Tokenizer
    from dunwu.train.objectives import causal_lm
    from dunwu.train.optim import build_optimizer

    devices.prepare_cpu()
    tokenizer = Tokenizer.load(folder)
    rows, micro, context = settings["rows"], settings["micro_rows"], settings["context"]
    examples = [
        Example(messages=tuple(Message(**message) for message in talk["messages"]), source="")
        for talk in map(json.loads, (folder / "talks.jsonl").read_text("utf-8").splitlines())
    ]
    fitted = [fit(example, lambda one: encode_example(tokenizer, one), context + 1).tokens for example in examples]
    stream = SftStream([tokens for tokens in fitted if tokens is not None], context_length=context, seed=0)
    model = new_decoder(load_config(folder), seed=0)
    section = TrainSection.model_validate({"optimizer": "adamw", "weight_decay": 0.0, "betas": (0.9, 0.999)})
    optimizer = build_optimizer(model, section, (0.02, settings["lr"]))
    row = 0

    def update() -> tuple[int, int]:
        nonlocal row
        batches = [stream.batch(row + at, micro) for at in range(0, rows, micro)]
        row += rows
        learned = sum(batch.learned_tokens for batch in batches)
        for batch in batches:
            causal_lm(model, batch, total_learned=learned)[0].backward()
        optimizer.step(1.0, 1.0)
        return round(rows * context * stream.filled), learned

    for _ in range(2):
        update()
    print("ready", flush=True)
    while turns := next_turns():
        start = time.perf_counter()
        done = [update() for _ in range(turns)]
        seconds = time.perf_counter() - start
        answer(seconds=seconds, real=sum(real for real, _ in done), learned=sum(learned for _, learned in done))


def trl(folder: Path, settings: dict[str, Any], *, packing: bool) -> None:
    """TRL's SFTTrainer, which stops after each of its parent's turns and waits for the next."""
    import torch
    import transformers
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    transformers.logging.set_verbosity_error()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    config = transformers.AutoConfig.from_pretrained(folder)
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    talks = [json.loads(line) for line in (folder / "talks.jsonl").read_text("utf-8").splitlines()]
    context = settings["context"]
    per_device = settings["micro_rows"] if packing else settings["padded_talks"]
    arguments = SFTConfig(
        output_dir=str(folder / "trl"), use_cpu=True, bf16=False, max_steps=10_000, max_length=context, packing=packing,
        per_device_train_batch_size=per_device, gradient_accumulation_steps=settings["rows"] // settings["micro_rows"],
        assistant_only_loss=True, gradient_checkpointing=False, learning_rate=settings["lr"], lr_scheduler_type="constant",
        logging_strategy="no", save_strategy="no", report_to="none", disable_tqdm=True, seed=0,
    )  # fmt: skip
    counts = {"real": 0, "learned": 0}

    class Pause(transformers.TrainerCallback):
        left = settings["warmup"]
        start = 0.0
        warm = False

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.left -= 1
            if self.left:
                return
            if self.warm:
                answer(seconds=time.perf_counter() - self.start, **counts)
            else:
                print("ready", flush=True)
                self.warm = True
            self.left = next_turns()
            control.should_training_stop = not self.left
            counts.update(real=0, learned=0)
            self.start = time.perf_counter()

    class Counting(SFTTrainer):
        def training_step(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            mask = inputs.get("attention_mask")
            counts["real"] += int(mask.sum()) if mask is not None else inputs["input_ids"].numel()
            counts["learned"] += int((inputs["labels"] != -100).sum())
            return super().training_step(model, inputs, *args, **kwargs)

    dataset = Dataset.from_list(talks)
    Counting(
        model=model, args=arguments, train_dataset=dataset, processing_class=tokenizer, callbacks=[Pause()]
    ).train()


def main() -> None:
    """Be the side that is named."""
    name, folder = sys.argv[1], Path(sys.argv[2])
    settings = json.loads((folder / "settings.json").read_text("utf-8"))
    if name == "ours":
        ours(folder, settings)
    else:
        trl(folder, settings, packing=name == "trl-packed")


if __name__ == "__main__":
    main()
