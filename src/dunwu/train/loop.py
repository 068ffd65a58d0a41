"""The one training loop. It knows no algorithm: an objective makes a loss from a batch, an optimiser makes a step of it.

Everything that decides what happens next (data, learning rate, skipped batches, random states) is in `TrainState`, and so in
every checkpoint: a run that was killed and resumed ends in the same weights, bit for bit on a CPU.
"""

import math
import random
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, cast

import torch
from torch import Tensor

from dunwu.core.devices import can_compile, peak_memory_bytes, pick_dtype
from dunwu.core.errors import CheckpointError
from dunwu.core.progress import Progress
from dunwu.core.recipe import TrainSection
from dunwu.corpus.stream import Batch, Stream
from dunwu.model.decoder import Block, Decoder
from dunwu.train.alongside import Alongside, Nothing
from dunwu.train.checkpoint import Checkpoint, newest_intact, prune, remove_after, remove_unfinished, write_checkpoint
from dunwu.train.guard import REWIND_STEPS, GuardState, judge_gradient
from dunwu.train.learned import Learned, WholeModel
from dunwu.train.metrics import MetricsLog
from dunwu.train.optim import Optimizer
from dunwu.train.schedule import batch_scale, lr_scale
from dunwu.train.signals import Interrupted, StopSignal
from dunwu.train.snapshots import Snapshot, is_due, remove_unfinished_snapshots, snapshot_tokens, write_snapshot

SHOW_EVERY_S = 0.2
LOSS_STEPS = 20  # the loss of a result is the mean over the last tenth of the run, at most so many steps
DEADLINE_EXIT_CODE = 124


class Objective(Protocol):
    """Loss (summed over the micro-batch, divided by `total_learned`) and detached figures that add up over micro-batches."""

    def __call__(self, model: Decoder, batch: Batch, *, total_learned: int) -> tuple[Tensor, Mapping[str, Tensor]]: ...


@dataclass(frozen=True, kw_only=True)
class TrainState:
    """Where a run stands after `step` updates: `tokens` learned from, `row` of the stream to go on at, `seconds` of work."""

    step: int = 0
    tokens: int = 0
    row: int = 0
    seconds: float = 0.0
    guard: GuardState = field(default_factory=GuardState)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "TrainState":
        """The inverse of `asdict`."""
        return cls(**{**values, "guard": GuardState.from_json(values["guard"])})


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """A finished run. `loss`: nats a token over the last steps; `seconds` of all its parts; `tokens_per_s` and `peak_bytes`
    of this process; `resumed_from`: the step of the checkpoint that it went on from; `incidents`: what the guard did."""

    tokens: int
    steps: int
    loss: float
    seconds: float
    tokens_per_s: float
    peak_bytes: int
    resumed_from: int | None
    incidents: tuple[dict[str, Any], ...]


def fit(
    model: Decoder,
    stream: Stream,
    objective: Objective,
    optimizer: Optimizer,
    section: TrainSection,
    *,
    total_tokens: int,
    batch_rows: int,
    micro_batch_rows: int,
    folder: Path,
    seed: int,
    progress: Progress,
    stop: StopSignal,
    learned: Learned | None = None,
    deadline_s: float | None = None,
    flops_per_token: float | None = None,
    peak_flops: float | None = None,
    alongside: Alongside | None = None,
    snapshots: int = 0,
) -> TrainResult:
    """Train `model` in place on `total_tokens` positions of `stream`, to the nearest whole batch, and save it in `folder`.

    `learned`: what of it learns, is kept in checkpoints and is saved, if not all. `alongside`: who makes the stream's rows out
    of the model as it learns, if anybody; what it raises leaves the work saved. `snapshots`: see `train/snapshots.py`.

    Goes on by itself from the newest good checkpoint in `folder/checkpoints`. A batch has `batch_rows` rows (fewer during
    batch warm-up), computed `micro_batch_rows` at a time. With `flops_per_token` and `peak_flops` (1/s) the share of the
    machine's peak is shown. Raises Interrupted when `stop` asks or after `deadline_s` seconds, the work saved; DiskError
    when the disk is full, the last checkpoint intact; TrainingError when the run diverges past rescue; CheckpointError when
    no checkpoint can be used or they are of another run.
    """
    board = folder / "tensorboard" if section.tensorboard else None
    with MetricsLog(folder / "metrics.jsonl", tensorboard=board) as metrics:
        run = _Run(
            model, stream, objective, optimizer, section, metrics, progress, folder, total_tokens, batch_rows,
            micro_batch_rows, seed, _share_of_peak(flops_per_token, peak_flops), learned or WholeModel(model),
            alongside or Nothing(), snapshots,
        )  # fmt: skip
        started_s = time.monotonic()
        state = run.resume_or_start()
        first = state
        while rows := run.next_rows(state):
            run.leave_if_asked(state, stop, deadline_s, started_s)
            if not run.prepare(state, stop):
                continue
            loss, figures = run.learn(state, rows)
            trouble = run.alongside.judge(state.guard, loss)
            figures |= {} if trouble else run.update(state, rows)
            trouble = trouble or judge_gradient(figures["grad_norm"])
            if trouble:
                state = run.recover(state, rows, trouble)
                continue
            before, state = state, run.advance(state, rows, loss, figures)
            run.keep_if_due(before, state)
            run.save_now_and_then(state)
        run.save(state)
        run.learned.save(folder)
        prune(run.checkpoints, keep=1, reach_steps=0)
    return _result(first, state, run.resumed_from)


@dataclass
class _Run:
    """The parts that stay the same from step to step."""

    model: Decoder
    stream: Stream
    objective: Objective
    optimizer: Optimizer
    section: TrainSection
    metrics: MetricsLog
    progress: Progress
    folder: Path
    total_tokens: int
    batch_rows: int
    micro_batch_rows: int
    seed: int
    share_of_peak: Callable[[float], dict[str, float]]
    learned: Learned
    alongside: Alongside
    snapshots: int

    def __post_init__(self) -> None:
        self.device = next(self.model.parameters()).device
        self.dtype = pick_dtype(self.device, self.section.dtype)
        self.checkpoints = self.folder / "checkpoints"
        self.resumed_from: int | None = None
        self.saved_step, self.saved_s = -1, time.monotonic()
        self.step_began_s = self.shown_s = time.monotonic()
        self.model.train()
        if self.section.compile is True:
            self.model.compile()
        elif self.section.compile == "auto" and self.device.type == "cuda" and can_compile() and not self.model.changes:
            compile_blocks(self.model)

    # The course of a run

    def resume_or_start(self) -> TrainState:
        """The state of the newest good checkpoint, loaded; otherwise a beginning, saved so that there is always one."""
        remove_unfinished(self.checkpoints)
        remove_unfinished_snapshots(self.folder)
        first = max(1, self.tokens_of(self.next_rows(TrainState())))
        self.snapshot_tokens = snapshot_tokens(self.snapshots, first=first, total=max(self.total_tokens, first))
        checkpoint = newest_intact(self.checkpoints, self.progress)
        if checkpoint is None:
            self.metrics.continue_from(0, 0)
            torch.manual_seed(self.seed)
            random.seed(self.seed)
            state = TrainState()
            self.save(state)
        else:
            state = self.restore(checkpoint)
            self.resumed_from = state.step
            self.progress.note(
                f"resumed at step {state.step:,} ({state.tokens:,} of {self.total_tokens:,} {self.alongside.unit} done)"
            )
        self.step_began_s = time.monotonic()
        return state

    def next_rows(self, state: TrainState) -> int:
        """The rows of the next batch; 0 at the end, which is where less than half a batch would be missing."""
        if self.alongside.over:
            return 0
        rows = max(1, round(self.batch_rows * batch_scale(self.section, state.tokens / self.total_tokens)))
        missing = self.total_tokens - state.tokens
        return rows if missing > 0 and (state.step == 0 or 2 * missing >= self.tokens_of(rows)) else 0

    def prepare(self, state: TrainState, stop: StopSignal) -> bool:
        """Let the rows be made, where somebody makes them; False when that was left off because `stop` asks."""
        try:
            return self.alongside.before(state.step, state.row, stop)
        except Exception:
            self.save(state)
            raise

    def learn(self, state: TrainState, rows: int) -> tuple[float, dict[str, float]]:
        """Leave the gradient of the batch's mean loss in the parameters; returns the loss, nats a token, and its figures."""
        micro = self.micro_batch_rows
        batches = [
            self.stream.batch(state.row + at, min(micro, rows - at)).to(self.device) for at in range(0, rows, micro)
        ]
        total_learned = max(1, sum(batch.learned_tokens for batch in batches))
        sums: dict[str, Tensor] = {}
        for batch in batches:
            with self.precision():
                loss, figures = self.objective(self.model, batch, total_learned=total_learned)
            loss.backward()
            for name, value in {"loss": loss.detach(), **figures}.items():
                sums[name] = sums[name] + value if name in sums else value
        values = torch.stack([value.float() for value in sums.values()]).tolist()  # the step's one wait for the device
        shown = dict(zip(sums, values, strict=True))
        return shown.pop("loss"), shown

    def update(self, state: TrainState, rows: int) -> dict[str, float]:
        """Let the optimiser step; the schedule is read at the middle of what the batch adds to the run."""
        left = self.total_tokens - state.tokens
        middle = (state.tokens + min(self.tokens_of(rows), left) / 2) / self.total_tokens
        scale = lr_scale(self.section, middle)
        figures = self.optimizer.step(scale, self.section.grad_clip)
        rates = {f"lr_{part.name}": part.lr * scale for part in self.optimizer.parts}
        return {"lr_scale": scale, **rates, **figures}

    def advance(self, state: TrainState, rows: int, loss: float, figures: Mapping[str, float]) -> TrainState:
        """The state after a good step, with its row in the metrics."""
        now_s = time.monotonic()
        step_s, self.step_began_s = max(now_s - self.step_began_s, 1e-9), now_s
        step = state.step + 1
        state = TrainState(
            step=step,
            tokens=state.tokens + self.tokens_of(rows),
            row=state.guard.landing(step, state.row + rows),
            seconds=state.seconds + step_s,
            guard=state.guard.accept(loss),
        )
        figures = {**figures, **self.alongside.figures(step)}
        tokens_per_s = figures.pop("batch_tokens", self.tokens_of(rows)) / step_s
        row = {
            "step": step,
            self.alongside.unit: state.tokens,
            "loss": loss,
            "batch_rows": rows,
            **figures,
            "tokens_per_s": round(tokens_per_s, 1),
            **self.share_of_peak(tokens_per_s),
            "seconds": round(state.seconds, 3),
            "peak_bytes": self.peak_bytes(),
        }
        self.metrics.row(row)
        self.alongside.observe(row)
        if now_s - self.shown_s >= SHOW_EVERY_S:
            self.show(state, tokens_per_s)
        return state

    def show(self, state: TrainState, tokens_per_s: float) -> None:
        """Tell a person."""
        self.shown_s = time.monotonic()
        shown: dict[str, str | float] = {"loss": f"{_recent_loss(state):.3f}", "tokens/s": f"{tokens_per_s:,.0f}"}
        for share in self.share_of_peak(tokens_per_s).values():
            shown["of peak"] = f"{share:.0%}"
        self.progress.update(state.tokens, self.total_tokens, **shown)

    # When something goes wrong

    def recover(self, state: TrainState, rows: int, trouble: str) -> TrainState:
        """Throw the batch away; when several in a row are bad, go back and take other data. See `guard`."""
        for parameter in self.learned.parameters().values():
            parameter.grad = None
        known = len(state.guard.incidents)
        guard = state.guard.skip(state.step, state.row, trouble)
        state = replace(state, row=state.row + rows, guard=guard)
        if not guard.must_rewind:
            self.report_incidents(state, known=known)
            return state
        guard, target = guard.rewind(state.step, state.row)
        checkpoint = newest_intact(self.checkpoints, self.progress, at_most=target)
        if checkpoint is None:
            raise CheckpointError(
                f"no checkpoint at or before step {target} is left in {self.checkpoints} to go back to"
            )
        remove_after(self.checkpoints, checkpoint.step)
        earlier = self.restore(checkpoint)
        guard = guard.carry_into(earlier.guard)
        state = replace(earlier, guard=guard, row=guard.landing(earlier.step, earlier.row))
        self.report_incidents(state, known=len(earlier.guard.incidents))
        return state

    def report_incidents(self, state: TrainState, *, known: int) -> None:
        """Put the incidents that the metrics do not know into them, and tell the latest; repeated steps bring no new ones."""
        fresh = state.guard.incidents[known:]
        for incident in fresh:
            values = {"step": incident.step, "incident": incident.kind, "row": incident.row, "reason": incident.reason}
            self.metrics.row(values)
        for incident in fresh[-1:]:
            action = "skipped a batch" if incident.kind == "skip" else "went back"
            self.progress.note(f"step {incident.step + 1:,}: {action}: {incident.reason}")

    def leave_if_asked(self, state: TrainState, stop: StopSignal, deadline_s: float | None, started_s: float) -> None:
        """Between two steps: save and raise Interrupted when somebody or the clock says so."""
        late = deadline_s is not None and time.monotonic() - started_s > deadline_s
        if not (stop.requested or late):
            return
        self.save(state)
        saved = f"saved at step {self.saved_step:,}; run the same command again to go on"
        raise (
            Interrupted(f"stopped after {deadline_s:g} s, the limit; {saved}", DEADLINE_EXIT_CODE)
            if late
            else stop.interrupted(saved)
        )

    # Checkpoints

    def save_now_and_then(self, state: TrainState) -> None:
        """Save when the last time is long enough ago. Nothing that is computed depends on it."""
        if time.monotonic() - self.saved_s >= self.section.checkpoint_every_s:
            self.save(state)

    def save(self, state: TrainState) -> None:
        """Write a checkpoint of this step, unless there is one, and remove the oldest."""
        if state.step == self.saved_step:
            return
        values = {
            "state": asdict(state),
            "settings": self.settings(),
            "random": _random_states(),
            "metrics_bytes": self.metrics.sync(),
            **({"alongside": beside} if (beside := self.alongside.state()) else {}),
        }
        write_checkpoint(
            self.checkpoints,
            state.step,
            model=self.learned.state(),
            optimizer=self.optimizer.state_tensors(),
            values=values,
        )
        prune(self.checkpoints, keep=self.section.checkpoints_kept, reach_steps=REWIND_STEPS)
        self.saved_step, self.saved_s = state.step, time.monotonic()
        self.step_began_s = self.saved_s  # the time to save is not the next step's

    def keep_if_due(self, before: TrainState, state: TrainState) -> None:
        """Keep the weights of this step for good, where a snapshot is due."""
        if is_due(self.snapshot_tokens, before.tokens, state.tokens):
            write_snapshot(self.folder, Snapshot(step=state.step, tokens=state.tokens, row=state.row), self.learned)
            self.step_began_s = time.monotonic()

    def restore(self, checkpoint: Checkpoint) -> TrainState:
        """Load everything that `save` wrote, into the model and optimiser at hand."""
        there = checkpoint.values["settings"]
        differing = [
            f"{name} {there.get(name)} there, {value} here"
            for name, value in self.settings().items()
            if there.get(name) != value
        ]
        if differing:
            raise CheckpointError(
                f"{checkpoint.path} belongs to another run ({'; '.join(differing)}); "
                f"use the settings of that run, or remove {self.checkpoints} to begin again"
            )
        self.learned.load(checkpoint.model_tensors())
        self.optimizer.load_state_tensors(checkpoint.optimizer_tensors())
        _set_random_states(checkpoint.values["random"])
        state = TrainState.from_json(checkpoint.values["state"])
        self.metrics.continue_from(checkpoint.values["metrics_bytes"], state.step)
        self.alongside.restore(checkpoint.values.get("alongside", {}))
        self.saved_step, self.saved_s = state.step, time.monotonic()
        return state

    def settings(self) -> dict[str, Any]:
        """What must not change between the parts of one run (the size of micro-batches may: it moves the rounding only)."""
        return {
            "seed": self.seed,
            "total_tokens": self.total_tokens,
            "batch_rows": self.batch_rows,
            "context_length": self.stream.context_length,
            "data": self.stream.fingerprint,
        }

    # Small things

    def tokens_of(self, rows: int) -> int:
        """Positions in so many rows."""
        return rows * self.stream.context_length

    def precision(self) -> AbstractContextManager[Any]:
        """The dtype to compute in; the weights stay as they are."""
        return nullcontext() if self.dtype == torch.float32 else torch.autocast(self.device.type, self.dtype)

    def peak_bytes(self) -> int:
        """The most memory held so far: the GPU's where there is one, else the process's."""
        return _peak_bytes(self.device)


def compile_blocks(model: Decoder) -> None:
    """Compile the MLPs with their norms: one kernel serves all layers, so that a run begins within seconds.

    The whole model as one graph takes minutes to compile (`compile=true`), anew for each number of rows.
    """
    for block in cast("Iterable[Block]", model.model.layers):
        setattr(block, "feed", torch.compile(block.feed))  # noqa: B010


def _peak_bytes(device: torch.device) -> int:
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else peak_memory_bytes()


def _share_of_peak(flops_per_token: float | None, peak_flops: float | None) -> Callable[[float], dict[str, float]]:
    if not flops_per_token or not peak_flops:
        return lambda tokens_per_s: {}
    return lambda tokens_per_s: {"share_of_peak": round(tokens_per_s * flops_per_token / peak_flops, 4)}


def _recent_loss(state: TrainState) -> float:
    recent = state.guard.recent[-min(LOSS_STEPS, max(1, state.step // 10)) :]
    return sum(recent) / len(recent) if recent else math.nan


def _result(first: TrainState, last: TrainState, resumed_from: int | None) -> TrainResult:
    seconds, tokens = last.seconds - first.seconds, last.tokens - first.tokens
    return TrainResult(
        tokens=last.tokens,
        steps=last.step,
        loss=_recent_loss(last),
        seconds=last.seconds,
        tokens_per_s=tokens / seconds if seconds > 0 else 0.0,
        peak_bytes=_peak_bytes(torch.device("cuda" if torch.cuda.is_available() else "cpu")),
        resumed_from=resumed_from,
        incidents=tuple(asdict(incident) for incident in last.guard.incidents),
    )


def _random_states() -> dict[str, Any]:
    """The states of the random generators that a model or an objective may draw from."""
    states: dict[str, Any] = {"torch": _hex(torch.get_rng_state()), "python": random.getstate()}
    if torch.cuda.is_available():
        states["cuda"] = [_hex(state) for state in torch.cuda.get_rng_state_all()]
    return states


def _set_random_states(states: Mapping[str, Any]) -> None:
    torch.set_rng_state(_from_hex(states["torch"]))
    version, internal, gauss = states["python"]
    random.setstate((version, tuple(internal), gauss))
    if torch.cuda.is_available() and "cuda" in states:
        torch.cuda.set_rng_state_all([_from_hex(state) for state in states["cuda"]])


def _hex(state: Tensor) -> str:
    return state.numpy().tobytes().hex()


def _from_hex(text: str) -> Tensor:
    return torch.frombuffer(bytearray.fromhex(text), dtype=torch.uint8)
