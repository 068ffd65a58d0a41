"""The engines that `infer.py` compares, each in a process of its own: a line of requests in, seconds out.

    python benchmarks/infer_sides.py SIDE FOLDER

A line is a JSON list of [prompt tokens, tokens to write]; the answer is a JSON object: `seconds` from the first to the last, and
`decode_s` with `decode_tokens`: those after every text's first. All are greedy, none stops early, all use every core.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

Work = Sequence[Sequence[int]]
Answer = dict[str, float]
VOCABULARY = 49_000


def prompts_of(work: Work) -> list[list[int]]:
    """Random ids; the same for every side, and new for every line."""
    generator = np.random.default_rng([*np.array(work).flatten()])
    return [generator.integers(300, VOCABULARY, size).tolist() for size, _ in work]


def ours(folder: Path, weights: str, cache: str) -> tuple[Callable[[Work], Answer], str]:
    import torch

    from dunwu.core.devices import prepare_cpu
    from dunwu.delta.quantise import quantise
    from dunwu.infer.engine import Engine
    from dunwu.infer.events import TokenEvent
    from dunwu.infer.sampling import SamplingParams
    from dunwu.infer.sequence import Request
    from dunwu.model.hub import load_model
    from dunwu.tokenizer.load import load_tokenizer

    prepare_cpu(_cores())
    model = quantise(load_model(folder).requires_grad_(False).eval(), weights)  # pyright: ignore[reportArgumentType]
    engine = Engine(model, load_tokenizer(folder), cache=cache, token_budget=2048, prefix_cache=False)  # pyright: ignore[reportArgumentType]

    def run(work: Work) -> Answer:
        start = time.perf_counter()
        for number, (prompt, (_, wanted)) in enumerate(zip(prompts_of(work), work, strict=True)):
            params = SamplingParams(temperature=0, max_tokens=wanted, ignore_eos=True)
            engine.submit(Request(id=str(number), prompt_ids=tuple(prompt), params=params))
        first = start
        written = 0
        begun: set[str] = set()
        while engine.busy:
            for event in engine.step():
                if isinstance(event, TokenEvent):
                    written += 1
                    begun.add(event.id)
            if len(begun) == len(work) and first == start:
                first, before = time.perf_counter(), written
        end = time.perf_counter()
        assert written == sum(wanted for _, wanted in work), (written, work)
        return {"seconds": end - start, "decode_s": end - first, "decode_tokens": written - before}

    return run, f"torch {torch.__version__}, {torch.get_num_threads()} threads"


def prefix(folder: Path) -> tuple[Callable[[Work], Answer], str]:
    """Ours with the prefix cache: how many prompt tokens were read for texts that share their first thousand."""
    import torch

    from dunwu.core.devices import prepare_cpu
    from dunwu.infer.engine import Engine
    from dunwu.infer.sampling import SamplingParams
    from dunwu.infer.sequence import Request
    from dunwu.model.hub import load_model
    from dunwu.tokenizer.load import load_tokenizer

    prepare_cpu(_cores())
    model = load_model(folder).requires_grad_(False).eval()

    def run(work: Work) -> Answer:
        engine = Engine(model, load_tokenizer(folder), token_budget=2048)
        shared = prompts_of([(1000, 0)])[0]
        own = prompts_of(work)
        params = SamplingParams(temperature=0, max_tokens=work[0][1], ignore_eos=True)
        start = time.perf_counter()
        engine.run(Request(id=str(i), prompt_ids=(*shared, *one), params=params) for i, one in enumerate(own))
        stats = engine.stats()
        decoded = sum(wanted - 1 for _, wanted in work)
        return {"seconds": time.perf_counter() - start, "decode_s": 0, "decode_tokens": stats.read_tokens - decoded}

    return run, f"torch {torch.__version__}"


def transformers(folder: Path) -> tuple[Callable[[Work], Answer], str]:
    """`generate` over a batch padded on the left; the longest wish decides for all."""
    import torch
    import transformers as library

    torch.set_num_threads(_cores())
    model = library.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    model.generation_config.eos_token_id = None

    @torch.inference_mode()
    def generate(prompts: list[list[int]], wanted: int) -> float:
        longest = max(map(len, prompts))
        ids = torch.tensor([[0] * (longest - len(one)) + one for one in prompts])
        mask = torch.tensor([[0] * (longest - len(one)) + [1] * len(one) for one in prompts])
        start = time.perf_counter()
        out = model.generate(
            ids, attention_mask=mask, max_new_tokens=wanted, min_new_tokens=wanted, do_sample=False, pad_token_id=0
        )
        assert out.shape[1] == longest + wanted
        return time.perf_counter() - start

    def run(work: Work) -> Answer:
        prompts, wanted = prompts_of(work), max(one for _, one in work)
        one, all_of_them = generate(prompts, 1), generate(prompts, wanted)
        return {"seconds": all_of_them, "decode_s": all_of_them - one, "decode_tokens": len(work) * (wanted - 1)}

    return run, f"transformers {library.__version__}, torch {torch.__version__}, {_cores()} threads, dynamic cache"


def ctranslate2(folder: Path) -> tuple[Callable[[Work], Answer], str]:
    import ctranslate2 as library

    converted = folder.parent / "ctranslate2"
    if not converted.exists():
        library.converters.TransformersConverter(str(folder)).convert(str(converted), quantization="float32")
        settings = json.loads((converted / "config.json").read_text("utf-8"))
        some = json.loads((converted / "vocabulary.json").read_text("utf-8"))[0]
        settings |= {name: some for name, value in settings.items() if name.endswith("_token") and value is None}
        (converted / "config.json").write_text(json.dumps(settings), "utf-8")
    generator = library.Generator(
        str(converted), device="cpu", compute_type="float32", inter_threads=1, intra_threads=_cores()
    )
    tokens = json.loads((converted / "vocabulary.json").read_text("utf-8"))

    def generate(work: Work, wanted: int) -> float:
        texts = [[tokens[number] for number in prompt] for prompt in prompts_of(work)]
        start = time.perf_counter()
        generator.generate_batch(
            texts, max_length=wanted, min_length=wanted, sampling_topk=1, include_prompt_in_result=False
        )
        return time.perf_counter() - start

    def run(work: Work) -> Answer:
        wanted = max(one for _, one in work)
        one, all_of_them = generate(work, 1), generate(work, wanted)
        return {"seconds": all_of_them, "decode_s": all_of_them - one, "decode_tokens": len(work) * (wanted - 1)}

    return run, f"ctranslate2 {library.__version__}, {_cores()} threads"


def llama_cpp(path: Path) -> tuple[Callable[[Work], Answer], str]:
    """llama.cpp through its own batches: all prompts, then every text's next token in one batch, as its server does."""
    import ctypes

    import llama_cpp as library

    silent = library.llama_log_callback(lambda *_: None)
    library.llama_log_set(silent, ctypes.c_void_p(0))
    library.llama_backend_init()
    model = library.llama_model_load_from_file(str(path).encode(), library.llama_model_default_params())
    params = library.llama_context_default_params()
    params.n_ctx, params.n_batch, params.n_ubatch, params.n_seq_max = 16 * 512, 2048, 512, 16
    params.n_threads = params.n_threads_batch = _cores()
    context: Any = library.llama_init_from_model(model, params)
    memory = library.llama_get_memory(context)
    size = library.llama_vocab_n_tokens(library.llama_model_get_vocab(model))
    batch = library.llama_batch_init(2048, 0, 1)

    def read(rows: list[tuple[int, int, int, bool]]) -> list[int]:
        """(id, position, text, wanted) a row; gives the likeliest next token of each wanted row."""
        batch.n_tokens = len(rows)
        for i, (number, position, text, wanted) in enumerate(rows):
            batch.token[i], batch.pos[i], batch.logits[i] = number, position, wanted
            batch.n_seq_id[i], batch.seq_id[i][0] = 1, text
        if library.llama_decode(context, batch) != 0:
            raise RuntimeError("llama_decode failed")
        wanted = [i for i, row in enumerate(rows) if row[3]]
        return [int(np.ctypeslib.as_array(library.llama_get_logits_ith(context, i), (size,)).argmax()) for i in wanted]

    def run(work: Work) -> Answer:
        library.llama_memory_clear(memory, True)
        prompts, start = prompts_of(work), time.perf_counter()
        rows = [
            (number, at, text, at == len(prompt) - 1)
            for text, prompt in enumerate(prompts)
            for at, number in enumerate(prompt)
        ]
        last: list[int] = []
        for begin in range(0, len(rows), 2048):
            last += read(rows[begin : begin + 2048])
        first, written = time.perf_counter(), [1] * len(work)
        while alive := [text for text in range(len(work)) if written[text] < work[text][1]]:
            rows = [(last[text], len(prompts[text]) + written[text] - 1, text, True) for text in alive]
            for text, number in zip(alive, read(rows), strict=True):
                last[text] = number
                written[text] += 1
        end = time.perf_counter()
        return {"seconds": end - start, "decode_s": end - first, "decode_tokens": sum(written) - len(work)}

    run.silent = silent  # pyright: ignore[reportFunctionMemberAccess]
    return run, f"llama-cpp-python {library.__version__}, {_cores()} threads"


def _cores() -> int:
    return len(os.sched_getaffinity(0))


def serve(side: str, folder: Path) -> None:
    """Answer lines until there are no more."""
    if side.startswith("ours"):
        _, weights, cache = side.split("-")
        run, about = ours(folder / "model", weights, cache)
    elif side.startswith("llama"):
        run, about = llama_cpp(folder / f"{side.removeprefix('llama-')}.gguf")
    else:
        run, about = {"transformers": transformers, "ctranslate2": ctranslate2, "prefix": prefix}[side](
            folder / "model"
        )
    run([(8, 4)])
    print(json.dumps(about), flush=True)
    for line in sys.stdin:
        print(json.dumps(run(json.loads(line))), flush=True)


if __name__ == "__main__":
    serve(sys.argv[1], Path(sys.argv[2]))
