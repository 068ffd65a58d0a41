"""Grokking on division mod 97 at 50%: the whole figure, timed, and the pace beside a plain PyTorch loop.

    python benchmarks/grok.py [--out FOLDER] [--pace-only]

The figure: three seeds with weight decay and one network without, trained together until all three have understood and a tenth
of steps longer, their progress measures, and the page. With --out it goes on where it was stopped, and counts the seconds of all
its pieces. The pace: networks' steps a second of these four together against the same network and batch as a plain module in a
process of its own, in turns. One JSON line a figure.
"""

import argparse
import itertools
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from common import Side, print_figure, serve_steps
from torch import Tensor, nn
from torch.nn import functional as F

from dunwu.cli.lab_grok import carried_out
from dunwu.core.devices import prepare_cpu
from dunwu.lab.experiment import write_experiment
from dunwu.lab.grok.plan import Plan, members_of
from dunwu.lab.grok.run import Run
from dunwu.lab.grok.telling import Outcome, experiment_of

PLAN = Plan(members=members_of(range(3), [0.5], [0.1], control=True))
ROUNDS, STEPS, WARMUP = 7, 60, 30


class Plain(nn.Module):
    """The same network as tutorials write it: three tokens, all places through all layers."""

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        width, self.heads = plan.width, plan.heads
        self.tokens, self.places = nn.Embedding(plan.modulus + 1, width), nn.Embedding(3, width)
        self.qkv, self.o = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width, bias=False)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.head = nn.Linear(width, plan.modulus, bias=False)

    def forward(self, ids_BT: Tensor) -> Tensor:
        """Logits of all places."""
        x_BTD = self.tokens(ids_BT) + self.places(torch.arange(ids_BT.shape[1]))
        q, k, v = (y.unflatten(-1, (self.heads, -1)).transpose(1, 2) for y in self.qkv(x_BTD).chunk(3, -1))
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)
        x_BTD = x_BTD + self.o(attended)
        x_BTD = x_BTD + self.down(F.relu(self.up(x_BTD)))
        return self.head(x_BTD)


def plain_step():
    """A step of one plain network."""
    torch.manual_seed(0)
    plan, table = PLAN, PLAN.table()
    model = Plain(plan)
    optimizer = torch.optim.AdamW(model.parameters(), lr=plan.lr, betas=(0.9, 0.98), weight_decay=0.1)
    a_R, b_R, c_R = (torch.from_numpy(column) for column in (table.a_R, table.b_R, table.c_R))
    train_R = torch.randperm(len(table))[: len(table) // 2]

    def step() -> None:
        rows_B = train_R[torch.randint(len(train_R), (plan.batch,))]
        ids_BT = torch.stack([a_R[rows_B], b_R[rows_B], torch.full((plan.batch,), plan.modulus)], 1)
        loss = F.cross_entropy(model(ids_BT)[:, -1], c_R[rows_B])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def our_step(members: int):
    """A step of so many of our networks together."""
    prepare_cpu()
    plan = Plan(members=PLAN.members[:members])
    run = Run(plan, Path(tempfile.gettempdir()))  # nothing is written before `train`
    steps = itertools.count(1)
    batches = (rows for start in itertools.count(0, 64) for rows in run.rows(start, start + 64))

    def step() -> None:
        run.step(next(steps), next(batches))

    return step


def pace() -> None:
    """Networks' steps a second, ours over the plain loop's."""
    names = {"plain": 1, "ours-4": 4, "ours-1": 1}
    sides = {name: Side(__file__, "--side", name) for name in names}
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(ROUNDS):
        for name, side in sides.items():
            seconds[name].append(sum(side.run(STEPS)["seconds"]) / STEPS / names[name])
    for side in sides.values():
        side.close()
    for name in ("ours-4", "ours-1"):
        ratios = [plain / ours for plain, ours in zip(seconds["plain"], seconds[name], strict=True)]
        facts = {f"{who}_network_steps_per_s": round(1 / min(seconds[who]), 1) for who in (name, "plain")}
        target = ">=1" if name == "ours-4" else "not set"
        print_figure(
            f"grok_network_steps_ratio_{names[name]}", ratios, target=target, peer_name="plain PyTorch loop", **facts
        )


def figure(folder: Path) -> None:
    """The whole of it, and what it shows."""
    outcome = carried_out(PLAN, folder / "run")
    began = time.perf_counter()
    write_experiment(experiment_of(outcome), folder)
    seconds = outcome.seconds + time.perf_counter() - began
    print_figure("grok_figure_s", [seconds], unit="s", target="<=600", steps=outcome.last_step)
    decayed = [finding for finding in outcome.findings if finding.member.weight_decay > 0]
    show("grok_memorised_step", [f.memorised for f in decayed], unit="steps", target="1e3 to 1e4")
    show("grok_understood_step", [f.understood for f in decayed], unit="steps", target="later")
    show("grok_factor", [f.factor for f in decayed], target=">=10")
    free = next(finding for finding in outcome.findings if finding.member.weight_decay == 0)
    show("grok_held_out_without_decay", [free.last_held_out], unit="accuracy", target="<0.99", memorised=free.memorised)
    leads(outcome)


def leads(outcome: Outcome) -> None:
    """How many times later than each measure held-out accuracy moved."""
    moved = [finding.moved for finding in outcome.findings if finding.moved]
    for name in moved[0] if moved else ():
        if name == "held-out accuracy":
            continue
        ratios = [own["held-out accuracy"] / own[name] if own[name] else None for own in moved]  # type: ignore[operator]
        show(
            f"grok_lead_of_{name.replace(' ', '_')}",
            ratios,
            target=">1" if "concentration" in name or "loss" in name else "not set",
            moved=[own[name] for own in moved],
            held_out_moved=[own["held-out accuracy"] for own in moved],
        )


def show(name: str, values: Sequence[float | None], *, target: str, unit: str = "x", **facts: Any) -> None:
    """A figure; where it did not happen for some, how many."""
    known = [value for value in values if value is not None]
    if known:
        missing = {"missing": len(values) - len(known)} if len(known) < len(values) else {}
        print_figure(name, known, unit=unit, target=target, each=[round(v, 3) for v in known], **missing, **facts)


def main() -> None:
    """See the top of the file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--pace-only", action="store_true")
    parser.add_argument("--side", choices=["plain", "ours-4", "ours-1"], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        name = arguments.side
        serve_steps(plain_step if name == "plain" else lambda: our_step(int(name[-1])), WARMUP)
        return
    pace()
    if arguments.pace_only:
        return
    prepare_cpu()
    if arguments.out is not None:
        figure(arguments.out)
        return
    with tempfile.TemporaryDirectory() as folder:
        figure(Path(folder))


if __name__ == "__main__":
    sys.exit(main())
