"""A reward model as a scorer: whole texts go through its own chat template, so that its vocabulary need not be the policy's."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from dunwu.align.answers import CHOSEN, Answer, Ids, Item
from dunwu.align.encode import encode_preference
from dunwu.align.reward.disk import load_reward_model, reward_folder
from dunwu.align.reward.items import UNLIMITED, read_at, shortened, turn_end
from dunwu.align.reward.model import Ensemble, RewardModel
from dunwu.align.reward.scoring import Scores, score_items
from dunwu.align.reward.steps import STEP_SEPARATOR, step_ends
from dunwu.core.errors import DataError
from dunwu.core.records import Message, Preference
from dunwu.corpus.json_rows import BadRow
from dunwu.evaluate.scorers.base import Case
from dunwu.tokenizer.like import TokenizerLike
from dunwu.tokenizer.load import load_tokenizer
from dunwu.tokenizer.template import encode_prompt

ROWS = 4


class RewardModelScorer:
    """Scores answers by a reward model, or by several of the same vocabulary, whose heads then make one ensemble.

    The answer is read as a whole turn, whether or not the policy ended it. An answer beyond the context loses its end, but
    for the token that ends the turn. Of a model that reads steps, lines, the score is that of the worst line.
    """

    def __init__(
        self,
        model: RewardModel | Sequence[RewardModel],
        tokenizer: TokenizerLike,
        *,
        name: str = "model",
        ensemble: Ensemble | None = None,
        rows: int = ROWS,
    ) -> None:
        self.models = (model,) if isinstance(model, RewardModel) else tuple(model)
        self.tokenizer, self._name, self._rows = tokenizer, name, rows
        self.ensemble = ensemble or self.models[0].ensemble
        if len({one.reads for one in self.models}) != 1:
            raise DataError("some of the reward models read whole answers and some steps; combine models of one kind")

    @classmethod
    def load(
        cls,
        folders: Path | Sequence[Path],
        *,
        name: str = "model",
        ensemble: Ensemble | None = None,
        device: torch.device | str = "cpu",
    ) -> "RewardModelScorer":
        """The scorer of a folder, or of several; a build's home stands for its reward model. Raises what reading them raises."""
        places = [reward_folder(one) for one in ((folders,) if isinstance(folders, Path) else folders)]
        models = [load_reward_model(folder, device=device) for folder in places]
        tokenizers = [load_tokenizer(folder) for folder in places]
        if any(one.vocab_size != tokenizers[0].vocab_size for one in tokenizers):
            raise DataError(
                f"the reward models in {', '.join(map(str, places))} have different vocabularies; make a scorer of each"
            )
        return cls(models, tokenizers[0], name=name, ensemble=ensemble)

    @property
    def name(self) -> str:
        return self._name

    @property
    def context_length(self) -> int:
        """Tokens of prompt and answer that are read at the most."""
        return min(model.config.max_position_embeddings for model in self.models)

    def __call__(self, cases: Sequence[Case]) -> list[float]:
        """A score each. Raises DataError where a prompt leaves no room for an answer, or the chat template refuses it."""
        if not cases:
            return []
        return self.ensemble(torch.from_numpy(self.members(cases)).double()).tolist()

    def members(self, cases: Sequence[Case]) -> Scores:
        """The scores of every head of every model, `[A, K]`. Raises as a call does."""
        answers: dict[bytes, list[tuple[int, Ids, Answer]]] = {}
        for number, case in enumerate(cases):
            prompt, answer = self._encoded(case)
            answers.setdefault(prompt.tobytes(), []).append((number, prompt, answer))
        items = [Item(group[0][1], tuple(answer for _, _, answer in group)) for group in answers.values()]
        scores = [np.concatenate(parts, -1) for parts in zip(*self._scored(items), strict=True)]
        found: dict[int, Scores] = {}
        for group, scores_NK in zip(answers.values(), scores, strict=True):
            ends = np.cumsum([int(answer.learned.sum()) for _, _, answer in group])
            parts = np.split(scores_NK, ends[:-1])
            found |= {number: part.min(0) for (number, _, _), part in zip(group, parts, strict=True)}
        return np.stack([found[number] for number in range(len(cases))])

    def _scored(self, items: Sequence[Item]) -> list[list[Scores]]:
        return [score_items(model, items, rows=self._rows) for model in self.models]

    def _encoded(self, case: Case) -> tuple[Ids, Answer]:
        """The ids of prompt and answer, read at the answer's end, or at the end of each of its lines."""
        text, calls = case.completion.text, case.completion.tool_calls
        by_step = self.models[0].reads == "steps" and not calls
        lines = [line.strip() for line in text.splitlines() if line.strip()] if by_step else []
        said = Message(role="assistant", content=STEP_SEPARATOR.join(lines) or text, tool_calls=calls)
        try:
            prompt, ids = self._ids(case, said)
            room = self.context_length - len(prompt)
            if room < 1:
                raise BadRow("has a prompt that is too long", f"{len(prompt)} tokens of {self.context_length} for all")
            ends = [end for end in step_ends(self.tokenizer, ids, lines) if end < room] if lines else []
        except (BadRow, DataError) as bad:
            raise DataError(f"the reward model {self._name!r} cannot score an answer to {_asked(case)}: {bad}") from bad
        if ends:
            return prompt, read_at(ids[: ends[-1] + 1], ends, CHOSEN)
        ids = shortened(ids, room)
        return prompt, read_at(ids, [len(ids) - 1], CHOSEN)

    def _ids(self, case: Case, said: Message) -> tuple[Ids, Ids]:
        """Of the prompt and of the answer. An empty answer, which many templates do not show, is the end of its turn alone."""
        if not said.content.strip() and not said.tool_calls:
            prompt = np.asarray(encode_prompt(self.tokenizer, case.prompt), np.int32)
            return prompt, np.array([turn_end(self.tokenizer)], np.int32)
        asked = Preference(prompt=case.prompt, chosen=(said,), rejected=None, source="")
        whole = encode_preference(self.tokenizer, asked, context_length=UNLIMITED)
        return whole.prompt, whole.answers[0].ids


def _asked(case: Case) -> str:
    return repr(case.prompt[-1].content[:60]) if case.prompt else "an empty prompt"
