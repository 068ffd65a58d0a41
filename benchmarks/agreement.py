"""The same weights, the same questions, lm-evaluation-harness and we: every answer is compared, one by one.

    python benchmarks/agreement.py --model HOME --data ../shared/data --peers PYTHON [--questions 510] [--only mmlu,gsm8k]

HOME is a model home, which transformers reads too; it must read 4,096 tokens, or some prompts are cut: of
likelihoods both cut the beginning alike, but of written answers we drop whole demonstrations, and lm-evaluation-harness cuts tokens. PYTHON is
an interpreter with lm-eval and transformers. lm-evaluation-harness gets its own prompts, filters and metrics, over local files;
we get the tasks that come with dunwu, over the same rows. Each figure counts the questions whose answers or scores are not the same
(0 is the target); those are listed with how far the likelihoods of both sides lie apart.
"""

import argparse
import csv
import gzip
import io
import itertools
import json
import re
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common import print_figure

from dunwu.chat.local_text import LocalText
from dunwu.evaluate.solvers.base import Response
from dunwu.evaluate.solvers.choice import ByLikelihood
from dunwu.evaluate.solvers.text import WrittenText
from dunwu.evaluate.tasks.demonstrations import usual_shots
from dunwu.evaluate.tasks.finding import find_task
from dunwu.evaluate.tasks.measures import measure
from dunwu.evaluate.tasks.task import Task
from dunwu.model.count import parameters

Row = Mapping[str, Any]
MMLU = r"""
doc_to_text: "{{question.strip()}}\nA. {{choices[0]}}\nB. {{choices[1]}}\nC. {{choices[2]}}\nD. {{choices[3]}}\nAnswer:"
doc_to_choice: ["A", "B", "C", "D"]
doc_to_target: answer
output_type: multiple_choice
fewshot_split: dev
num_fewshot: 5
fewshot_config: {sampler: first_n}
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
"""
CMMLU = r"""
doc_to_text: "{{Question.strip()}}\nA. {{A}}\nB. {{B}}\nC. {{C}}\nD. {{D}}\n答案："
doc_to_choice: ["A", "B", "C", "D"]
doc_to_target: "{{['A', 'B', 'C', 'D'].index(Answer)}}"
output_type: multiple_choice
fewshot_split: dev
num_fewshot: 5
fewshot_config: {sampler: first_n}
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
  - {metric: acc_norm, aggregation: mean, higher_is_better: true}
"""
ARC = r"""
doc_to_text: "Question: {{question}}\nAnswer:"
doc_to_target: "{{choices.label.index(answerKey)}}"
doc_to_choice: "{{choices.text}}"
output_type: multiple_choice
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
  - {metric: acc_norm, aggregation: mean, higher_is_better: true}
"""
GSM8K = r"""
doc_to_text: "Question: {{question}}\nAnswer:"
doc_to_target: "{{answer}}"
output_type: generate_until
fewshot_split: train
num_fewshot: 5
metric_list:
  - metric: exact_match
    aggregation: mean
    higher_is_better: true
    ignore_case: true
    ignore_punctuation: false
    regexes_to_ignore: [",", "\\$", "(?s).*#### ", "\\.$"]
generation_kwargs:
  until: ["Question:", "</s>", "<|im_end|>"]
  do_sample: false
  temperature: 0.0
repeats: 1
filter_list:
  - name: strict-match
    filter:
      - {function: regex, regex_pattern: "#### (\\-?[0-9\\.\\,]+)"}
      - {function: take_first}
  - name: flexible-extract
    filter:
      - {function: regex, group_select: -1, regex_pattern: "(-?[$0-9.,]{2,})|(-?[0-9]+)"}
      - {function: take_first}
"""
LAMBADA = r"""
doc_to_text: "{{text.split(' ')[:-1]|join(' ')}}"
doc_to_target: "{{' '+text.split(' ')[-1]}}"
output_type: loglikelihood
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
"""


@dataclass(frozen=True, kw_only=True)
class Side:
    """One task of lm-evaluation-harness: rows of its splits, and what its YAML says beside them."""

    name: str
    splits: Mapping[str, Sequence[Row]]
    yaml: str
    description: str = ""


@dataclass(frozen=True, kw_only=True)
class Same:
    """A question on both sides. `ours` and `theirs`: scores by metric; `far`: the most that two likelihoods lie apart, nats."""

    id: str
    ours: Mapping[str, Any]
    theirs: Mapping[str, Any]
    far: float
    close: float

    @property
    def differs(self) -> bool:
        return self.ours != self.theirs


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--peers", required=True)
    parser.add_argument("--questions", type=int, default=510)
    parser.add_argument("--only", default="mmlu,arc_easy,cmmlu,gsm8k,lambada")
    options = parser.parse_args()
    model = LocalText.load(options.model)
    for name in options.only.split(","):
        with tempfile.TemporaryDirectory() as folder:
            own, sides = PREPARED[name](options.data, options.questions, Path(folder) / "ours")
            theirs = asked_of_peers(options.peers, options.model, sides, Path(folder) / "theirs")
            report(name, compared(model, own, sides, theirs), model)


def report(name: str, pairs: Sequence[Same], model: LocalText) -> None:
    differing = [pair for pair in pairs if pair.differs]
    print_figure(
        f"agreement_{name}_questions_that_differ",
        [len(differing)],
        unit="questions",
        target="==0",
        questions=len(pairs),
        ours={key: sum(float(pair.ours[key]) for pair in pairs) / len(pairs) for key in pairs[0].ours if key != "text"},
        peer={
            key: sum(float(pair.theirs[key]) for pair in pairs) / len(pairs) for key in pairs[0].theirs if key != "text"
        },
        peer_name="lm-eval 0.4 over transformers",
        logprobs_apart_most_nats=max(pair.far for pair in pairs),
        model=f"{parameters(model.generator.model.config) / 1e6:.1f}M parameters, reads {model.context_length} tokens",
        listed=[
            {
                "id": pair.id,
                "ours": dict(pair.ours),
                "peer": dict(pair.theirs),
                "apart": pair.far,
                "choices_apart": pair.close,
            }
            for pair in differing[:20]
        ],
    )


def asked_of_peers(python: str, model: str, sides: Sequence[Side], folder: Path) -> dict[str, list[dict[str, Any]]]:
    """lm-evaluation-harness's samples of each task, in the order of the rows."""
    folder.mkdir(parents=True)
    for side in sides:
        files = {
            split: str(write_rows(rows, folder / f"{side.name}.{split}.jsonl")) for split, rows in side.splits.items()
        }
        head = {
            "task": side.name,
            "dataset_path": "json",
            "dataset_kwargs": {"data_files": files},
            "test_split": "test",
        }
        lines = [f"{key}: {json.dumps(value)}" for key, value in head.items()]
        if side.description:
            lines.append(f"description: {json.dumps(side.description, ensure_ascii=False)}")
        (folder / f"{side.name}.yaml").write_text("\n".join(lines) + side.yaml, encoding="utf-8")
    names = ",".join(side.name for side in sides)
    script = Path(__file__).with_name("agreement_side.py")
    subprocess.run(
        [python, str(script), str(folder), str(Path(model).resolve()), names, str(folder / "out.json")], check=True
    )
    return json.loads((folder / "out.json").read_text())


def compared(
    model: LocalText, task: Task, sides: Sequence[Side], theirs: Mapping[str, list[dict[str, Any]]]
) -> list[Same]:
    """Our answers beside theirs."""
    solver = (WrittenText if task.spec.output == "text" else ByLikelihood)(model, usual_shots(task))
    responses = solver(task, task.problems())
    measured = {one.name: one.values for one in measure(task, responses)}
    samples = [sample for side in sides for sample in theirs[side.name]]
    assert len(samples) == len(responses), (len(samples), len(responses))
    beside = {"text": of_text, "choice": of_choice, "perplexity": of_target}[task.spec.output]
    return [
        beside(response, {name: values[at] for name, values in measured.items()}, sample)
        for at, (response, sample) in enumerate(zip(responses, samples, strict=True))
    ]


def of_choice(response: Response, values: Row, sample: Row) -> Same:
    ours = [one.logprob for one in response.likelihoods[: len(response.problem.choices)]]
    theirs = [float(one[0]) for one in sample["resps"]]
    first, second, *_ = sorted(ours, reverse=True)
    names = [name for name in ("acc", "acc_norm") if name in sample]
    return Same(
        id=response.problem.id,
        ours={name: float(values[name]) for name in names},
        theirs={name: float(sample[name]) for name in names},
        far=max(abs(one - other) for one, other in zip(ours, theirs, strict=True)),
        close=first - second,
    )


def of_target(response: Response, values: Row, sample: Row) -> Same:
    (one,) = response.likelihoods
    return Same(
        id=response.problem.id,
        ours={"acc": float(one.greedy)},
        theirs={"acc": float(sample["acc"])},
        far=abs(one.logprob - float(sample["resps"][0][0])),
        close=0.0,
    )


def of_text(response: Response, values: Row, sample: Row) -> Same:
    text = "" if response.completion is None else response.completion.text
    return Same(
        id=response.problem.id,
        ours={"strict": float(values["strict"]), "flexible": float(values["flexible"]), "text": text},
        theirs={
            "strict": float(sample["strict-match"]),
            "flexible": float(sample["flexible-extract"]),
            "text": sample["resps"][0],
        },
        far=0.0,
        close=0.0,
    )


# ------------------------------------------------------------------------------------------------- rows for both sides


def mmlu(data: Path, count: int, folder: Path) -> tuple[Task, list[Side]]:
    test, dev = (by_subject(read_rows(data / "eval_mmlu" / f"{split}.jsonl.gz")) for split in ("test", "dev"))
    test = evenly(test, count)
    own = both(folder, test, dev)
    task = find_task("mmlu", data=own, subjects=tuple(test))

    def row(one: Row) -> Row:
        return {
            "question": one["question"],
            "choices": [one[letter] for letter in "ABCD"],
            "answer": "ABCD".index(one["answer"]),
        }

    return task, [
        Side(
            name=f"agree_mmlu_{subject}",
            splits={"test": [row(one) for one in rows], "dev": [row(one) for one in dev[subject]]},
            yaml=MMLU,
            description=f"The following are multiple choice questions (with answers) about {subject.replace('_', ' ')}.\n\n",
        )
        for subject, rows in test.items()
    ]


def cmmlu(data: Path, count: int, folder: Path) -> tuple[Task, list[Side]]:
    test, dev = (by_subject(read_rows(data / "eval_cmmlu" / f"{split}.jsonl.gz")) for split in ("test", "dev"))
    test = evenly(test, count)
    own = both(folder, test, dev)
    task = find_task("cmmlu", data=own, subjects=tuple(test))

    def row(one: Row) -> Row:
        return {"Question": one["question"], "Answer": one["answer"], **{letter: one[letter] for letter in "ABCD"}}

    return task, [
        Side(
            name=f"agree_cmmlu_{subject}",
            splits={"test": [row(one) for one in rows], "dev": [row(one) for one in dev[subject]]},
            yaml=CMMLU,
            description=f"以下是关于{task.spec.subjects[subject]}的单项选择题，请直接给出正确答案的选项。\n\n",
        )
        for subject, rows in test.items()
    ]


def arc_easy(data: Path, count: int, folder: Path) -> tuple[Task, list[Side]]:
    text = gzip.decompress((data / "eval_arc" / "ARC-Easy_test.csv.gz").read_bytes()).decode()
    names = ["question", "A", "B", "C", "D", "answer"]
    rows = [
        {
            "question": row["question"],
            "choices": {"text": [row[letter] for letter in "ABCD"], "label": list("ABCD")},
            "answerKey": row["answer"],
        }
        for row in list(csv.DictReader(io.StringIO(text), fieldnames=names))[:count]
    ]
    write_rows(rows, folder / "arc_easy" / "test.jsonl")
    return find_task("arc_easy", data=folder), [Side(name="agree_arc_easy", splits={"test": rows}, yaml=ARC)]


def gsm8k(data: Path, count: int, folder: Path) -> tuple[Task, list[Side]]:
    rows = list(read_rows(data / "eval_gsm8k" / "train_5000.jsonl.gz"))
    splits = {"test": rows[-count:], "train": rows[:-count]}
    for split, own in splits.items():
        write_rows(own, folder / f"{split}.jsonl")
    return find_task("gsm8k", data=folder), [Side(name="agree_gsm8k", splits=splits, yaml=GSM8K)]


def lambada(data: Path, count: int, folder: Path) -> tuple[Task, list[Side]]:
    """Paragraphs of books, of which the last word is asked; as many from each book."""
    rows = [{"text": text} for text in passages(data / "en_classic_books" / "books-01.jsonl.gz", count)]
    write_rows(rows, folder / "test.jsonl")
    return find_task("lambada", data=folder), [Side(name="agree_lambada", splits={"test": rows}, yaml=LAMBADA)]


def passages(path: Path, count: int) -> list[str]:
    books: list[list[str]] = []
    for book in read_rows(path):
        texts = (" ".join(part.split()) for part in re.split(r"\n\s*\n", book["text"]))
        books.append([text.rstrip(".") for text in texts if 60 <= len(text.split()) <= 120 and text[-2:-1].isalpha()])
    return [text for group in itertools.zip_longest(*books) for text in group if text is not None][:count]


PREPARED = {"mmlu": mmlu, "arc_easy": arc_easy, "cmmlu": cmmlu, "gsm8k": gsm8k, "lambada": lambada}


def read_rows(path: Path) -> Iterator[dict[str, Any]]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        yield from map(json.loads, file)


def write_rows(rows: Iterable[Row], path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def by_subject(rows: Iterable[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault(row["subject"], []).append(row)
    return groups


def evenly(groups: Mapping[str, Sequence[dict[str, Any]]], count: int) -> dict[str, Sequence[dict[str, Any]]]:
    each = -(-count // len(groups))
    return {subject: rows[:each] for subject, rows in groups.items()}


def both(folder: Path, test: Mapping[str, Sequence[Row]], dev: Mapping[str, Sequence[Row]]) -> Path:
    write_rows((row for rows in test.values() for row in rows), folder / "test.jsonl")
    write_rows((row for rows in dev.values() for row in rows), folder / "dev.jsonl")
    return folder


if __name__ == "__main__":
    main()
