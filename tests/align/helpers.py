"""Made-up answers, a tiny model, and the plain way to read one answer by itself."""

import numpy as np
import torch

from dunwu.align.answers import CHOSEN, REJECTED, Answer, Item
from dunwu.core.preference import PreferenceSpec, preference_spec
from dunwu.model.config import DecoderConfig

CONFIG = DecoderConfig(
    vocab_size=61,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=8,
    max_position_embeddings=48,
    qk_norm="head",
)


def item(prompt, *answers, kinds=(CHOSEN, REJECTED)):
    """All of each answer counts."""
    made = [
        Answer(np.array(ids, np.int32), np.ones(len(ids), bool), kind)
        for ids, kind in zip(answers, kinds, strict=False)
    ]
    return Item(np.array(prompt, np.int32), tuple(made))


def items(count, seed=0):
    """Pairs of many lengths; every third begins alike on both sides, one chosen answer is the beginning of the other."""
    random = np.random.default_rng(seed)
    made = []
    for number in range(count):
        prompt, *answers = (random.integers(1, 60, random.integers(2, 12)) for _ in range(3))
        if number % 3 == 0:
            answers[1] = np.concatenate((answers[0][:1], answers[1]))
        if number == 1:
            answers[1] = np.concatenate((answers[0], answers[1]))
        made.append(item(prompt, *answers))
    return made


def plain_logprob(model, one, number):
    """The answer's log-probability from whole logits of the prompt and this answer alone."""
    answer = one.answers[number]
    ids = torch.tensor(np.concatenate((one.prompt, answer.ids)), dtype=torch.long)
    logprobs = model.logits(model(ids[None]))[0].log_softmax(-1)
    each = logprobs[:-1].gather(1, ids[1:, None])[:, 0][len(one.prompt) - 1 :]
    return each[torch.from_numpy(answer.learned)].sum()


def spec(method, **options) -> PreferenceSpec:
    return preference_spec({"method": method, **options})
