"""lm-evaluation-harness's side of `agreement.py`: tasks of a folder over transformers, each sample into a JSON file.

python benchmarks/agreement_side.py FOLDER MODEL TASK,TASK… OUT
"""

import importlib
import json
import os
import sys
from pathlib import Path
from typing import Any

os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", TOKENIZERS_PARALLELISM="false")

lm_eval: Any = importlib.import_module("lm_eval")
tasks: Any = importlib.import_module("lm_eval.tasks")


def main() -> None:
    folder, model, names, out = sys.argv[1:]
    os.environ["HF_DATASETS_CACHE"] = str(Path(folder) / "cache")
    results = lm_eval.simple_evaluate(
        model="hf",
        model_args={"pretrained": model, "dtype": "float32"},
        tasks=names.split(","),
        task_manager=tasks.TaskManager(include_path=folder, include_defaults=False),
        batch_size=16,
        device="cpu",
        log_samples=True,
        bootstrap_iters=0,
    )
    assert results is not None
    Path(out).write_text(json.dumps({name: samples(rows) for name, rows in results["samples"].items()}))


def samples(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One for each document, in their order; scores after each filter stand under the filter's name."""
    found: dict[int, dict[str, Any]] = {}
    for row in rows:
        one = found.setdefault(row["doc_id"], {"resps": [first(resp) for resp in row["resps"]]})
        if "exact_match" in row:
            one[row["filter"]] = row["exact_match"]
        one |= {name: row[name] for name in ("acc", "acc_norm") if name in row}
    return [found[place] for place in sorted(found)]


def first(resp: Any) -> Any:
    """A response of one repeat."""
    return resp[0] if isinstance(resp, list | tuple) and len(resp) == 1 else resp


if __name__ == "__main__":
    main()
