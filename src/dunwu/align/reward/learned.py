"""What of a reward model a run learns, keeps in its checkpoints and leaves: all of it, or a delta on its decoder, and the heads."""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from dunwu.align.reward.disk import save_reward_model
from dunwu.align.reward.model import RewardModel
from dunwu.delta.base import Delta
from dunwu.train.learned import Deltas

_HEAD = "head."


class WholeRewardModel:
    """All of it that has `requires_grad`."""

    def __init__(self, model: RewardModel, *, pad_id: int) -> None:
        self._model, self._pad_id = model, pad_id

    def parameters(self) -> Mapping[str, nn.Parameter]:
        return {name: parameter for name, parameter in self._model.named_parameters() if parameter.requires_grad}

    def state(self) -> dict[str, Tensor]:
        return {name: tensor.detach() for name, tensor in self._model.state_dict().items()}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        self._model.load_state_dict(tensors)

    def save(self, folder: Path) -> None:
        save_reward_model(self._model, folder, pad_id=self._pad_id)


class RewardDeltas(Deltas):
    """A delta on the frozen decoder, and the heads, which learn at a tenth of its rate: that of tuning all weights."""

    def __init__(self, model: RewardModel, delta: Delta, *, name: str, base_name: str) -> None:
        super().__init__([delta], name=name, base_name=base_name)
        self._head = model.head

    def parameters(self) -> Mapping[str, nn.Parameter]:
        heads = {_HEAD + name: parameter for name, parameter in self._head.named_parameters()}
        return {**super().parameters(), **heads}

    def state(self) -> dict[str, Tensor]:
        heads = {_HEAD + name: tensor.detach() for name, tensor in self._head.state_dict().items()}
        return {**super().state(), **heads}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        heads = {name.removeprefix(_HEAD): tensor for name, tensor in tensors.items() if name.startswith(_HEAD)}
        self._head.load_state_dict(heads)
        super().load({name: tensor for name, tensor in tensors.items() if not name.startswith(_HEAD)})

    def lr_factors(self) -> dict[str, float]:
        return {**super().lr_factors(), **{_HEAD + name: 0.1 for name, _ in self._head.named_parameters()}}
