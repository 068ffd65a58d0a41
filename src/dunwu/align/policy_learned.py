"""What a run of policy gradients learns, for the loop: the policy, a value model beside it, and the best that there was so far."""

from collections.abc import Callable, Mapping
from pathlib import Path

from torch import Tensor, nn

from dunwu.align.value import PREFIX, ValueModel
from dunwu.core.progress import Progress
from dunwu.model.hub import read_tensors, write_tensors
from dunwu.train.learned import Learned

KEPT = 2  # of the best ones: a checkpoint from before the newest may go on to want the one before


class PolicyLearned:
    """`policy` and, if any, `values`. `keep_best` puts the policy's weights aside in `folder`; a finished run leaves those of the
    step that `best_step` names then, and the last ones where it names none. `saved_step`: whose it left, None for the last."""

    def __init__(self, policy: Learned, values: ValueModel | None, folder: Path, progress: Progress) -> None:
        self._policy, self._values, self._folder, self._progress = policy, values, folder, progress
        self.best_step: Callable[[], int | None] = lambda: None
        self.saved_step: int | None = None

    def parameters(self) -> Mapping[str, nn.Parameter]:
        own = {} if self._values is None else self._values.trained()
        return {**self._policy.parameters(), **own}

    def state(self) -> dict[str, Tensor]:
        return {**self._policy.state(), **({} if self._values is None else self._values.tensors())}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        self._policy.load({name: tensor for name, tensor in tensors.items() if not name.startswith(PREFIX)})
        if self._values is not None:
            self._values.load(tensors)

    def save(self, folder: Path) -> None:
        if (step := self.best_step()) is not None:
            self._take_best(step)
        self._policy.save(folder)

    def keep_best(self, step: int) -> None:
        """Put the weights after `step` updates aside, whole or not at all."""
        self._folder.mkdir(parents=True, exist_ok=True)
        write_tensors(self._file(step), self._policy.state())
        for file in sorted(self._folder.glob("best-*.safetensors"))[:-KEPT]:
            file.unlink(missing_ok=True)

    def _take_best(self, step: int) -> None:
        file = self._file(step)
        if not file.is_file():
            self._progress.note(
                f"the weights of step {step:,}, which scored best, are gone; the last ones are kept instead"
            )
            return
        self._policy.load(read_tensors(file))
        self.saved_step = step

    def _file(self, step: int) -> Path:
        return self._folder / f"best-{step:08d}.safetensors"
