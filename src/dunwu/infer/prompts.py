"""What is said of a prompt while it is read: how likely each of its tokens was, or the whole as a vector.

Shapes: `T` tokens read of one text, `D` model width, `V` vocabulary.
"""

import torch
from torch import Tensor, nn

from dunwu.infer.choosing import Head
from dunwu.infer.events import EmbeddingEvent, Event, PromptToken
from dunwu.infer.sampling import token_logprobs
from dunwu.infer.scheduler import Work
from dunwu.infer.texts import Text, Texts

JUDGED_ROWS = 64
"""Prompt tokens whose logits exist at a time."""


@torch.inference_mode()
def judge(text: Text, work: Work, hidden_TD: Tensor, head: Head) -> None:
    """Log-probabilities of a prompt of which they were asked for."""
    group = text.group
    prompt, wanted = group.request.prompt_ids, group.params.prompt_logprobs
    assert wanted is not None
    last = min(work.start + work.count, len(prompt) - 1)
    for start in range(max(work.start, len(group.judged)), last, JUDGED_ROWS):
        end = min(start + JUDGED_ROWS, last)
        logits_TV = head(hidden_TD[start - work.start : end - work.start])
        for logprob, top in token_logprobs(logits_TV, prompt[start + 1 : end + 1], wanted):
            group.judged.append(PromptToken(logprob, tuple(top)))


def embed(text: Text, work: Work, hidden_TD: Tensor, texts: Texts, events: list[Event]) -> None:
    """The vector of the prompt: each token counts once, however often it was read."""
    group = text.group
    sum_D = hidden_TD[max(0, group.pooled_tokens - work.start) :].double().sum(0)
    group.pooled = sum_D if group.pooled is None else group.pooled + sum_D
    group.pooled_tokens = max(work.start + work.count, group.pooled_tokens)
    if not work.reaches_the_end:
        return
    vector_D = nn.functional.normalize(group.pooled, dim=0).float()
    if bool(vector_D.isfinite().all()):
        events.append(EmbeddingEvent(id=group.request.id, vector=tuple(vector_D.tolist())))
        texts.finish(text, "stop", events)
    else:
        texts.finish(text, "error", events, "the model's hidden states are not finite: its weights are damaged")
