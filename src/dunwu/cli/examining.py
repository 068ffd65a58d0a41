"""`dunwu doctor`."""

import json
from dataclasses import asdict
from pathlib import Path

from dunwu.align.doctor.finding import Finding
from dunwu.build.diagnosis import Diagnosis, diagnose
from dunwu.core.screen import harmless


def doctor(path: Path, *, as_json: bool) -> None:
    """Print what is found in the runs of a home, or in a file of metrics."""
    found = diagnose(path.expanduser())
    if as_json:
        print(json.dumps([asdict(one) for one in found], ensure_ascii=False))
        return
    print(harmless("\n".join([str(path), *(line for one in found for line in _lines(one))])))


def _lines(one: Diagnosis) -> list[str]:
    state = "" if one.done else ", not finished"
    verdict = "" if one.findings else ": nothing found"
    return [
        f"  {one.stage:<10} {one.steps:,} steps{state}{verdict}",
        *(line for f in one.findings for line in _told(f)),
    ]


def _told(finding: Finding) -> list[str]:
    return [
        f"    {finding.severity}: {finding.name}, since step {finding.step:,}",
        f"      {finding.says}",
        f"      → {finding.try_}",
    ]
