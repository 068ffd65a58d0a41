"""One model behind three engines: ours, transformers' and llama.cpp's. Each answers the same few questions.

Shapes: `T` time, `V` vocabulary.
"""

import gc
import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from dunwu import __version__
from dunwu.core.devices import pick_device
from dunwu.core.errors import DataError, MissingExtraError, ModelError
from dunwu.core.records import Message
from dunwu.infer.generate import Generator
from dunwu.model.gguf.said import listen
from dunwu.model.hub import load_model
from dunwu.tokenizer.load import load_tokenizer
from dunwu.tokenizer.template import encode_chat, render_chat

Logits = npt.NDArray[np.float32]
REFUSED = "the template refuses this conversation"
LLAMA_CONTEXT = 512
_PROBES = ("a", " a", "  a  b ", "a\nb\n", "Ⅷ ﬁ e\u0301", "用 Python 写", "\t\tx", "I'm 12,345")


class Peer(Protocol):
    """An engine with a model and its tokenizer. Where a model has no chat template, `render` and `encode_chat` give None."""

    name: str
    version: str
    notes: Sequence[str]  # what is particular about this engine's reading of this model

    def encode(self, text: str) -> list[int]:
        """Ids of plain text: nothing before or after, names of special tokens not parsed."""
        ...

    def render(self, messages: Sequence[Message], *, add_generation_prompt: bool) -> str | None:
        """The conversation in the model's template, or REFUSED."""
        ...

    def encode_chat(self, messages: Sequence[Message]) -> list[int] | None:
        """The ids of the conversation with the prompt for an answer; None too where the template refuses it."""
        ...

    def logits(self, ids: Sequence[int]) -> Logits:
        """[T, V], float32."""
        ...

    def greedy(self, ids: Sequence[int], count: int) -> list[int]:
        """`count` likeliest tokens, one after another, whether or not one of them ends a text."""
        ...

    def close(self) -> None:
        """Give the memory back."""
        ...


class OwnPeer:
    """Our decoder and tokenizer, in float32."""

    name = "dunwu"
    notes: Sequence[str] = ()

    def __init__(self, folder: Path) -> None:
        self.version = __version__
        self.tokenizer = load_tokenizer(folder)
        model = load_model(folder, device=pick_device(), dtype=torch.float32).requires_grad_(False).eval()
        self.generator = Generator(model, self.tokenizer)
        self.vocab_size = min(model.config.vocab_size, self.tokenizer.vocab_size)

    @property
    def context_length(self) -> int:
        """Tokens that all engines read alike: LongRoPE, beyond its original context, is each engine's own affair."""
        scaling = self.generator.model.config.rope_scaling
        original = scaling.original_max_position_embeddings if scaling and scaling.kind == "longrope" else None
        return min(self.generator.context_length, original or self.generator.context_length)

    def encode(self, text: str) -> list[int]:
        return self.tokenizer.encode(text)

    def render(self, messages: Sequence[Message], *, add_generation_prompt: bool) -> str | None:
        if self.tokenizer.chat_template is None:
            return None
        try:
            return render_chat(self.tokenizer, messages, add_generation_prompt=add_generation_prompt)
        except DataError:
            return REFUSED

    def encode_chat(self, messages: Sequence[Message]) -> list[int] | None:
        if self.tokenizer.chat_template is None:
            return None
        try:
            return encode_chat(self.tokenizer, messages, add_generation_prompt=True).ids.tolist()
        except DataError:
            return None

    @torch.inference_mode()
    def logits(self, ids: Sequence[int]) -> Logits:
        model = self.generator.model
        ids_1T = torch.tensor([list(ids)], device=model.head_weight.device)
        return model.logits(model(ids_1T))[0].float().cpu().numpy()

    def greedy(self, ids: Sequence[int], count: int) -> list[int]:
        return list(self.generator.stream(ids, max_new_tokens=count, temperature=0.0, stop_ids=()))

    def close(self) -> None:
        del self.generator
        gc.collect()


class TransformersPeer:
    """What `AutoModelForCausalLM` and `AutoTokenizer` make of a folder, in float32. No code of the folder is run."""

    name = "transformers"

    def __init__(self, folder: Path, vocab_size: int) -> None:
        if importlib.util.find_spec("transformers") is None:
            raise MissingExtraError("transformers", "transformers", "comparing an export with transformers")
        import transformers

        transformers.utils.logging.set_verbosity_error()
        transformers.utils.logging.disable_progress_bar()
        self.version = transformers.__version__
        self._size = vocab_size
        self._tokenizer, self.notes = by_its_file(
            transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=False), folder
        )
        self._model: Any = transformers.AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, trust_remote_code=False, use_safetensors=True, local_files_only=True
        ).eval()

    def encode(self, text: str) -> list[int]:
        return plain_ids(self._tokenizer, text)

    def render(self, messages: Sequence[Message], *, add_generation_prompt: bool) -> str | None:
        if not self._tokenizer.chat_template:
            return None
        import jinja2

        try:
            return self._tokenizer.apply_chat_template(
                _rows(messages), tokenize=False, add_generation_prompt=add_generation_prompt
            )
        except jinja2.TemplateError:
            return REFUSED

    def encode_chat(self, messages: Sequence[Message]) -> list[int] | None:
        if self.render(messages, add_generation_prompt=True) in (None, REFUSED):
            return None
        return list(self._tokenizer.apply_chat_template(_rows(messages), add_generation_prompt=True, return_dict=False))

    @torch.inference_mode()
    def logits(self, ids: Sequence[int]) -> Logits:
        return self._model(torch.tensor([list(ids)])).logits[0].float().numpy()

    @torch.inference_mode()
    def greedy(self, ids: Sequence[int], count: int) -> list[int]:
        written: list[int] = []
        past, columns = None, torch.tensor([list(ids)])
        while len(written) < count:
            step = self._model(columns, past_key_values=past, use_cache=True)
            past = step.past_key_values
            written.append(int(step.logits[0, -1, : self._size].argmax()))
            columns = torch.tensor([written[-1:]])
        return written

    def close(self) -> None:
        del self._model
        gc.collect()


def by_its_file(tokenizer: Any, folder: Path) -> tuple[Any, Sequence[str]]:
    """The tokenizer that `tokenizer.json` describes, and a note where AutoTokenizer's is another.

    transformers 5 builds some classes (LlamaTokenizer, T5Tokenizer) anew from the vocabulary alone, with a normaliser of its own.
    """
    import transformers

    file = folder / "tokenizer.json"
    if type(tokenizer) is transformers.PreTrainedTokenizerFast or not file.is_file():
        return tokenizer, ()
    whole: Any = transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(file), chat_template=tokenizer.chat_template, **tokenizer.special_tokens_map
    )
    if all(plain_ids(tokenizer, text) == plain_ids(whole, text) for text in _PROBES):
        return tokenizer, ()
    return whole, (
        f"transformers builds its {type(tokenizer).__name__} without all that tokenizer.json says, and gives other ids to some "
        "texts, whoever exported the model; compared was PreTrainedTokenizerFast, which reads the file: set it as "
        "tokenizer_class in tokenizer_config.json to have these ids there",
    )


def plain_ids(tokenizer: Any, text: str) -> list[int]:
    """What a tokenizer of transformers makes of text in which nothing is special."""
    return list(tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"])


class LlamaCppPeer:
    """llama.cpp with a GGUF file, on the CPU, its cache in float32. Templates go through llama-cpp-python's jinja2."""

    name = "llama.cpp"
    notes: Sequence[str] = ()

    def __init__(self, path: Path, vocab_size: int, context_length: int = LLAMA_CONTEXT) -> None:
        if importlib.util.find_spec("llama_cpp") is None:
            raise MissingExtraError("llama-cpp-python", "llamacpp", "comparing an export with llama.cpp")
        import llama_cpp  # pyright: ignore[reportMissingImports]

        said = listen()
        self.version = f"llama-cpp-python {llama_cpp.__version__}"
        self._size = vocab_size
        try:
            self._llama: Any = llama_cpp.Llama(
                str(path),
                n_ctx=min(LLAMA_CONTEXT, context_length),
                n_batch=min(LLAMA_CONTEXT, context_length),
                n_threads=torch.get_num_threads(),
                n_threads_batch=torch.get_num_threads(),
                logits_all=True,
                type_k=llama_cpp.GGML_TYPE_F32,
                type_v=llama_cpp.GGML_TYPE_F32,
                swa_full=True,
                yarn_attn_factor=-1.0,  # the file's, not the package's own
                yarn_beta_fast=-1.0,
                yarn_beta_slow=-1.0,
                verbose=False,
            )
        except ValueError as error:
            raise ModelError(f"llama.cpp does not load {path}: {said.last_error() or error}") from error

    def encode(self, text: str) -> list[int]:
        return self._llama.tokenize(text.encode("utf-8", "replace"), add_bos=False, special=False)

    def render(self, messages: Sequence[Message], *, add_generation_prompt: bool) -> str | None:
        from jinja2 import TemplateError
        from llama_cpp.llama_chat_format import Jinja2ChatFormatter  # pyright: ignore[reportMissingImports]

        template = self._llama.metadata.get("tokenizer.chat_template")
        if template is None:
            return None
        formatter = Jinja2ChatFormatter(
            template=template,
            eos_token=self._token("eos"),
            bos_token=self._token("bos"),
            add_generation_prompt=add_generation_prompt,
        )
        rows: Any = _rows(messages)
        try:
            return formatter(messages=rows).prompt
        except (TemplateError, ValueError):
            return REFUSED

    def _token(self, name: str) -> str:
        number = self._llama.metadata.get(f"tokenizer.ggml.{name}_token_id")
        if number is None:
            return ""
        return self._llama.detokenize([int(number)], special=True).decode("utf-8", "replace")

    def encode_chat(self, messages: Sequence[Message]) -> list[int] | None:
        text = self.render(messages, add_generation_prompt=True)
        if text is None or text == REFUSED:
            return None
        return self._llama.tokenize(text.encode(), add_bos=False, special=True)

    def logits(self, ids: Sequence[int]) -> Logits:
        self._llama.reset()
        self._llama.eval(list(ids))
        return self._llama.scores[: len(ids)].copy()

    def greedy(self, ids: Sequence[int], count: int) -> list[int]:
        self._llama.reset()
        self._llama.eval(list(ids))
        written: list[int] = []
        while True:
            row = self._llama.scores[self._llama.n_tokens - 1, : self._size]
            written.append(int(row.argmax()))
            if len(written) == count:
                return written
            self._llama.eval(written[-1:])

    def close(self) -> None:
        self._llama.close()


def _rows(messages: Sequence[Message]) -> list[Mapping[str, str]]:
    return [{"role": message.role, "content": message.content} for message in messages]
