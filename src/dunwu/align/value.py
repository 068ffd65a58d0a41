"""A value model: from the beginning of an answer on, the reward that is still to come, at every token.

Shapes: `B` rows, `T` time, `N` learned tokens, `D` model width.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from dunwu.core.errors import CheckpointError
from dunwu.corpus.stream import Batch
from dunwu.model.decoder import Decoder
from dunwu.model.hub import model_state

PREFIX = "value."


class ValueModel(nn.Module):
    """A decoder with a number at each token in the place of words.

    `weight_D` None: all values begin at 0. What a reward model's head says of a whole answer is where values of its beginnings
    may begin too (arXiv:2203.02155 section 3.5).
    """

    def __init__(self, decoder: Decoder, weight_D: Tensor | None = None, offset: float = 0.0) -> None:
        super().__init__()
        self.decoder = decoder
        like = decoder.model.embed_tokens.weight
        self.head = nn.Linear(decoder.config.hidden_size, 1, device=like.device, dtype=like.dtype)
        with torch.no_grad():
            self.head.weight.zero_() if weight_D is None else self.head.weight.copy_(weight_D.view(1, -1))
            self.head.bias.fill_(offset)

    def values(self, batch: Batch) -> Tensor:
        """What is expected before each learned token is chosen, `[N]`, float32."""
        hidden_BTD = self.decoder(
            ids_BT=batch.ids_BT,
            positions_BT=batch.positions_BT,
            document_BT=batch.document_BT,
            branch_BT=batch.branch_BT,
        )
        return self.head(hidden_BTD.flatten(0, 1).index_select(0, batch.annotations["at_N"]))[:, 0].float()

    def trained(self) -> dict[str, nn.Parameter]:
        """What learns: all but an output head of words, which nothing asks."""
        return {f"{PREFIX}{name}": p for name, p in self.named_parameters() if not name.startswith("decoder.lm_head.")}

    def tensors(self) -> dict[str, Tensor]:
        """For a checkpoint."""
        own = {f"{PREFIX}decoder.{name}": tensor for name, tensor in model_state(self.decoder).items()}
        return own | {f"{PREFIX}head.weight": self.head.weight.detach(), f"{PREFIX}head.bias": self.head.bias.detach()}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """What `tensors` gave."""
        own = {name.removeprefix(PREFIX): tensor for name, tensor in tensors.items() if name.startswith(PREFIX)}
        decoder = {name.removeprefix("decoder."): t for name, t in own.items() if name.startswith("decoder.")}
        if not decoder or "head.weight" not in own:
            raise CheckpointError("the checkpoint has no value model; it belongs to another method")
        self.decoder.load_state_dict(decoder)
        with torch.no_grad():
            self.head.weight.copy_(own["head.weight"])
            self.head.bias.copy_(own["head.bias"])
