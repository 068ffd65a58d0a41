"""What of a model a run learns: all of it, or deltas on a frozen base. The loop asks no more than this."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor, nn

from dunwu.core.errors import CheckpointError, ModelError
from dunwu.delta.base import Delta
from dunwu.delta.registry import trained
from dunwu.delta.storing import save_delta
from dunwu.model.decoder import Decoder
from dunwu.model.hub import model_state, save_model


class Learned(Protocol):
    """The parameters of a run, what a checkpoint keeps of them, and what a finished run leaves."""

    def parameters(self) -> Mapping[str, nn.Parameter]: ...

    def state(self) -> dict[str, Tensor]: ...

    def load(self, tensors: Mapping[str, Tensor]) -> None: ...

    def save(self, folder: Path) -> None: ...


class WholeModel:
    """All of the model that has `requires_grad`; saved as a Hugging Face directory."""

    def __init__(self, model: Decoder) -> None:
        self._model = model

    def parameters(self) -> Mapping[str, nn.Parameter]:
        return {name: parameter for name, parameter in self._model.named_parameters() if parameter.requires_grad}

    def state(self) -> dict[str, Tensor]:
        return model_state(self._model)

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        self._model.load_state_dict(tensors)

    def save(self, folder: Path) -> None:
        save_model(self._model, folder)


class Deltas:
    """What deltas learn on their frozen base, which no checkpoint repeats; each is saved in a folder of its own.

    `name`: of the folder; further ones have their number behind it. `base_name`: what others find the base by.
    """

    def __init__(self, deltas: Sequence[Delta[Any]], *, name: str = "adapter", base_name: str = "") -> None:
        self.deltas, self._name, self._base_name = tuple(deltas), name, base_name
        trained(self.deltas)  # there is something to learn

    def parameters(self) -> Mapping[str, nn.Parameter]:
        return trained(self.deltas)

    def state(self) -> dict[str, Tensor]:
        return {
            f"{number}.{name}": tensor
            for number, delta in enumerate(self.deltas)
            for name, tensor in delta.tensors().items()
        }

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        for number, delta in enumerate(self.deltas):
            start = f"{number}."
            own = {name.removeprefix(start): tensor for name, tensor in tensors.items() if name.startswith(start)}
            try:
                delta.load(own)
            except ModelError as error:
                raise CheckpointError(f"the checkpoint is of other deltas: {error}") from error

    def save(self, folder: Path) -> None:
        for number, delta in enumerate(self.deltas):
            save_delta(
                delta, folder / (self._name if number == 0 else f"{self._name}-{number}"), base_name=self._base_name
            )

    def lr_factors(self) -> dict[str, float]:
        """What the learning rate of each parameter is multiplied by."""
        return {
            name if number == 0 else f"{number}.{name}": delta.lr_factor(name)
            for number, delta in enumerate(self.deltas)
            for name in delta.trained()
        }
