"""What an experiment on grokking says: as words for a terminal, as facts, and as a page in English and Chinese."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from dunwu.lab.experiment import Experiment, Figure, Line, Table, Words
from dunwu.lab.grok.findings import FACTOR, Finding, findings_of
from dunwu.lab.grok.measures import Measures, expected_concentration
from dunwu.lab.grok.plan import DONE, Plan
from dunwu.lab.grok.run import Curves
from dunwu.lab.grok.tasks import Table as Sums

FEW = 6  # members that a figure can show one by one
STEPS: Words = ("step", "步")


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """All that a run gave. `measures`: of each member, None where they are not defined; empty where they were not taken."""

    plan: Plan
    table: Sums
    parameters: int
    curves: Curves
    measures: Sequence[Measures | None]
    seconds: float

    @property
    def findings(self) -> list[Finding]:
        """Of each member."""
        return findings_of(self.plan, self.curves, self.measures)

    @property
    def last_step(self) -> int:
        """Where the run ended."""
        return self.curves.looks[-1].step


def facts_of(outcome: Outcome) -> dict[str, Any]:
    """All numbers."""
    group = outcome.table.group
    return {
        "formula": outcome.table.formula,
        "plan": outcome.plan.record(),
        "rows": len(outcome.table),
        "parameters": outcome.parameters,
        "steps": outcome.last_step,
        "seconds": outcome.seconds,
        "steps_per_s": outcome.last_step / outcome.curves.seconds,
        "level": DONE,
        "group": None if group is None else group.name,
        "concentration_of_noise": None if group is None else expected_concentration(group),
        "members": [
            {
                **asdict(finding.member),
                "memorised_step": finding.memorised,
                "understood_step": finding.understood,
                "factor": finding.factor,
                "last_held_out_accuracy": finding.last_held_out,
                "moved_step": dict(finding.moved),
                "measures": None if own is None else asdict(own),
            }
            for finding, own in zip(outcome.findings, _padded(outcome), strict=True)
        ],
        "looks": [asdict(look) for look in outcome.curves.looks],
    }


def lines_of(outcome: Outcome) -> list[str]:
    """The findings, in English."""
    plan = outcome.plan
    head = (
        f"{outcome.table.formula}: {len(outcome.table):,} pairs, {outcome.parameters:,} parameters a network, "
        f"{plan.optimizer}, lr {plan.lr:g}; {outcome.last_step:,} steps of {len(plan.members)} networks in {outcome.seconds:.0f} s"
    )
    return [head, *(english for english, _ in _said(outcome))]


def experiment_of(outcome: Outcome) -> Experiment:
    """The whole experiment."""
    plan = outcome.plan
    formula = outcome.table.formula
    fractions = sorted({member.fraction for member in plan.members})
    return Experiment(
        name="grok",
        title=(f"Grokking: {formula}", f"顿悟：{formula}"),
        method=_method(outcome),
        n=f"{len(plan.members)} networks of {outcome.parameters:,} parameters, {len(outcome.table):,} pairs",
        seeds=sorted({member.seed for member in plan.members}),
        failure=(
            f"For a member with weight decay: held-out accuracy not above 99% by the end, or above it less than {FACTOR:g} times as many "
            "steps after the start as training accuracy. For the progress measures: none that moves before held-out accuracy does.",
            f"对有权重衰减的网络：到结束时留出准确率未超过 99%，或其步数不到训练准确率超过 99% 时步数的 {FACTOR:g} 倍。"
            "对进度度量：没有一个早于留出准确率变动。",
        ),
        findings=_said(outcome),
        figures=[
            _accuracy(outcome),
            _loss(outcome),
            *_progress(outcome),
            *([_sweep(outcome)] if len(fractions) > 1 else []),
        ],
        tables=[_members(outcome), *([_moves(outcome)] if any(f.moved for f in outcome.findings) else [])],
        facts=facts_of(outcome),
    )


def _said(outcome: Outcome) -> list[Words]:
    findings = outcome.findings
    return [
        *(_delay(finding) for finding in findings),
        *(_movement(finding) for finding in findings if len(finding.moved) > 2),
        *_undefined(outcome),
    ]


def _delay(finding: Finding) -> Words:
    member, last = finding.member, f"{100 * finding.last_held_out:.1f}%"
    if finding.memorised is None:
        return (
            f"{member.label}: had not memorised by the end; held out {last}",
            f"{_label(finding)}：到结束仍未记住；留出准确率 {last}",
        )
    if finding.understood is None:
        return (
            f"{member.label}: memorised by step {finding.memorised:,}, not understood by the end; held out {last}",
            f"{_label(finding)}：第 {finding.memorised:,} 步记住，到结束仍未顿悟；留出准确率 {last}",
        )
    return (
        f"{member.label}: memorised by step {finding.memorised:,}, understood by step {finding.understood:,}: "
        f"{finding.factor:.1f} times as many",
        f"{_label(finding)}：第 {finding.memorised:,} 步记住，第 {finding.understood:,} 步顿悟，为 {finding.factor:.1f} 倍",
    )


def _movement(finding: Finding) -> Words:
    moved = {name: "never" if step is None else f"{step:,}" for name, step in finding.moved.items()}
    return (
        f"{finding.member.label}: a tenth of the way: " + ", ".join(f"{name} {step}" for name, step in moved.items()),
        f"{_label(finding)}：走完十分之一：" + "，".join(f"{_CHINESE[name]} {step}" for name, step in moved.items()),
    )


_CHINESE = {
    "held-out accuracy": "留出准确率",
    "weight norm": "权重范数",
    "embedding concentration": "嵌入集中度",
    "logit concentration": "logit 集中度",
    "restricted loss": "限制损失",
    "excluded loss": "排除损失",
}


def _label(finding: Finding) -> str:
    member = finding.member
    return f"种子 {member.seed}，{100 * member.fraction:g}%，衰减 {member.weight_decay:g}"


def _undefined(outcome: Outcome) -> list[Words]:
    if outcome.table.group is not None:
        return []
    return [
        (
            f"{outcome.table.formula} is no product in a group: Fourier concentration, restricted and excluded loss are not defined for it",
            f"{outcome.table.formula} 不是群中的乘积：傅里叶集中度、限制损失与排除损失对它没有定义",
        )
    ]


def _method(outcome: Outcome) -> Words:
    plan, group = outcome.plan, outcome.table.group
    batch, layers = plan.batch, plan.depth
    english = (
        f"A decoder of {layers} layer{'s' if layers > 1 else ''}, width {plan.width}, {plan.heads} heads, starting at {plan.init_scale:g} times "
        f"the usual weights, reads “a b =” and learns to answer from {batch} pairs a step ({plan.optimizer}, lr {plan.lr:g}). All pairs are tried "
        "at steps that lie evenly on a log scale; a network has memorised, or understood, at the first of these after which its accuracy on "
        "training, or held-out, pairs is above 99%. A series has moved once it has gone, for good, a tenth of the way from its value when the "
        "network had memorised to its value when it had understood. After arXiv:2201.02177; progress measures after arXiv:2301.05217."
    )
    chinese = (
        f"一个 {layers} 层、宽度 {plan.width}、{plan.heads} 头的解码器，初始权重为通常的 {plan.init_scale:g} 倍，读入“a b =”，每步从 {batch} 对中学习"
        f"作答（{plan.optimizer}，学习率 {plan.lr:g}）。在对数刻度上等距的步数处测试所有数对；训练（留出）准确率首次超过 99% 时，视为记住（顿悟）。"
        "某一序列从“记住”时的值到“顿悟”时的值，走过十分之一且不再退回，视为已变动。依据 arXiv:2201.02177；进度度量依据 arXiv:2301.05217。"
    )
    if group is not None:
        noise = f"{100 * expected_concentration(group):.0f}%"
        english += f" Frequencies are those of {group.name}; the {group.keys} strongest of noise would hold {noise}."
        chinese += f" 频率取自群：{group.name}；噪声中最强的 {group.keys} 个约占 {noise}。"
    return english, chinese


def _accuracy(outcome: Outcome) -> Figure:
    return Figure(
        name="accuracy",
        title=("Accuracy on training and held-out pairs", "训练与留出数对的准确率"),
        x_label=STEPS,
        y_label=("accuracy", "准确率"),
        lines=_lines(outcome, "train", "held_out"),
        x_log=True,
        rules=[("y", DONE, "99%")],
    )


def _loss(outcome: Outcome) -> Figure:
    return Figure(
        name="loss",
        title=("Loss on training and held-out pairs", "训练与留出数对的损失"),
        x_label=STEPS,
        y_label=("nats", "纳特"),
        lines=_lines(outcome, "train_loss", "held_out_loss"),
        x_log=True,
        y_log=True,
    )


def _lines(outcome: Outcome, train: str, held_out: str) -> list[Line]:
    """A line a member, or where there are many, the mean of the seeds of each kind between the least and the greatest."""
    looks, members = outcome.curves.looks, outcome.plan.members
    steps = [look.step for look in looks]
    kinds: dict[str, list[int]] = {}
    for number, member in enumerate(members):
        name = member.label
        if len(members) > FEW:
            name = f"{100 * member.fraction:g}%, decay {member.weight_decay:g}"
        kinds.setdefault(name, []).append(number)
    lines = []
    for what, attribute in (("trained", train), ("held out", held_out)):
        for name, numbers in kinds.items():
            values = [[getattr(look, attribute)[number] for number in numbers] for look in looks]
            several = len(numbers) > 1
            lines.append(
                Line(
                    label=f"{what}: {name}",
                    x=steps,
                    y=[sum(own) / len(own) for own in values],
                    low=[min(own) for own in values] if several else None,
                    high=[max(own) for own in values] if several else None,
                    mark="dashed" if what == "trained" else "line",
                )
            )
    return lines


def _progress(outcome: Outcome) -> list[Figure]:
    steps = [look.step for look in outcome.curves.looks]
    norms = [
        Line(label=member.label, x=steps, y=[look.norm[number] for look in outcome.curves.looks])
        for number, member in enumerate(outcome.plan.members)
    ]
    norm = Figure(
        name="norm",
        title=("Length of all weights together", "全部权重的范数"),
        x_label=STEPS,
        y_label=("norm", "范数"),
        lines=norms,
        x_log=True,
    )
    measured = [(n, own) for n, own in enumerate(outcome.measures) if own is not None]
    if not measured:
        return [norm]
    members = outcome.plan.members
    concentrations = [
        line
        for number, own in measured
        for line in (
            Line(label=f"logits: {members[number].label}", x=own.steps, y=own.logits),
            Line(label=f"embedding: {members[number].label}", x=own.steps, y=own.embedding, mark="dashed"),
        )
    ]
    losses = [
        line
        for number, own in measured
        for line in (
            Line(label=f"restricted: {members[number].label}", x=own.steps, y=own.restricted_loss),
            Line(label=f"excluded: {members[number].label}", x=own.steps, y=own.excluded_loss, mark="dashed"),
        )
    ]
    return [
        Figure(
            name="concentration",
            title=("Share of energy in the strongest frequencies", "最强频率所占能量"),
            x_label=STEPS,
            y_label=("share", "占比"),
            lines=concentrations,
            x_log=True,
        ),
        Figure(
            name="restricted",
            title=(
                "Restricted loss (all pairs) and excluded loss (training pairs)",
                "限制损失（全部数对）与排除损失（训练数对）",
            ),
            x_label=STEPS,
            y_label=("nats", "纳特"),
            lines=losses,
            x_log=True,
            y_log=True,
        ),
        norm,
    ]


def _sweep(outcome: Outcome) -> Figure:
    """When members understood, by the fraction of the table; a gap where fewer than half of the seeds did."""
    groups: dict[float, dict[float, list[int | None]]] = {}
    for finding in outcome.findings:
        own = groups.setdefault(finding.member.weight_decay, {})
        own.setdefault(finding.member.fraction, []).append(finding.understood)
    return Figure(
        name="fractions",
        title=("Median step of understanding, by fraction of the table", "顿悟步数中位数与训练占比"),
        x_label=("fraction of the table trained on", "训练所用占比"),
        y_label=STEPS,
        lines=[
            Line(
                label=f"decay {decay:g}",
                x=sorted(own),
                y=[_median_step(own[fraction]) for fraction in sorted(own)],
                mark="both",
            )
            for decay, own in groups.items()
        ],
        y_log=True,
    )


def _median_step(steps: Sequence[int | None]) -> float:
    middle = median(float("inf") if step is None else step for step in steps)
    return middle if middle < float("inf") else float("nan")


def _members(outcome: Outcome) -> Table:
    return Table(
        name="members",
        title=("Networks", "各网络"),
        columns=["seed", "fraction", "weight decay", "memorised at step", "understood at step", "factor", "held out at the end", "keys"],
        rows=[
            [
                finding.member.seed,
                finding.member.fraction,
                finding.member.weight_decay,
                finding.memorised,
                finding.understood,
                None if finding.factor is None else round(finding.factor, 2),
                round(finding.last_held_out, 4),
                None if own is None else ", ".join(own.keys),
            ]
            for finding, own in zip(outcome.findings, _padded(outcome), strict=True)
        ],
    )  # fmt: skip


def _moves(outcome: Outcome) -> Table:
    names = list(next(finding.moved for finding in outcome.findings if finding.moved))
    return Table(
        name="movement",
        title=("Step at which each series had gone a tenth of its way", "各序列走过十分之一的步数"),
        columns=["network", *names],
        rows=[_moved_row(finding.member.label, finding.moved, names) for finding in outcome.findings if finding.moved],
    )


def _moved_row(label: str, moved: Mapping[str, int | None], names: Sequence[str]) -> list[str | int | None]:
    return [label, *(moved[name] for name in names)]


def _padded(outcome: Outcome) -> list[Measures | None]:
    return [*outcome.measures, *[None] * (len(outcome.plan.members) - len(outcome.measures))]
