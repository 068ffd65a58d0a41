"""The run: all members at once, looked at on a log scale of steps, and resumable to the bit.

Which rows a step reads is a function of the seed and the step alone. Every look keeps the weights, so that progress measures,
which need to know the frequencies that a network ends with, can be taken afterwards.

Shapes: `M` members, `B` batch, `K` steps, `R` rows of the table.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dunwu.core.errors import DataError, RecipeError, TrainingError
from dunwu.core.files import read_json, write_json
from dunwu.core.progress import Progress
from dunwu.lab.grok.network import Ensemble, answer_losses
from dunwu.lab.grok.optimisers import Optimiser
from dunwu.lab.grok.plan import AFTER, BETAS, DONE, WARMUP_STEPS, Plan
from dunwu.lab.grok.tasks import split_rows
from dunwu.model.hub import read_tensors, write_tensors
from dunwu.train.checkpoint import newest_intact, prune, remove_unfinished, write_checkpoint
from dunwu.train.signals import StopSignal

CHUNK = 64  # steps whose rows are drawn together
CHECKPOINT_EVERY_S = 20.0
ROWS_AT_ONCE = 8192  # of the table, in a look


@dataclass(frozen=True, kw_only=True)
class Look:
    """All rows tried after a step: for each member the accuracy and mean loss (nats) of training and held-out rows, and the weights' norm."""

    step: int
    train: tuple[float, ...]
    held_out: tuple[float, ...]
    train_loss: tuple[float, ...]
    held_out_loss: tuple[float, ...]
    norm: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Curves:
    """What a run gave. `seconds`: of steps and looks, over all its pieces."""

    looks: tuple[Look, ...]
    seconds: float


class Run:
    """An ensemble in training, in a folder of its own."""

    def __init__(self, plan: Plan, folder: Path) -> None:
        self.plan, self.folder, self.table = plan, folder, plan.table()
        self.network = Ensemble(plan.shape(self.table), [member.seed for member in plan.members])
        self.optimiser = Optimiser(
            plan.optimizer,
            dict(self.network.weights.items()),
            lr=plan.lr,
            decays=[member.weight_decay for member in plan.members],
            betas=BETAS,
        )
        self.splits = [split_rows(len(self.table), m.fraction, seed=m.seed) for m in plan.members]
        self.looks: list[Look] = []
        self.seconds = 0.0
        self._saved_s = time.monotonic()
        self._symbols = [torch.from_numpy(np.ascontiguousarray(column)) for column in self._columns()]

    def _columns(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return self.table.a_R, self.table.b_R, self.table.c_R

    def train(
        self,
        progress: Progress,
        *,
        watch: Callable[[Look], None] = lambda look: None,
        stop: StopSignal | None = None,
    ) -> Curves:
        """Train to the end, from where the folder says that the run stands. `watch` sees every look, those of before too.

        Raises RecipeError where the folder holds another run, TrainingError where a member diverged, and Interrupted where
        `stop` asks, the work saved.
        """
        step = self._resume(progress)
        for look in self.looks:
            watch(look)
        due = [at for at in self.plan.looks() if at > step]
        began = time.perf_counter() - self.seconds
        while due and not self._understood():
            for rows_MB in self.rows(step, min(due[0], step + CHUNK)):
                step += 1
                self.step(step, rows_MB)
            self.seconds = time.perf_counter() - began
            if step == due[0]:
                self._look(step)
                watch(self.looks[-1])
                due.pop(0)
            self._tell(progress, step)
            self._perhaps_save(step, stop)
        self._save(step)
        return Curves(looks=tuple(self.looks), seconds=self.seconds)

    def snapshot(self, step: int) -> Ensemble:
        """The networks as they were at a look."""
        network = Ensemble(self.network.shape, [member.seed for member in self.plan.members])
        with torch.no_grad():
            for name, tensor in read_tensors(self._snapshot_file(step)).items():
                network.weights[name].copy_(tensor)
        return network

    def logits(self, network: Ensemble, member: int) -> Tensor:
        """One member's logits `[R, V]` over the whole table."""
        one = network.alone(member)
        a_R, b_R, _ = self._symbols
        with torch.no_grad():
            pieces = [
                one(a_R[None, at : at + ROWS_AT_ONCE], b_R[None, at : at + ROWS_AT_ONCE])[0]
                for at in range(0, len(a_R), ROWS_AT_ONCE)
            ]
        return torch.cat(pieces)

    def step(self, step: int, rows_MB: Tensor) -> None:
        """One update of every member from its rows `[M, B]`."""
        a_MB, b_MB, c_MB = (column[rows_MB] for column in self._symbols)
        loss = answer_losses(self.network(a_MB, b_MB), c_MB).mean(1).sum()
        loss.backward()
        self.optimiser.step(min(1.0, step / WARMUP_STEPS))

    def rows(self, start: int, end: int) -> Iterator[Tensor]:
        """The rows `[M, B]` of the steps after `start`, up to `end`."""
        batch = self.plan.batch
        rows_MKB = np.stack(
            [
                stream_rows(train, member.seed, start * batch, end * batch).reshape(-1, batch)
                for member, (train, _) in zip(self.plan.members, self.splits, strict=True)
            ]
        )
        yield from torch.from_numpy(rows_MKB).unbind(1)

    def _look(self, step: int) -> None:
        c_R = self._symbols[2]
        columns: dict[str, list[float]] = {name: [] for name in ("train", "held_out", "train_loss", "held_out_loss")}
        for number, (train, held_out) in enumerate(self.splits):
            logits_RV = self.logits(self.network, number)
            right_R = (logits_RV.argmax(-1) == c_R).numpy()
            loss_R = answer_losses(logits_RV, c_R).double().numpy()
            for name, rows in (("train", train), ("held_out", held_out)):
                columns[name].append(float(right_R[rows].mean()))
                columns[f"{name}_loss"].append(float(loss_R[rows].mean()))
        if odd := [n for n, loss in enumerate(columns["train_loss"]) if not np.isfinite(loss)]:
            raise TrainingError(
                f"{self.plan.members[odd[0]].label}: the loss is no number at step {step} with lr={self.plan.lr:g}; "
                f"use a smaller one, such as {self.plan.lr / 4:g}"
            )
        norms = self.network.norms()
        self.looks.append(Look(step=step, norm=tuple(norms), **{name: tuple(own) for name, own in columns.items()}))
        write_tensors(self._snapshot_file(step), {n: w.detach() for n, w in self.network.weights.items()})

    def _understood(self) -> bool:
        """Whether all members with weight decay did so a while ago."""
        steps = [
            first_step(self.looks, number, "held_out")
            for number, member in enumerate(self.plan.members)
            if member.weight_decay > 0
        ]
        known = [step for step in steps if step is not None]
        return bool(known) and len(known) == len(steps) and self.looks[-1].step >= AFTER * max(known)

    def _tell(self, progress: Progress, step: int) -> None:
        shown: dict[str, str | float] = {"steps_per_s": step / self.seconds} if self.seconds else {}
        if self.looks:
            shown |= {"train": min(self.looks[-1].train), "held_out": min(self.looks[-1].held_out)}
        progress.update(step, self.plan.steps, **shown)

    def _perhaps_save(self, step: int, stop: StopSignal | None) -> None:
        if stop is not None and stop.requested:
            self._save(step)
            raise stop.interrupted(f"step {step:,} is saved; the same command goes on from there")
        if time.monotonic() - self._saved_s > CHECKPOINT_EVERY_S:
            self._save(step)

    def _save(self, step: int) -> None:
        write_checkpoint(
            self.folder,
            step,
            model={name: weight.detach() for name, weight in self.network.weights.items()},
            optimizer=self.optimiser.tensors(),
            values={"looks": [asdict(look) for look in self.looks], "seconds": self.seconds},
        )
        prune(self.folder, keep=2, reach_steps=0)
        self._saved_s = time.monotonic()

    def _resume(self, progress: Progress) -> int:
        """Where the folder says that the run stands; 0 in an empty one."""
        settings = self.folder / "plan.json"
        wanted = self.plan.record()
        if settings.exists():
            _require_same(read_json(settings), wanted, self.folder)
        else:
            write_json(settings, wanted)
        remove_unfinished(self.folder)
        checkpoint = newest_intact(self.folder, progress)
        if checkpoint is None:
            return 0
        with torch.no_grad():
            for name, tensor in checkpoint.model_tensors().items():
                self.network.weights[name].copy_(tensor)
        self.optimiser.load(checkpoint.optimizer_tensors())
        self.looks = [_as_look(look) for look in checkpoint.values["looks"]]
        self.seconds = float(checkpoint.values["seconds"])
        if missing := [look.step for look in self.looks if not self._snapshot_file(look.step).exists()]:
            raise DataError(f"{self._snapshot_file(missing[0])} is missing; begin again in another folder")
        return checkpoint.step

    def _snapshot_file(self, step: int) -> Path:
        return self.folder / "snapshots" / f"{step:08d}.safetensors"


def stream_rows(rows: np.ndarray, seed: int, start: int, end: int) -> np.ndarray:
    """Places `start` to `end` of an endless stream that reads all `rows` again and again, each time in another order."""
    epochs = range(start // len(rows), (end - 1) // len(rows) + 1)
    stream = np.concatenate([rows[_order(len(rows), seed, epoch)] for epoch in epochs])
    first = start - epochs[0] * len(rows)
    return stream[first : first + end - start]


@lru_cache(maxsize=64)
def _order(count: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng([seed, 1, epoch]).permutation(count)


def first_step(looks: Sequence[Look], member: int, name: str, level: float = DONE) -> int | None:
    """The first look at which an accuracy of a member is above `level`; None: at none."""
    return next((look.step for look in looks if getattr(look, name)[member] > level), None)


def _as_look(values: Mapping[str, Any]) -> Look:
    return Look(step=values["step"], **{name: tuple(own) for name, own in values.items() if name != "step"})


def _require_same(before: Mapping[str, Any], wanted: Mapping[str, Any], folder: Path) -> None:
    different = [name for name in wanted if before.get(name) != wanted[name]]
    if different:
        told = ", ".join(
            "other members" if name == "members" else f"{name}={before.get(name)} there and {wanted[name]} here"
            for name in different
        )
        raise RecipeError(f"{folder.parent} holds another run ({told}); choose another folder with --out")
