"""A model small enough to learn by heart within a second."""

import numpy as np
import numpy.typing as npt
import torch

from dunwu.model.config import DecoderConfig
from dunwu.model.decoder import Decoder, new_decoder

torch.set_num_threads(1)

CONFIG = DecoderConfig(
    vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, head_dim=8, max_position_embeddings=128,
)  # fmt: skip


def memorise(ids_NL: npt.NDArray[np.int64], *, steps: int) -> Decoder:
    """A model that was shown these texts `steps` times."""
    model = new_decoder(CONFIG, seed=0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.0)
    ids = torch.from_numpy(ids_NL)
    for _ in range(steps):
        loss = torch.nn.functional.cross_entropy(model.logits(model(ids[:, :-1])).mT, ids[:, 1:])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model
