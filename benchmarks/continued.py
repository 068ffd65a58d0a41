"""What going on from a base gains on a domain and loses elsewhere: with and without added tokens, at several replay shares.

    python benchmarks/continued.py --minutes 60 --home builds/continued --markdown docs/continued.md

A base learns English books for two fifths of the time; every arm then goes on from it with Chinese novels. Arms differ in the
tokens added to the vocabulary and in the share of English replayed, and are equal in compute: the same FLOPs by the model's
structure, so an arm with added tokens, whose head is larger, learns somewhat fewer tokens, but far more text, since each of
its tokens holds more bytes. Text is measured in bits per byte on held-out sections, before and after, paired by section; the
English sections are those that were held out from the base, which is checked by their hash. One seed an arm: intervals are
over sections, not over seeds.

Every arm is a build of its own below `--home`: what is finished is kept, and the same command goes on.
"""

import argparse
import dataclasses
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dunwu.build.grow import grow_vocabulary, grown_config
from dunwu.build.home import Home
from dunwu.core import devices
from dunwu.core.files import sha256_file, write_text
from dunwu.core.progress import SilentProgress
from dunwu.core.units import format_bytes, format_count
from dunwu.corpus.store import read_documents
from dunwu.evaluate.forgetting import DOMAIN, GENERAL, Scorecard, ScorecardRow, read_scorecard
from dunwu.evaluate.heldout import choose_text
from dunwu.evaluate.likelihood import score_text
from dunwu.model.config import DecoderConfig
from dunwu.model.count import train_flops_per_token
from dunwu.model.hub import load_model
from dunwu.tokenizer.extend import read_extension
from dunwu.tokenizer.load import load_tokenizer

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
BASE_SHARE = 0.4  # of the time
TRAINING_SHARE = 0.75  # of an arm's time; the rest is reading, encoding and scoring
COMMON = ["evaluate.samples=0", "evaluate.baselines=false"]


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One way to go on."""

    added: int
    share: float
    rewarm: float

    @property
    def name(self) -> str:
        return f"added{self.added}-replay{round(100 * self.share)}-rewarm{self.rewarm:g}"


def main() -> None:
    options = _options()
    base = Home(options.home / "base")
    count = 2 * len(options.shares) + len(options.rewarm)
    _build(
        base,
        [*_folder("corpus", options.general), f"budget={60 * BASE_SHARE * options.minutes:.0f}s", *options.more_base],
    )
    arm_s = 60 * (1 - BASE_SHARE) * options.minutes / count
    done: list[tuple[Arm, Home]] = []
    for arm in _arms(options):
        home = Home(options.home / arm.name)
        _build(
            home, [f"base={base.folder}", *_folder("corpus", options.domain), *_arm_words(arm, base, arm_s, options)]
        )
        _require_same_heldout(base, home)
        done.append((arm, home))
        _print_figures(arm, home)
    started = _print_start(base, [home for arm, home in done if arm.added], options.heldout_bytes)
    table = _markdown(base, done, started, options)
    print(table, file=sys.stderr)
    if options.markdown:
        write_text(options.markdown, table)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60.0, help="for the base and all arms together")
    parser.add_argument("--home", type=Path, default=Path("builds/continued"), help="where the builds lie")
    parser.add_argument("--markdown", type=Path, help="write the table there")
    parser.add_argument("--general", type=Path, default=DATA / "en_classic_books")
    parser.add_argument("--domain", type=Path, default=DATA / "zh_classic_novels")
    parser.add_argument("--added", type=int, default=4000, help="tokens added, in the arms that add any")
    parser.add_argument("--shares", type=float, nargs="+", default=[0.0, 0.05, 0.2], help="of tokens replayed")
    parser.add_argument(
        "--rewarm", type=float, nargs="*", default=[], help="further peak rates, with tokens and 5% replay"
    )
    parser.add_argument("--heldout-bytes", type=int, default=400_000)
    parser.add_argument("--more-base", nargs="*", default=[], help="further settings of the base, key=value")
    parser.add_argument("--more", nargs="*", default=[], help="further settings of the arms, key=value")
    return parser.parse_args()


def _arms(options: argparse.Namespace) -> list[Arm]:
    usual = [Arm(added=added, share=share, rewarm=0.3) for added in (0, options.added) for share in options.shares]
    return [*usual, *(Arm(added=options.added, share=0.05, rewarm=rewarm) for rewarm in options.rewarm)]


def _folder(section: str, path: Path) -> list[str]:
    files = "['**/*.jsonl.gz', '**/*.txt.gz', '**/*.txt']"
    return [f"{section}.sources=[{{kind: folder, path: {json.dumps(str(path.resolve()))}, include: {files}}}]"]


def _arm_words(arm: Arm, base: Home, arm_s: float, options: argparse.Namespace) -> list[str]:
    """The overrides of an arm, its tokens such that all arms compute as much."""
    facts = base.current()["pretrain"].facts
    config, context = DecoderConfig(**facts["model"]), facts["context_length"]
    plain = train_flops_per_token(config, context)
    own = train_flops_per_token(grown_config(config, config.vocab_size + arm.added), context)
    tokens = max(4096, int(TRAINING_SHARE * arm_s * facts["tokens"] / facts["seconds"] * plain / own))
    return [
        *_folder("replay", options.general),
        f"replay.share={arm.share}",
        f"tokenizer.extend_by={arm.added}",
        f"pretrain.tokens={tokens}",
        f"pretrain.rewarm={arm.rewarm}",
        f"model.context_length={context}",
        f"evaluate.heldout_bytes={options.heldout_bytes}",
        *options.more,
    ]


def _build(home: Home, words: Sequence[str]) -> None:
    """Run `dunwu build` in a process of its own; its progress goes to standard error."""
    recipe = home.folder.parent / "empty.yaml"
    write_text(recipe, "corpus:\n  sources: []\n")
    command = [sys.executable, "-m", "dunwu", "build", str(recipe), f"name={home.folder.name}", f"out={home.folder}"]
    subprocess.run([*command, *COMMON, *words], check=True, stdout=sys.stderr)


def _require_same_heldout(base: Home, arm: Home) -> None:
    """The general text that forgetting is measured on must not have been learned by the base."""
    files = [
        home.folder_of(home.current()[stage]) / "heldout.jsonl.zst"
        for home, stage in ((base, "corpus"), (arm, "replay"))
    ]
    if sha256_file(files[0]) != sha256_file(files[1]):
        sys.exit(
            f"{files[0]} and {files[1]} differ: the base may have learned what it is asked; use one seed and one section"
        )


def _scorecard(home: Home) -> Scorecard:
    return read_scorecard(home.folder_of(home.current()["evaluate"]) / "scorecard.json")


def _rows(home: Home) -> dict[str, ScorecardRow]:
    return {row.figure: row for row in _scorecard(home).rows}


def _print(figure: str, **facts: Any) -> None:
    machine = f"{devices.cpu_name()}, {devices.available_cores()} threads"
    print(json.dumps({"figure": figure, **facts, "device": machine}), flush=True)


def _print_figures(arm: Arm, home: Home) -> None:
    facts = home.current()["pretrain"].facts
    for figure, row in _rows(home).items():
        _print(
            f"continued_{figure}_change",
            value=round(row.change.value, 4),
            unit="bits/byte",
            low=round(row.change.low, 4),
            high=round(row.change.high, 4),
            n=row.change.n,
            before=round(row.before.value, 4),
            after=round(row.after.value, 4),
            arm=dataclasses.asdict(arm),
            tokens=facts["tokens"],
            flops=home.current()["pretrain"].actual.flops,
        )


def _print_start(base: Home, extended: Sequence[Home], heldout_bytes: int) -> tuple[float, float] | None:
    """Bits per byte of the domain before any training: as the base cuts it, and with the added tokens' mean rows."""
    if not extended:
        return None
    home = extended[0]
    tokenizer = home.folder_of(home.current()["tokenizer"])
    extension = read_extension(tokenizer)
    assert extension is not None
    model = load_model(base.model, mapped=False)
    text = choose_text(read_documents(home.folder_of(home.current()["corpus"]), "heldout"), max_bytes=heldout_bytes)
    context = base.current()["pretrain"].facts["context_length"]
    values: list[float] = []
    for folder in (base.model, tokenizer):
        if folder == tokenizer:
            grow_vocabulary(model, first_id=extension.first_id, pieces=extension.pieces)
        found = score_text(model, load_tokenizer(folder), text, context_length=context, progress=SilentProgress())
        values.append(found.score.value)
    _print(
        "continued_start_bits_ratio",
        value=round(values[1] / values[0], 4),
        unit="x",
        before=round(values[0], 4),
        after=round(values[1], 4),
        n=text.documents,
    )
    return values[0], values[1]


def _markdown(
    base: Home, done: Sequence[tuple[Arm, Home]], started: tuple[float, float] | None, options: argparse.Namespace
) -> str:
    facts, tokenizer = (base.current()[stage].facts for stage in ("pretrain", "tokenizer"))
    lines = [
        f"A base of {format_count(facts['parameters'])} parameters learned {format_count(facts['tokens'])} tokens of `{options.general.name}` "
        f"({facts['epochs']:.2f} passes, {tokenizer['vocab_size']:,} ids) and went on with `{options.domain.name}`. All arms computed as much "
        f"({done[0][1].current()['pretrain'].actual.flops:.2e} FLOPs); an arm with added tokens reads more text for it.",
        "",
        "| added tokens | replay | peak rate | tokens | domain text read | bytes a token | domain: before → after | change [95%] | general: before → after | change [95%] |",
        "|---:|---:|---:|---:|---:|---:|---|---|---|---|",
    ]
    for arm, home in done:
        records, rows = home.current(), _rows(home)
        learned = records["pretrain"].facts
        size = records["tokenizer"].facts["bytes_per_token"]
        own = learned["tokens"] - learned["replayed_tokens"]
        cells = [
            f"{arm.added:,}",
            f"{arm.share:.0%}",
            f"{arm.rewarm:g}",
            format_count(learned["tokens"]),
            format_bytes(own * size),
            f"{size:.2f}",
        ]
        for figure in (DOMAIN, GENERAL):
            row = rows[figure]
            cells += [
                f"{row.before.value:.3f} → {row.after.value:.3f}",
                f"{row.change.value:+.3f} [{row.change.low:+.3f}, {row.change.high:+.3f}]",
            ]
        lines.append("| " + " | ".join(cells) + " |")
    sections = {figure: row.change.n for figure, row in _rows(done[0][1]).items()}
    lines += [
        "",
        f"Bits per byte, fewer is better; intervals over {sections[DOMAIN]} held-out sections of the domain and {sections[GENERAL]} of the general text, paired; one seed an arm.",
    ]
    if started is not None:
        lines.append(
            f"Before any training, the domain costs {started[0]:.3f} bits per byte as the base cuts it and {started[1]:.3f} with the added tokens, whose rows begin as the mean of their pieces'."
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
