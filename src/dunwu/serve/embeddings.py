"""`POST /v1/embeddings`: the mean of a text's final hidden states, of length 1."""

import base64

import numpy as np
import numpy.typing as npt

from dunwu.serve.errors import ApiError
from dunwu.serve.models import ServedModel
from dunwu.serve.objects import Embedding, Embeddings
from dunwu.serve.prompts import read_prompts
from dunwu.serve.schemas import EmbeddingRequest
from dunwu.serve.visit import Visit

MOST_TEXTS = 2048  # OpenAI's limit


async def embed(asked: EmbeddingRequest, model: ServedModel, visit: Visit) -> Embeddings:
    """Vectors in the order of the texts. Raises ApiError."""
    if asked.dimensions not in (None, model.hidden_size):
        raise ApiError(
            400,
            f"dimensions={asked.dimensions}: this model's vectors have {model.hidden_size} and cannot be cut; leave it out",
            param="dimensions",
            code="invalid_value",
        )
    start = asked.add_special_tokens is not False
    prompts = await read_prompts(asked.input, model, start=start, most=MOST_TEXTS, param="input")
    for prompt in prompts:
        if len(prompt.ids) > model.context_length:
            raise ApiError(
                400,
                f"this model reads {model.context_length} tokens at most, and a text takes {len(prompt.ids)}; shorten it",
                param="input",
                code="context_length_exceeded",
            )
    read = sum(len(prompt.ids) for prompt in prompts)
    visit.read(read, model=model.id)
    vectors = await model.embed([prompt.ids for prompt in prompts])
    data = [_embedding(place, vector, asked.encoding_format or "float") for place, vector in enumerate(vectors)]
    return {"object": "list", "data": data, "model": model.id, "usage": {"prompt_tokens": read, "total_tokens": read}}


def _embedding(place: int, vector: npt.NDArray[np.float32], form: str) -> Embedding:
    packed = base64.b64encode(vector.astype("<f4").tobytes()).decode() if form == "base64" else vector.tolist()
    return {"object": "embedding", "index": place, "embedding": packed}
