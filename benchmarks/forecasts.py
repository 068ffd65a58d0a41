"""Forecasts of two large models from the public runs of small ones, made before their results were seen.

    python benchmarks/forecasts.py [--data ../shared/data] [--only hellaswag,c4_en] [--resamples 300] [--out forecasts.json]

Reads the 16 runs of the OLMo ladder that its `final.json` names for fitting (190M to 1.3B parameters at 1, 2, 5 and 10 times Chinchilla's
tokens), forecasts losses, bits a byte and accuracies of its 7B-4T and 13B-5T models, and forecasts what is known in the same way: the four
runs of 1.3B from the smaller ones, and the longest of them from all others. Held-out errors, in standard errors of the
bootstrap, stretch the intervals. One JSON line a quantity, then a line a group. docs/forecasts.md has the table.
"""

import argparse
import csv
import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from dunwu.core.files import write_json
from dunwu.lab.scaling.downstream import (
    Run,
    accuracy_forecast,
    fit_downstream,
    held_out,
    loss_forecast,
    widening,
)

TARGETS = {"7B-4T": 4e12, "13B-5T": 5e12}  # tokens, by their names
TASKS = {
    "hellaswag": "hellaswag_val",
    "arc_easy": "arc_easy_test",
    "arc_challenge": "arc_challenge_test",
    "piqa": "piqa_val",
    "csqa": "csqa_val",
    "socialiqa": "socialiqa_val",
    "openbookqa": "openbookqa_test",
    "boolq": "boolq_val",
    "winogrande": "winogrande_val",
}
MMLU = {"stem": 3018, "humanities": 4705, "social_sciences": 3077, "other": 3242}  # questions of its test part
UNLIKELY = ("boolq", "winogrande")  # near chance at all sizes of the ladder
LOSSES = (
    "c4_en",
    "dolma_books",
    "dolma_common-crawl",
    "dolma_pes2o",
    "dolma_reddit",
    "dolma_stack",
    "dolma_wiki",
    "ice",
    "m2d2_s2orc",
    "pile",
    "wikitext_103",
)
LARGEST = 1e9  # runs above this are held out


def runs_of(folder: Path, name: str) -> list[Run]:
    """The ladder's runs for fitting, with a task's bits a byte and accuracy, or a validation loss."""
    found = []
    for label, config in json.loads((folder / "final.json").read_text()).items():
        if config["mode"] != "train":
            continue
        for path in config["paths"]:
            with gzip.open(folder / f"{Path(path).name}.gz", "rt") as file:
                rows = list(csv.DictReader(file))
            loss, accuracy = columns(rows, name)
            found.append(
                Run(
                    name=f"{label} {Path(path).stem.partition('-')[2]}",
                    size=float(config["n"]),
                    tokens=numbers(rows, "throughput/total_tokens"),
                    loss=loss,
                    accuracy=accuracy,
                )
            )
    return found


def columns(rows: list[dict[str, str]], name: str) -> tuple[np.ndarray, np.ndarray | None]:
    """Loss, and accuracy where it is a task; MMLU is the mean over its questions."""
    if name in LOSSES:
        return numbers(rows, f"eval/{name}-validation/CrossEntropyLoss"), None
    if name == "mmlu":
        share = {part: count / sum(MMLU.values()) for part, count in MMLU.items()}
        parts = [
            (numbers(rows, bits(f"mmlu_{part}_test")) * w, numbers(rows, right(f"mmlu_{part}_test")) * w)
            for part, w in share.items()
        ]
        return np.sum([loss for loss, _ in parts], 0), np.sum([accuracy for _, accuracy in parts], 0)
    return numbers(rows, bits(TASKS[name])), numbers(rows, right(TASKS[name], "acc" if name == "boolq" else "len_norm"))


def bits(task: str) -> str:
    """The column of a task's bits a byte of the right answer."""
    return f"eval/downstream_bpb/{task}_rc_5shot_bpb"


def right(task: str, how: str = "len_norm") -> str:
    """The column of its accuracy."""
    return f"eval/downstream/{task}_rc_5shot_{how}"


def numbers(rows: list[dict[str, str]], column: str) -> np.ndarray:
    """A column."""
    return np.array([float(row[column]) for row in rows])


def forecast(folder: Path, name: str, resamples: int) -> dict[str, Any]:
    """Both targets and what was held out, of one quantity."""
    runs = runs_of(folder, name)
    fit = fit_downstream(runs, resamples=resamples)
    final = json.loads((folder / "final.json").read_text())
    targets = {}
    for label, tokens in TARGETS.items():
        size = float(final[label]["n"])
        targets[label] = {"loss": told(loss_forecast(fit, size, tokens))}
        if fit.curve is not None:
            targets[label]["accuracy"] = told(accuracy_forecast(fit, size, tokens))
    large = np.array([run.size > LARGEST for run in runs])
    longest = np.array([run.size > LARGEST and run.name.endswith("10xC") for run in runs])
    checks = {
        "1.3B from smaller": list(checked(runs, large, resamples // 2)),
        "1.3B-10xC from all others": list(checked(runs, longest, resamples // 2)),
    }
    law = {key: getattr(fit.law, key) for key in ("E", "A", "B", "alpha", "beta", "objective")}
    curve = None if fit.curve is None else {key: getattr(fit.curve, key) for key in ("floor", "k", "middle")}
    return {
        "name": name,
        "kind": "loss" if fit.curve is None else "task",
        "law": law,
        "curve": curve,
        "agreed": f"{fit.solved.agreed}/{fit.solved.starts}",
        "residual_rms": float(np.sqrt(np.mean(fit.residual_R**2))),
        "targets": targets,
        "held_out": checks,
    }


def told(one: Any) -> dict[str, float]:
    """Estimate and plain interval."""
    low, high = one.interval()
    return {"value": one.value, "low": low, "high": high}


def checked(runs: list[Run], left: np.ndarray, resamples: int) -> Iterator[dict[str, Any]]:
    """What was forecast of held-out runs, and what they had."""
    for run, loss, accuracy in held_out(runs, left, resamples=resamples):
        truth = run.end[1]
        row = {
            "run": run.name,
            "loss": told(loss) | {"measured": truth, "off": loss.value / truth - 1, "errors": loss.errors_off(truth)},
        }
        if accuracy is not None and run.accuracy is not None:
            truth = float(run.accuracy[-3:].mean())
            row["accuracy"] = told(accuracy) | {
                "measured": truth,
                "off": accuracy.value - truth,
                "errors": accuracy.errors_off(truth),
            }
        yield row


def groups_of(found: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """How far off held-out forecasts were, by kind, and the widening that this asks for."""
    for kind, what in (("loss", "loss"), ("task", "loss"), ("task", "accuracy")):
        for check in ("1.3B from smaller", "1.3B-10xC from all others", None):
            rows = [
                row[what]
                for one in found
                if one["kind"] == kind and one["name"] not in UNLIKELY
                for name, group in one["held_out"].items()
                if check in (None, name)
                for row in group
            ]
            if rows:
                errors = np.array([row["errors"] for row in rows])
                off = np.abs([row["off"] for row in rows])
                yield {
                    "kind": kind,
                    "what": what,
                    "held_out": check or "both",
                    "n": len(rows),
                    "mean_off": float(off.mean()),
                    "largest_off": float(off.max()),
                    "inside_95": float(np.mean(errors <= 1.96)),
                    "widening": widening(errors),
                    "inside_95_widened": float(np.mean(errors <= 1.96 * widening(errors))),
                }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--only", default="")
    parser.add_argument("--resamples", type=int, default=300)
    parser.add_argument("--out", type=Path, help="a file that keeps what is done: a later call goes on from there")
    given = parser.parse_args()
    names = given.only.split(",") if given.only else ["mmlu", *TASKS, *LOSSES]
    found = json.loads(given.out.read_text())["quantities"] if given.out and given.out.is_file() else []
    for name in names:
        if name not in [one["name"] for one in found]:
            found.append(forecast(given.data / "scaling_olmo_ladder", name, given.resamples))
            print(json.dumps(found[-1]), flush=True)
            if given.out:
                write_json(given.out, {"quantities": found, "groups": list(groups_of(found))})
    for group in groups_of(found):
        print(json.dumps(group), flush=True)


if __name__ == "__main__":
    main()
