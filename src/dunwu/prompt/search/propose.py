"""Where candidates come from: instructions that a model proposes, and demonstrations that the model itself answered right.

After MIPRO and DSPy's bootstrapping (Opsahl-Ong et al. 2024, arXiv:2406.11695; Khattab et al. 2023, arXiv:2310.03714), made small:
no surrogate model chooses what is tried next.
"""

import random
from collections.abc import Sequence
from dataclasses import replace

from dunwu.chat.options import ChatOptions
from dunwu.chat.protocol import Chat
from dunwu.core.problems import Problem
from dunwu.prompt.search.candidate import Candidate
from dunwu.prompt.strategies.base import derived_seed, user
from dunwu.prompt.strategies.wording import filled, words_for

SHOWN = 5  # examples that a proposer sees
MOST_CHARACTERS = 1000
PROPOSAL_TOKENS = 200
TIPS = (
    "",
    "Be short and clear.",
    "Describe the form of the answer exactly.",
    "Say which mistakes to avoid.",
    "Let the answer be reasoned step by step before it is given.",
    "Think of an expert in this field, and address the reader as one.",
)


def propose(chat: Chat, examples: Sequence[Problem], *, count: int, seed: int, temperature: float = 0.9) -> list[str]:
    """Up to `count` different instructions; each proposal sees other examples and another tip."""
    if count == 0:
        return []
    rng = random.Random(f"propose {seed}")
    conversations, options = [], []
    for number in range(count):
        shown = rng.sample(list(examples), min(SHOWN, len(examples)))
        words = words_for(shown[0].input)
        written = "\n\n".join(f"{one.input}\n→ {one.target}" for one in shown)
        tip = TIPS[number % len(TIPS)]
        conversations.append([user(filled(words.propose, examples=written, tip=tip))])
        options.append(
            ChatOptions(max_tokens=PROPOSAL_TOKENS, temperature=temperature, seed=derived_seed(seed, "propose", number))
        )
    told = chat.reply_each(conversations, options)
    said = [one.text.strip().strip('"').strip()[:MOST_CHARACTERS] for one in told]
    return list(dict.fromkeys(text for text in said if text))


def bootstrapped(
    problems: Sequence[Problem], texts: Sequence[str], scores: Sequence[float], *, at_least: float
) -> list[Problem]:
    """Problems that were answered well, with what was said as their target: an answer in the model's own words."""
    return [
        replace(one, target=text.strip())
        for one, text, score in zip(problems, texts, scores, strict=True)
        if score >= at_least and text.strip()
    ]


def shot_sets(
    own: Sequence[Problem], given: Sequence[Problem], *, k: int, count: int, seed: int
) -> list[tuple[Problem, ...]]:
    """Up to `count` different sets of up to `k`, by turns of the model's own answers and of the answers that were given."""
    rng = random.Random(f"shots {seed}")
    pools = [pool for pool in (own, given) if pool]
    if k == 0 or not pools:
        return []
    sets = [
        tuple(rng.sample(list(pool), min(k, len(pool))))
        for number in range(count)
        for pool in (pools[number % len(pools)],)
    ]
    by_name = {tuple((one.id, one.target) for one in shots): shots for shots in sets}
    return list(by_name.values())


def candidates(
    instructions: Sequence[str], shots: Sequence[tuple[Problem, ...]], *, most: int, seed: int
) -> list[Candidate]:
    """The plain one first, then up to `most` of all others that instructions and demonstrations make together, at random."""
    pairs = [(text, chosen) for text in ("", *instructions) for chosen in ((), *shots)][1:]
    drawn = random.Random(f"candidates {seed}").sample(pairs, min(most, len(pairs)))
    return [Candidate(), *(Candidate(instruction=text, shots=chosen) for text, chosen in drawn)]
