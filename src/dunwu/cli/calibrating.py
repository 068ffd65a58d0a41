"""`dunwu eval --calibrate`: choices judged against what the model says to questions without content."""

from collections.abc import Sequence
from typing import Literal

from dunwu.chat.text_model import TextModel
from dunwu.core.errors import RecipeError
from dunwu.core.problems import Problem
from dunwu.evaluate.solvers.base import Demonstrations, Response
from dunwu.evaluate.solvers.choice import ByLikelihood
from dunwu.evaluate.tasks.task import Task
from dunwu.prompt.calibration import CONTENT_FREE, CalibratedText, domain_texts, without_content

Calibration = Literal["none", "contextual", "domain"]


class CalibratedChoices:
    """`ByLikelihood` with calibrated choices. Each problem's questions without content have its words around them and its
    demonstrations before them; where these are the same for all problems, they are asked once."""

    def __init__(self, model: TextModel, demonstrations: Demonstrations, kind: Calibration, *, seed: int = 0) -> None:
        self.demonstrations, self.kind, self.seed = demonstrations, kind, seed
        self._neutral: dict[str, tuple[str, ...]] = {}
        self._solver = ByLikelihood(
            CalibratedText(model, lambda context: self._neutral.get(context, ())), demonstrations
        )

    def __call__(self, task: Task, problems: Sequence[Problem]) -> list[Response]:
        if task.spec.output != "choice" or task.spec.contexts:
            raise RecipeError(
                f"--calibrate compares choices after one question, and {task.name} has none such; leave it out for this task"
            )
        fillers = CONTENT_FREE if self.kind == "contextual" else self._domain(task)
        for problem in problems:
            shots = self.demonstrations(problem)
            plain = [task.pairs(without_content(problem, filler), shots)[0][0] for filler in fillers]
            self._neutral[task.pairs(problem, shots)[0][0]] = tuple(plain)
        return self._solver(task, problems)

    def _domain(self, task: Task) -> Sequence[str]:
        return domain_texts([one.input for one in task.problems()], seed=self.seed)
