"""The parity gate: whether an exported model says the same, token for token, in the engines that will run it.

Four questions, each with its figures and the first example of a difference: ids of hard texts, conversations in the chat
template (as text and as ids), logits over fixed rows, and 64 greedy tokens from several prompts. Ids and templates must be
equal. Of the rest, what must be equal depends on whether the export kept every bit of the weights: see `Bounds`.

Shapes: `T` time, `V` vocabulary.
"""

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from dunwu.core.errors import DataError
from dunwu.core.records import Message
from dunwu.evaluate.peers import Logits, OwnPeer, Peer

GREEDY_TOKENS = 64
ROW_TOKENS = 48
SHOWN = 60  # characters of an example

_CHINESE = "顿悟，是忽然明白的意思。他说：“我明白了！”"
_CODE = "def add(a, b):\n    return a + b  # sum\n\n\nif __name__ == '__main__':\n\tprint(add(1, 23))\n"
_LONG = "The quick brown fox jumps over the lazy dog. 敏捷的棕色狐狸跳过懒狗。 " * 100

HARD_TEXTS: tuple[str, ...] = (
    "", " ", "  ", "\n", "\n\n\n", "\t\tx", "a\r\nb\r\n\r\nc", "   leading and trailing   ", "    return x\n\n\n    y",
    "Hello, world! It's 1984, isn't it? We'LL see; they'Ve 'been.", "hello world", "HelloWorld camelCase snake_case kebab-case",
    "0", "1234567890", "3.14159 1,000,000 1e-5 0xFF ½ Ⅷ １２３", "二〇二四年十二月三十一日", "price: $9.99 €5 ¥100 50%",
    _CHINESE, "用Python写code，我们（不）是“人”。", "我 们  他", "，我们。他", "繁體中文與简体中文", "龘𠀀𪚥㐀",
    "日本語のテキスト、カタカナ・ひらがなー々。", "한국어 텍스트입니다.", "Привет, мир! Ça va très bien; straße, œuvre.",
    "שלום עולם", "مرحبا بالعالم ١٢٣", "\u202eright to left\u202c", "สวัสดีครับ", "नमस्ते दुनिया", "Tiếng Việt có dấu",
    "cafe\u0301 e\u0302\u0323 n\u0303", "\u00e9\u00e9", "ﬁ ﬂ № ™ ａｂｃ", "Å Å Ω Ω",
    "🙂", "🙂🙃 🚀x", "👩‍👩‍👧‍👦 👍🏽 🇨🇳", "❤️ ☃ ♥",
    "<|endoftext|>", "<|im_start|>user\nhi<|im_end|>", "text</s><s>[INST] <bos> <eos> <unk> <pad>", "a<|endoftext|>b",
    _CODE,
    '{"key": [1, 2.5, null], "url": "https://example.com/a?b=c&d=%20"}', "<div class=\"x\">&amp;</div>", "$$\\int_0^1 x^2\\,dx$$",
    "foo(bar)[0].baz->qux::quux", "!@#$%^&*()_+-=[]{}|;':\",./<>?`~", "...!!!???——……", "=" * 80, "-" * 33 + "|", " " * 100 + "x",
    "x" + "\n" * 40 + "y", "a" * 60, "哈" * 60, "ab" * 50, "\u00a0nbsp\u3000wide\u2028line\u200bzero\ufeff",
    _LONG,
)  # fmt: skip
"""Emoji, scripts, whitespace, digits, marks, names of special tokens, code, runs, the empty text and a long one."""

CONVERSATIONS: tuple[tuple[tuple[str, str], ...], ...] = (
    (("user", "Hello!"),),
    (("user", "  What is 12 + 30?\n\n"),),
    (("system", "Be brief. 请简短。"), ("user", "你好，介绍一下自己。🙂")),
    (("user", "a"), ("assistant", "b"), ("user", "c")),
    (("system", "s"), ("user", "Write code:\n```python\nx = {'a': 1}\n```"), ("assistant", "  Done.\n"), ("user", "再来 <b>一次</b> & \"more\"")),
    (("user", "one"), ("assistant", "two"), ("user", "three"), ("assistant", "four"), ("user", "five")),
)  # fmt: skip

PROMPTS: tuple[str, ...] = ("Once upon a time", "The meaning of the word is", "从前，有一个人", "def main():\n    ")


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """What may differ. `logits`: the largest difference as a share of the largest logit, in an export of the same bits, whose
    greedy tokens must agree too, near ties apart. `kl`: the mean divergence of the next token, nats, in one of fewer bits,
    whose greedy tokens are reported and not judged."""

    logits: float | None = None
    kl: float | None = None


EXACT = Bounds(logits=1e-3)
"""Engines in float32 that add in another order."""
BOUNDS: Mapping[str, Bounds] = {
    "f32": Bounds(logits=5e-3), "f16": Bounds(kl=0.02), "bf16": Bounds(kl=0.05), "q8_0": Bounds(kl=0.05),
    "q6_k": Bounds(kl=0.1), **dict.fromkeys(("q5_1", "q5_0", "q5_k_m", "q5_k_s"), Bounds(kl=0.5)),
    **dict.fromkeys(("q4_1", "q4_0", "q4_k_m", "q4_k_s", "iq4_xs", "iq4_nl"), Bounds(kl=1.0)),
    **dict.fromkeys(("q3_k_l", "q3_k_m", "q3_k_s", "q2_k"), Bounds(kl=2.0)),
}  # fmt: skip
"""By the type of the matrices; llama.cpp looks GELU up in a table of float16 even where these are float32. Rounding alone stays far below; what is beyond is a mistake, or a model that cannot bear it."""


@dataclass(frozen=True, kw_only=True)
class Answers:
    """What one engine says to all questions."""

    name: str
    version: str
    ids: Sequence[list[int]]
    chats: Sequence[tuple[str | None, str | None]]
    chat_ids: Sequence[list[int] | None]
    logits: Sequence[Logits]
    greedy: Sequence[list[int]]


@dataclass(frozen=True, kw_only=True)
class Questions:
    """The rows and prompts that all engines get: ids of ours, so that a difference of tokenizers does not spread."""

    rows: Sequence[Sequence[int]]
    prompts: Sequence[Sequence[int]]
    count: int
    vocab_size: int


@dataclass(kw_only=True)
class Comparison:
    """How a peer differs from us. `figures` go into `dunwu.json`; `problems` are differences that count, in words; `notes` do not."""

    peer: str
    version: str
    figures: dict[str, Any] = field(default_factory=dict[str, Any])
    problems: list[str] = field(default_factory=list[str])
    notes: list[str] = field(default_factory=list[str])

    @property
    def passed(self) -> bool:
        """Whether nothing differs that must not."""
        return not self.problems

    @property
    def verdict(self) -> str | None:
        """Of an export that keeps fewer bits and passes: by how much, and whether its greedy text is another."""
        limit = self.figures["logits"].get("kl_limit") if self.passed and self.figures else None
        if limit is None:
            return None
        greedy = self.figures["greedy"]
        changed = greedy["n"] - greedy["equal"]
        return (
            f"passes as a rounded copy (divergence {self.figures['logits']['mean_kl_nats']:.2g} nats, limit {limit:g}), "
            + (
                f"but the greedy text changes in {changed} of {greedy['n']}"
                if changed
                else "and the greedy text is the same"
            )
        )

    def record(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "version": self.version,
            "passed": self.passed,
            **self.figures,
            "problems": self.problems,
            "notes": self.notes,
        }


def ask(own: OwnPeer) -> Questions:
    """Rows and prompts for this model: texts and, where it chats, a conversation, cut to what its context holds."""
    context = own.context_length
    start = list(own.tokenizer.start_ids)
    texts = [start + own.encode(text) for text in (_LONG, _CHINESE * 4, _CODE)]
    spread = np.random.default_rng(0).integers(0, own.vocab_size, ROW_TOKENS).tolist()
    rows = [row[: min(ROW_TOKENS, context)] for row in (*texts, spread) if row]
    count = min(GREEDY_TOKENS, max(1, context // 2))
    prompts = [start + own.encode(text) for text in PROMPTS]
    chat = own.encode_chat(_messages(CONVERSATIONS[0]))
    kept = [prompt for prompt in (*prompts, *([chat] if chat else [])) if 0 < len(prompt) <= context - count]
    return Questions(rows=rows, prompts=kept, count=count, vocab_size=own.vocab_size)


def answers(peer: Peer, questions: Questions) -> Answers:
    """Ask one engine everything."""
    conversations = [_messages(one) for one in CONVERSATIONS]
    return Answers(
        name=peer.name,
        version=peer.version,
        ids=[peer.encode(text) for text in HARD_TEXTS],
        chats=[
            (peer.render(one, add_generation_prompt=False), peer.render(one, add_generation_prompt=True))
            for one in conversations
        ],
        chat_ids=[peer.encode_chat(one) for one in conversations],
        logits=[peer.logits(row)[:, : questions.vocab_size] for row in questions.rows],
        greedy=[peer.greedy(prompt, questions.count) for prompt in questions.prompts],
    )


def compare(own: OwnPeer, ours: Answers, peer: Peer, questions: Questions, bounds: Bounds) -> Comparison:
    """Hold a peer's answers against ours."""
    try:
        theirs = answers(peer, questions)
    except Exception as error:  # an engine's own, of any kind
        return broken(peer.name, peer.version, error)
    result = Comparison(peer=peer.name, version=peer.version, notes=[*peer.notes])
    _compare_ids(result, ours, theirs, peer)
    _compare_chats(result, ours, theirs)
    tolerance = _compare_logits(result, ours, theirs, bounds)
    _compare_greedy(result, own, ours, theirs, questions, bounds, tolerance)
    return result


def broken(name: str, version: str, error: Exception, renamed: Mapping[str, str] | None = None) -> Comparison:
    """The outcome where an engine does not load or run the export at all. `renamed`: what its message calls otherwise."""
    said = str(error)
    for before, after in (renamed or {}).items():
        said = said.replace(before, after)
    lines = said.strip().splitlines()
    said = f"{type(error).__name__}: {lines[0][:400]}" if lines else type(error).__name__
    return Comparison(peer=name, version=version, problems=[f"{name} fails on the export: {said}"])


def _messages(rows: Sequence[tuple[str, str]]) -> list[Message]:
    return [Message(role=role, content=content) for role, content in rows]  # pyright: ignore[reportArgumentType]


def _compare_ids(result: Comparison, ours: Answers, theirs: Answers, peer: Peer) -> None:
    differing = [place for place in range(len(HARD_TEXTS)) if ours.ids[place] != theirs.ids[place]]
    unnormalised = [place for place in differing if _only_normal_form(HARD_TEXTS[place], ours.ids[place], peer)]
    counted = [place for place in differing if place not in unnormalised]
    result.figures["token_ids"] = {
        "n": len(HARD_TEXTS),
        "differ": len(counted),
        "differ_for_want_of_nfc": len(unnormalised),
    }
    if unnormalised:
        result.notes.append(
            f"{peer.name} does not bring text to Unicode's normal form NFC as this model's tokenizer does: "
            f"{_shown(HARD_TEXTS[unnormalised[0]])} gets other ids there; normalise what you send"
        )
    if counted:
        text = HARD_TEXTS[counted[0]]
        mine, other = ours.ids[counted[0]], theirs.ids[counted[0]]
        at = _first_difference(mine, other)
        result.problems.append(
            f"ids of {len(counted)} of {len(HARD_TEXTS)} texts differ; first {_shown(text)}: from token {at + 1} on "
            f"{mine[at : at + 4]} here, {other[at : at + 4]} in {peer.name}"
        )


def _only_normal_form(text: str, ours: list[int], peer: Peer) -> bool:
    normal = unicodedata.normalize("NFC", text)
    return normal != text and peer.encode(normal) == ours


def _compare_chats(result: Comparison, ours: Answers, theirs: Answers) -> None:
    texts = [
        (mine, other) for pair in zip(ours.chats, theirs.chats, strict=True) for mine, other in zip(*pair, strict=True)
    ]
    differing = [(mine, other) for mine, other in texts if mine != other]
    ids = list(zip(ours.chat_ids, theirs.chat_ids, strict=True))
    differing_ids = [(mine, other) for mine, other in ids if mine != other]
    has_template = any(mine is not None for mine, _ in texts)
    result.figures["chat_template"] = {"n": len(texts) if has_template else 0, "differ": len(differing)}
    result.figures["chat_ids"] = {"n": len(ids) if has_template else 0, "differ": len(differing_ids)}
    if differing:
        mine, other = differing[0]
        at = _first_difference(mine or "", other or "")
        start = max(0, at - 10)
        result.problems.append(
            f"the chat template gives other text in {len(differing)} of {len(texts)} cases; first, from character {at + 1}: "
            f"{_shown((mine or '')[start:])} here, {_shown((other or '')[start:])} in {theirs.name}"
        )
    elif differing_ids:
        mine, other = (side or [] for side in differing_ids[0])
        at = _first_difference(mine, other)
        result.problems.append(
            f"ids of {len(differing_ids)} of {len(ids)} conversations differ, though their text is the same; first from token "
            f"{at + 1}: {mine[at : at + 4]} here, {other[at : at + 4]} in {theirs.name}"
        )


def _compare_logits(result: Comparison, ours: Answers, theirs: Answers, bounds: Bounds) -> float:
    """Returns the difference of two logits below which their order may be chance."""
    if any(not np.isfinite(one).all() for one in theirs.logits):
        result.problems.append(f"{theirs.name} gives logits that are not finite")
    worst = max(float(np.abs(mine - other).max()) for mine, other in zip(ours.logits, theirs.logits, strict=True))
    largest = max(float(np.abs(mine).max()) for mine in ours.logits)
    mine_TV, other_TV = np.concatenate(ours.logits), np.concatenate(theirs.logits)
    kl_T = _divergence(mine_TV, other_TV)
    agreement = float((mine_TV.argmax(-1) == other_TV.argmax(-1)).mean())
    result.figures["logits"] = {
        "n": len(kl_T),
        "max_abs_difference": worst,
        "max_abs_logit": largest,
        "mean_kl_nats": float(kl_T.mean()),
        "top1_agreement": agreement,
        **({} if bounds.kl is None else {"kl_limit": bounds.kl}),
    }
    limit = None if bounds.logits is None else bounds.logits * max(1.0, largest)
    if limit is not None and not worst <= limit:
        result.problems.append(
            f"logits differ by up to {worst:.2g}, allowed {limit:.2g} (the largest logit is {largest:.3g})"
        )
    if bounds.kl is not None and not kl_T.mean() <= bounds.kl:
        result.problems.append(
            f"the next token's distribution diverges by {kl_T.mean():.3g} nats on average, allowed {bounds.kl:g}; "
            f"the likeliest token agrees at {agreement:.0%} of {len(kl_T)} places"
        )
    return 2 * (limit if limit is not None else worst)


def _divergence(mine_TV: Logits, other_TV: Logits) -> npt.NDArray[np.float64]:
    """Kullback-Leibler divergence from ours to theirs, nats, [T]."""
    mine, other = _log_softmax(mine_TV), _log_softmax(other_TV)
    return np.maximum((np.exp(mine) * (mine - other)).sum(-1), 0.0)


def _log_softmax(logits_TV: Logits) -> npt.NDArray[np.float64]:
    shifted = logits_TV.astype(np.float64) - logits_TV.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def _compare_greedy(
    result: Comparison,
    own: OwnPeer,
    ours: Answers,
    theirs: Answers,
    questions: Questions,
    bounds: Bounds,
    tolerance: float,
) -> None:
    equal, ties, lengths = 0, 0, []
    wrong: list[str] = []
    for prompt, mine, other in zip(questions.prompts, ours.greedy, theirs.greedy, strict=True):
        at = _first_difference(mine, other)
        lengths.append(at)
        if mine == other:
            equal += 1
        elif bounds.logits is not None and _gap(own, [*prompt, *mine[:at]], mine[at], other[at]) <= tolerance:
            ties += 1
        else:
            wrong.append(
                f"after {_shown(own.tokenizer.decode(prompt, skip_special=False))} greedy token {at + 1} is "
                f"{_shown(own.tokenizer.decode([mine[at]], skip_special=False))} here and "
                f"{_shown(own.tokenizer.decode([other[at]], skip_special=False))} in {theirs.name}"
            )
    n = len(questions.prompts)
    result.figures["greedy"] = {
        "n": n,
        "tokens": questions.count,
        "equal": equal,
        "near_ties": ties,
        "mean_equal_tokens": float(np.mean(lengths)) if lengths else None,
    }
    if bounds.logits is not None and wrong:
        tied = f" ({ties} more part at near ties, which do not count)" if ties else ""
        result.problems.append(f"{len(wrong)} of {n} greedy continuations differ{tied}; first: {wrong[0]}")
    elif ties:
        result.notes.append(
            f"{ties} of {n} greedy continuations part at tokens whose logits are equal within {tolerance:.1g}"
        )


def _gap(own: OwnPeer, ids: Sequence[int], mine: int, other: int) -> float:
    """How much likelier, as a difference of logits, we hold our token than theirs."""
    if not 0 <= other < own.vocab_size:
        raise DataError(f"the peer wrote the id {other}, outside a vocabulary of {own.vocab_size}")
    last_V = own.logits(ids)[-1]
    return float(last_V[mine] - last_V[other])


def _first_difference(one: Sequence[Any], other: Sequence[Any]) -> int:
    pairs = zip(one, other, strict=False)
    return next((place for place, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))


def _shown(text: str) -> str:
    return repr(text if len(text) <= SHOWN else text[:SHOWN] + "…")
