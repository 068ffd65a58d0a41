"""Our models in lm-evaluation-harness (the extra "lm-eval"), whose tasks run on them unchanged.

    python -m dunwu.evaluate.harness run --model dunwu --model_args path=HOME --tasks mmlu

is its own command with our model class known to it; a program calls `register()` and then `lm_eval.simple_evaluate`.
"""

import importlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from dunwu.chat.local_text import LocalText
from dunwu.core.errors import DunwuError, MissingExtraError, RecipeError

NAME = "dunwu"
MAX_TOKENS = 256  # what lm-evaluation-harness writes where a task says nothing


class Instance(Protocol):
    """What is needed of a request of lm-evaluation-harness."""

    @property
    def args(self) -> tuple[Any, ...]: ...


class Harness:
    """The three questions of lm-evaluation-harness, answered by a model on this machine.

    `path`: a model home, or any folder with a model that we read. What else lm-evaluation-harness says to every model class
    (`batch_size`, `device`, …) is taken and has no effect: batches are as large as memory allows. An argument that nobody knows
    is an error.
    """

    def __init__(self, path: str = "", **others: Any) -> None:
        super().__init__()
        unknown = sorted(set(others) - {"batch_size", "max_batch_size", "device", "dtype", "trust_remote_code"})
        if not path or unknown:
            wrong = f"model_args has {', '.join(unknown)}, which is not known" if unknown else "model_args lacks path"
            raise RecipeError(f"{wrong}; write --model_args path=FOLDER")
        self.text = LocalText.load(path)

    @property
    def tokenizer_name(self) -> str:
        return self.text.name

    def loglikelihood(self, requests: Sequence[Instance], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Of each (context, continuation), in nats, and whether it is what greedy decoding gives."""
        del disable_tqdm
        judged = self.text.likelihoods([(context, continuation) for context, continuation in _args(requests)])
        return [(one.logprob, one.greedy) for one in judged]

    def loglikelihood_rolling(self, requests: Sequence[Instance], disable_tqdm: bool = False) -> list[float]:
        """Of each whole text."""
        del disable_tqdm
        texts = [text for (text,) in _args(requests)]
        judged = iter(self.text.likelihoods([("", text) for text in texts if text]))
        return [next(judged).logprob if text else 0.0 for text in texts]

    def generate_until(self, requests: Sequence[Instance], disable_tqdm: bool = False) -> list[str]:
        """How each context goes on; a context too long to leave room for an answer loses its beginning."""
        del disable_tqdm
        written = [""] * len(requests)
        groups: dict[tuple[Any, ...], list[int]] = {}
        asked = [(context, _how(wishes)) for context, wishes in _args(requests)]
        for place, (_, how) in enumerate(asked):
            groups.setdefault(how, []).append(place)
        for (max_tokens, stop, temperature), places in groups.items():
            room = self.text.context_length - max_tokens
            if room <= 0:
                raise RecipeError(
                    f"max_gen_toks={max_tokens} leaves nothing of the {self.text.context_length} tokens that the model reads; "
                    "write --gen_kwargs max_gen_toks=… with less"
                )
            prompts = [self.text.prompt_ids(asked[place][0])[-room:] for place in places]
            answers = self.text.complete_ids(prompts, max_tokens=max_tokens, stop=stop, temperature=temperature, seed=0)
            for place, answer in zip(places, answers, strict=True):
                written[place] = answer.text
        return written

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """Raises RecipeError: text that somebody typed never becomes a control token here, so a rendered template would be read
        as plain words."""
        raise RecipeError(
            "--apply_chat_template is for models behind an endpoint; write `dunwu serve HOME`, and ask it with "
            "--model local-chat-completions --model_args base_url=http://127.0.0.1:8000/v1/chat/completions"
        )


def register() -> type[Any]:
    """Make `--model dunwu` known to lm-evaluation-harness; gives the model class. Raises MissingExtraError without the package."""
    model, registry = _library("lm_eval.api.model"), _library("lm_eval.api.registry")
    known = registry.model_registry
    if NAME in known:
        return known.get(NAME)
    made = type("DunwuLM", (Harness, model.LM), {"__doc__": Harness.__doc__})
    return registry.register_model(NAME)(made)


def main() -> None:
    """lm-evaluation-harness's own command, which knows our model class. What is wrong with us is one line, and exit code 2."""
    try:
        register()
        _library("lm_eval.__main__").cli_evaluate()
    except DunwuError as error:
        print(f"dunwu: {error}", file=sys.stderr)
        raise SystemExit(2) from None


def _args(requests: Sequence[Instance]) -> list[tuple[Any, ...]]:
    return [request.args for request in requests]


def _how(wishes: Mapping[str, Any]) -> tuple[int, tuple[str, ...], float]:
    """Most tokens, stop strings and temperature. A temperature without `do_sample` is not used, as in transformers."""
    until = wishes.get("until") or ()
    stop = (until,) if isinstance(until, str) else tuple(until)
    tokens = next(
        (wishes[key] for key in ("max_gen_toks", "max_new_tokens", "max_tokens") if key in wishes), MAX_TOKENS
    )
    temperature = float(wishes.get("temperature") or 0.0) if wishes.get("do_sample", True) else 0.0
    return int(tokens), tuple(one for one in stop if one), temperature


def _library(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise MissingExtraError("lm-eval", "lm-eval", "running lm-evaluation-harness's tasks") from error


if __name__ == "__main__":
    main()
