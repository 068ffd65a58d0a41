"""Rows of figures in, new findings out.

Nothing is remembered but the rows and what was told, and both follow from the rows: a run that was killed and goes on, whose
doctor reads again what `metrics.jsonl` holds, is judged as one that was not.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from dunwu.align.doctor.finding import DoctorConfig, Finding
from dunwu.align.doctor.history import History, Incident
from dunwu.align.doctor.registry import RULES, Rule
from dunwu.align.doctor.rules.not_finite import not_finite


class Doctor:
    """Looks at a run step by step. Each finding is told once, and again only when it becomes graver."""

    def __init__(self, config: DoctorConfig | None = None, rules: Sequence[Rule] = RULES) -> None:
        self.config, self.rules = config or DoctorConfig(), rules
        self.history = History()
        self.findings: list[Finding] = []

    def observe(self, row: Mapping[str, Any], step: int) -> list[Finding]:
        """What is new with this row."""
        if "incident" in row:
            self.history.incidents.append(Incident(step, str(row["incident"]), str(row.get("reason", ""))))
            return []
        wrong = self.history.add(row, step)
        found: list[Finding | None] = [not_finite(wrong, self.history)] if wrong else []
        if self.history.rollouts % self.config.judge_every_steps == 0:
            found += [rule(self.history, self.config) for rule in self.rules]
        fresh = [_told(one, step) for one in found if one is not None and self._is_news(one)]
        self.findings += fresh
        return fresh

    @classmethod
    def after(
        cls, rows: Iterable[Mapping[str, Any]], config: DoctorConfig | None = None, rules: Sequence[Rule] = RULES
    ) -> "Doctor":
        """A doctor who has seen these rows of `metrics.jsonl`."""
        doctor = cls(config, rules)
        for row in rows:
            doctor.observe(row, int(row["step"]))
        return doctor

    @property
    def lost(self) -> Finding | None:
        """Why the run should stop, if it should."""
        return next((finding for finding in self.findings if finding.severity == "lost"), None)

    def _is_news(self, finding: Finding) -> bool:
        return all(told.gravity < finding.gravity for told in self.findings if told.name == finding.name)


def _told(finding: Finding, step: int) -> Finding:
    """With what is said and advised as sentences."""
    return dataclasses.replace(finding, told=step, says=_sentence(finding.says), try_=_sentence(finding.try_))


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."
