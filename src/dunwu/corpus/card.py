"""The data card: what went in, what was kept, what was dropped by which rule, with samples of each."""

import html
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from dunwu.corpus import boilerplate, quality
from dunwu.corpus.work import SAMPLE_CHARS

_MARKUP = re.compile(r"[\\`*_\[\]|~]")  # what Markdown could take for its own
MAX_SAMPLES = 5
MAX_PROBLEMS = 50
MAX_PROBLEMS_OF_A_FILE = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class CorpusFacts:
    """What later stages and the report ask of a corpus; the rest is in `card.json`. Bytes are those of UTF-8 text."""

    train_documents: int
    train_bytes: int
    heldout_documents: int
    heldout_bytes: int
    bytes_by_language: dict[str, int]
    heldout_unit: str
    files: int
    dropped_documents: int
    seconds: float
    workers: int


@dataclass(slots=True)
class Tally:
    """Documents and bytes, with the first few samples."""

    documents: int = 0
    bytes: int = 0
    samples: list[dict[str, str]] = field(default_factory=list)

    def add(self, size: int, source: str = "", text: str = "") -> None:
        """Count one document, and keep its beginning while samples are wanted."""
        self.documents += 1
        self.bytes += size
        if source and len(self.samples) < MAX_SAMPLES:
            self.samples.append({"source": source, "text": text[:SAMPLE_CHARS]})

    @property
    def wants_sample(self) -> bool:
        """Whether another sample would be kept."""
        return len(self.samples) < MAX_SAMPLES


@dataclass(slots=True)
class SourceTally:
    """One source of the recipe."""

    name: str
    read: Tally = field(default_factory=Tally)
    kept: Tally = field(default_factory=Tally)
    dropped: dict[str, Tally] = field(default_factory=dict)
    refused_languages: Counter[str] = field(default_factory=Counter)  # documents that the language filter dropped
    skipped_files: Counter[str] = field(default_factory=Counter)

    def drop(self, rule: str, size: int, source: str, text: str) -> None:
        """Count a document dropped by `rule`."""
        self.dropped.setdefault(rule, Tally()).add(size, source, text)


@dataclass(slots=True)
class CardBuilder:
    """Everything counted along the way."""

    sources: list[SourceTally]
    languages: dict[str, Tally] = field(default_factory=dict)
    stripped: Counter[str] = field(default_factory=Counter)
    stripped_documents: Counter[str] = field(default_factory=Counter)
    redacted: Counter[str] = field(default_factory=Counter)
    paragraphs_cut: int = 0
    problems: list[dict[str, str]] = field(default_factory=list)
    problem_count: int = 0
    problem_files: Counter[str] = field(default_factory=Counter)
    lineage: list[dict[str, Any]] = field(default_factory=list)

    def problem(self, source: str, reason: str) -> None:
        """Count something unreadable; the first ones are named, a few of each file."""
        self.problem_count += 1
        file = source.rsplit(":", 1)[0]
        self.problem_files[file] += 1
        if len(self.problems) < MAX_PROBLEMS and self.problem_files[file] <= MAX_PROBLEMS_OF_A_FILE:
            self.problems.append({"source": source, "reason": reason})

    def dropped_by_rule(self) -> dict[str, Tally]:
        """Drops of all sources together."""
        total: dict[str, Tally] = {}
        for source in self.sources:
            for rule, tally in source.dropped.items():
                whole = total.setdefault(rule, Tally())
                whole.documents += tally.documents
                whole.bytes += tally.bytes
                whole.samples = (whole.samples + tally.samples)[:MAX_SAMPLES]
        return total

    def card(self, split: Mapping[str, Any], settings: Mapping[str, Any], facts: CorpusFacts) -> dict[str, Any]:
        """The card as it is written."""
        return {
            "facts": asdict(facts),
            "settings": dict(settings),
            "sources": [_source_card(source) for source in self.sources],
            "dropped": {rule: asdict(tally) for rule, tally in sorted(self.dropped_by_rule().items())},
            "rules": rule_table(),
            "boilerplate": {
                rule: {"documents": self.stripped_documents[rule], "characters": count}
                for rule, count in sorted(self.stripped.items())
            },
            "languages": {
                name: {"documents": t.documents, "bytes": t.bytes} for name, t in sorted(self.languages.items())
            },
            "redactions": dict(sorted(self.redacted.items())),
            "decontamination": {"paragraphs_cut": self.paragraphs_cut},
            "problems": {
                "count": self.problem_count,
                "by_file": dict(self.problem_files.most_common(MAX_PROBLEMS)),
                "first": self.problems,
            },
            "split": dict(split),
            "lineage": self.lineage,
        }


def _source_card(source: SourceTally) -> dict[str, Any]:
    return {
        "name": source.name,
        "read": {"documents": source.read.documents, "bytes": source.read.bytes},
        "kept": asdict(source.kept),
        "dropped": {rule: asdict(tally) for rule, tally in sorted(source.dropped.items())},
        "skipped_files": dict(sorted(source.skipped_files.items())),
    }


def rule_table() -> list[dict[str, str]]:
    """Every rule that may drop or strip text: its name, source and threshold."""
    rows = [{"name": rule.name, "source": rule.source, "threshold": rule.threshold} for rule in quality.RULES]
    rows += [
        {"name": rule.name, "source": rule.source, "threshold": "the lines are removed"} for rule in boilerplate.RULES
    ]
    return [*rows, *_OTHER_RULES]


# What drops a document for another reason than its own quality.
_OTHER_RULES = [
    {
        "name": "duplicate",
        "source": "SHA-256 of the normalised text",
        "threshold": "the same text as an earlier document",
    },
    {
        "name": "near_duplicate",
        "source": "MinHash and LSH, Broder 1997",
        "threshold": "as similar to an earlier document as corpus.near_threshold says",
    },
    {
        "name": "decontaminated",
        "source": "13-gram overlap, GPT-3 appendix C",
        "threshold": "holds questions or answers of an evaluation set",
    },
    {"name": "language_filter", "source": "corpus.language_filter", "threshold": "in none of the languages asked for"},
]


def card_markdown(card: Mapping[str, Any]) -> str:
    """The card as a Markdown page for people."""
    facts = card["facts"]
    lines = [
        "# Data card",
        "",
        f"Kept for training: {facts['train_documents']:,} documents, {facts['train_bytes']:,} bytes. "
        f"Held out: {facts['heldout_documents']:,} {facts['heldout_unit']}s, {facts['heldout_bytes']:,} bytes. "
        f"Dropped: {facts['dropped_documents']:,} documents. Files read: {facts['files']:,}.",
        "",
        *_table(
            ("Source", "Read", "Bytes", "Kept", "Bytes kept"),
            [
                (s["name"], s["read"]["documents"], s["read"]["bytes"], s["kept"]["documents"], s["kept"]["bytes"])
                for s in card["sources"]
            ],
        ),
        *_section(
            "Languages",
            ("Language", "Documents", "Bytes"),
            [(n, v["documents"], v["bytes"]) for n, v in card["languages"].items()],
        ),
        *_dropped_section(card),
        *_section(
            "Boilerplate removed",
            ("Rule", "Documents", "Characters"),
            [(name, value["documents"], value["characters"]) for name, value in card["boilerplate"].items()],
        ),
        *_section("Redacted", ("Kind", "Places"), list(card["redactions"].items())),
        *_section(
            "Could not be read", ("Where", "Why"), [(p["source"], p["reason"]) for p in card["problems"]["first"]]
        ),
        *_section(
            "Files of other kinds, not read",
            ("Source", "Extension", "Files"),
            [(s["name"], extension, n) for s in card["sources"] for extension, n in s["skipped_files"].items()],
        ),
        "## Held-out split",
        "",
        *[
            f"- {language}: {part['why']}; {part['heldout_units']} of {part['units']} {part['unit']}s held out."
            for language, part in card["split"]["languages"].items()
        ],
        *[f"- {note}" for note in card["split"].get("notes", [])],
        "",
    ]
    return "\n".join(lines)


def _dropped_section(card: Mapping[str, Any]) -> list[str]:
    meanings = {rule["name"]: f"{rule['threshold']} ({rule['source']})" for rule in card["rules"]}
    rows = [
        (rule, meanings.get(rule, ""), tally["documents"], tally["bytes"], _sample(tally["samples"]))
        for rule, tally in card["dropped"].items()
    ]
    return _section("Dropped", ("Rule", "Drops", "Documents", "Bytes", "For example"), rows)


def _sample(samples: list[dict[str, str]]) -> str:
    return f"{samples[0]['source']}: {samples[0]['text'][:80]}" if samples else ""


def _section(title: str, header: tuple[str, ...], rows: list[tuple[Any, ...]]) -> list[str]:
    return [f"## {title}", "", *_table(header, rows)] if rows else []


def _table(header: tuple[str, ...], rows: list[tuple[Any, ...]]) -> list[str]:
    lines = ["| " + " | ".join(header) + " |", "|" + " --- |" * len(header)]
    lines += ["| " + " | ".join(_cell(value) for value in row) + " |" for row in rows]
    return [*lines, ""]


def _cell(value: Any) -> str:
    if isinstance(value, int):
        return f"{value:,}"
    return _MARKUP.sub(r"\\\g<0>", html.escape(" ".join(str(value).split()), quote=False))
