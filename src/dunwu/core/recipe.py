"""The recipe: the whole truth of a build, typed and strict. Free of torch, so that `dunwu --help` stays quick.

Where a field says `auto`, the budget decides (see `build/budget.py`) and the resolved value is written beside the build.
"""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, cast

from pydantic import AfterValidator, BeforeValidator, Field

from dunwu.core.deltas import AnyDelta
from dunwu.core.policy import AnyPolicy, GrpoSpec
from dunwu.core.preference import AnyPreference, DpoSpec
from dunwu.core.rewardmodel import AnyJudgement, PairsSpec
from dunwu.core.rewards import AnyReward, JudgeReward
from dunwu.core.section import Auto, Bytes, Count, Decay, Duration, Fraction, Rate, Section, whole, with_tuples


def _language_code(code: str) -> str:
    if not re.fullmatch("[a-z]{2,3}|code", code):
        raise ValueError(
            "write the ISO 639-1 code of a language in lower case, such as en or zh; or code, or und (unknown)"
        )
    return code


LanguageCode = Annotated[str, AfterValidator(_language_code)]
Language = Literal["en", "zh"]
QuestionKind = Literal["recall", "ownership", "fits", "left", "premise", "form"]


class FolderSource(Section):
    """Documents below a folder (or one file), in any format that `corpus/readers` knows."""

    kind: Literal["folder"] = "folder"
    path: str
    include: tuple[str, ...] = ("**/*",)
    exclude: tuple[str, ...] = ()
    text_key: str = "auto"  # the key or column that holds the text in .json .jsonl .csv .parquet
    bad_rows: Literal["drop", "refuse"] = "drop"  # an unreadable row or file: drop it and say so, or stop


class WorldSource(Section):
    """The small world (`corpus/world`): generated pages, stories and dialogues with known truth."""

    kind: Literal["world"] = "world"
    seed: int = 0
    size: float = Field(default=1.0, gt=0)  # 1.0: what the default recipe needs
    languages: tuple[Language, ...] = ("en", "zh")


class PythonDocsSource(Section):
    """The documentation of the Python that dunwu runs on: language topics and docstrings of the standard library."""

    kind: Literal["python_docs"] = "python_docs"
    max_bytes: Count = 400_000


CorpusSource = Annotated[FolderSource | WorldSource | PythonDocsSource, Field(discriminator="kind")]


class CorpusSection(Section):
    """Documents → text → clean → deduplicated → split."""

    sources: tuple[CorpusSource, ...] = ()  # none: a base is tuned as it is, without pre-training
    quality: bool = True
    language_filter: tuple[LanguageCode, ...] = ()  # keep only these languages; empty keeps all
    boilerplate: bool = True
    dedup: Literal["none", "exact", "near"] = "near"
    near_threshold: Annotated[float, Field(gt=0, le=1)] = 0.8  # Jaccard similarity of 5-word (or 5-character) shingles
    redact: bool = True
    decontaminate: bool = True
    decontaminate_files: tuple[str, ...] = ()  # further evaluation sets whose text must not be learned
    heldout_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.05
    heldout_unit: Literal["auto", "document", "section"] = "auto"
    workers: Count | Auto = "auto"


class ReplaySection(Section):
    """General text met again while a base learns its domain, so that it forgets less; cleaned and split as the corpus is.

    A share of 0 replays nothing and only measures, on the held-out part, what was forgotten.
    """

    sources: tuple[CorpusSource, ...] = ()
    share: Annotated[float, Field(ge=0, lt=1)] = 0.05  # of the tokens


class TokenizerSection(Section):
    vocab_size: Annotated[int, Field(ge=300, le=1_000_000)] | Auto = "auto"
    train_bytes: Count = 50_000_000  # text sampled to train the vocabulary
    extend_by: Annotated[int, BeforeValidator(whole), Field(ge=0, le=1_000_000)] = (
        0  # tokens of the corpus, new to the base
    )


class ModelSection(Section):
    """A dense decoder, exported as the Hugging Face architecture of that name."""

    architecture: Literal["llama", "qwen3"] = "qwen3"
    hidden_size: Count | Auto = "auto"
    num_hidden_layers: Count | Auto = "auto"
    num_attention_heads: Count | Auto = "auto"
    num_key_value_heads: Count | Auto = "auto"
    head_dim: Count | Auto = "auto"
    intermediate_size: Count | Auto = "auto"
    tie_word_embeddings: bool = True
    rope_theta: float = Field(default=10_000.0, gt=0)
    rms_norm_eps: float = Field(default=1e-6, gt=0)
    context_length: Annotated[int, Field(ge=16)] | Auto = "auto"


class TrainSection(Section):
    """What pre-training and fine-tuning share: durations in tokens, learning rates at their peak."""

    optimizer: Literal["muon", "adamw"] = "muon"  # muon: matrices by Muon, everything else by AdamW
    lr_adamw: Rate | Auto = "auto"
    lr_muon: Rate | Auto = "auto"
    weight_decay: float = Field(default=0.05, ge=0)
    betas: tuple[Decay, Decay] = (0.9, 0.95)
    schedule: Literal["wsd", "cosine", "constant"] = "wsd"
    warmup_fraction: Fraction = 0.02
    decay_fraction: Fraction = 0.5
    final_lr_fraction: Fraction = 0.0
    batch_tokens: Count | Auto = "auto"
    batch_warmup_fraction: Fraction = 0.0  # share of the run over which the batch grows from a quarter to the whole
    micro_batch_rows: Count | Auto = "auto"
    grad_clip: float = Field(default=1.0, gt=0)
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    compile: bool | Auto = "auto"
    checkpoint_every_s: float = Field(default=60.0, gt=0)
    checkpoints_kept: Annotated[int, Field(ge=2)] = 2
    tensorboard: bool = False
    freeze: tuple[str, ...] = ()  # parameters left as they are, by name: model.embed_tokens.*, model.layers.0.*


class PretrainSection(TrainSection):
    tokens: Count | Auto = "auto"
    rewarm: Rate | Auto = "auto"  # with a base: the peak learning rates, as a share of those that suit a new model
    max_epochs: float = Field(default=8.0, gt=0)  # how often the same text may be repeated before more is waste
    snapshots: Annotated[int, Field(ge=0, le=1000)] = (
        0  # of the weights on the way, in equal ratios of tokens, for `dunwu lab curves`
    )


class SftFileSource(Section):
    """Instruction data from a file: Alpaca, ShareGPT, `messages`, prompt/completion or preferences, found by looking."""

    kind: Literal["file"] = "file"
    path: str
    weight: float = Field(default=1.0, gt=0)
    cap: Count | None = None  # counts as at most so many conversations when sources are mixed
    bad_rows: Literal["drop", "refuse"] = "drop"
    open_calls: Literal["drop", "keep"] = "drop"  # a conversation that ends with a call of tools, its result unknown
    phrasings: tuple[str, ...] = ()  # questions and answers made of columns: sets that come with dunwu, or .yaml, .json
    columns: dict[str, str] = Field(default_factory=dict)  # of variables: the key that holds each; a.0.b reaches deeper
    constants: dict[str, str] = Field(default_factory=dict)  # variables that are the same in all rows


class SftWorldSource(Section):
    """Questions and answers from the small world; none combines facts that the exam combines."""

    kind: Literal["world"] = "world"
    seed: int = 0
    size: float = Field(default=1.0, gt=0)
    languages: tuple[Language, ...] = ("en", "zh")
    weight: float = Field(default=1.0, gt=0)
    cap: Count | None = None


def _step_counts(steps: tuple[int, ...]) -> tuple[int, ...]:
    if not steps or not set(steps) <= {1, 2, 3}:
        raise ValueError(f"{list(steps)} is no choice of steps; write some of 1, 2 and 3, such as [1, 2]")
    return steps


class SumsSource(Section):
    """Generated word problems (`corpus/sums`); their calculations are never those of the problems kept for measuring."""

    kind: Literal["sums"] = "sums"
    seed: int = 0
    problems: Count = 20_000
    languages: Annotated[tuple[Language, ...], Field(min_length=1)] = ("en", "zh")
    steps: Annotated[tuple[int, ...], AfterValidator(_step_counts)] = (1, 2, 3)
    largest: Annotated[int, Field(ge=10, le=10_000)] = 99  # of the numbers that a problem begins with


class SftSumsSource(SumsSource):
    """Word problems with their solutions, step by step."""

    weight: float = Field(default=1.0, gt=0)
    cap: Count | None = None


SftSource = Annotated[SftFileSource | SftWorldSource | SftSumsSource, Field(discriminator="kind")]


class SftSection(TrainSection):
    sources: tuple[SftSource, ...] = ()
    epochs: float = Field(default=2.0, gt=0)
    tokens: Count | Auto = "auto"  # auto: epochs, cut to the budget
    system_prompt: str = ""
    temperature: float = Field(default=1.0, ge=1)  # of the mix of sources: 1 by size, more towards equal shares
    too_long: Literal["cut", "drop"] = (
        "cut"  # a conversation longer than the context loses its oldest turns, or is left out
    )
    neftune_alpha: float = Field(default=0.0, ge=0)  # noise on embeddings (arXiv:2310.05914); 5 is usual, 0 is none
    delta: AnyDelta | None = None  # learn a delta on the frozen model, by AdamW, instead of all its weights
    base_weights: Literal["float", "int8", "nf4"] = (
        "float"  # with a delta: what the frozen model is kept in while it learns
    )
    delta_merged: bool = True  # the finished model has the delta in its weights; false: it lies beside the base's


def _with_kind(value: Any) -> Any:
    """A source that names a path is a file."""
    if isinstance(value, Mapping):
        return with_tuples({"kind": "file", **cast("Mapping[str, Any]", value)})
    return value


class PreferenceSource(Section):
    """Preferences from a file: chosen and rejected, judged pairs, scored or labelled answers, found by looking."""

    kind: Literal["file"] = "file"
    path: str
    bad_rows: Literal["drop", "refuse"] = "drop"


class PreferenceWorldSource(Section):
    """A right and a wrong answer to questions of the small world; none combines facts that the exam combines."""

    kind: Literal["world"] = "world"
    seed: int = 0
    size: float = Field(default=1.0, gt=0)
    languages: tuple[Language, ...] = ("en", "zh")
    pairs: Count = 20_000


AnyPreferenceSource = Annotated[
    Annotated[PreferenceSource | PreferenceWorldSource, Field(discriminator="kind")],
    BeforeValidator(_with_kind),
]


class PreferSection(TrainSection):
    """Learning what is preferred, after fine-tuning: pairs of a better and a worse answer, or answers judged good or bad."""

    sources: tuple[AnyPreferenceSource, ...] = ()
    objective: AnyPreference = DpoSpec()  # objective.method: dpo, ipo, kto, orpo, simpo, cpo; each with its own options
    optimizer: Literal["muon", "adamw"] = "adamw"
    weight_decay: float = Field(default=0.0, ge=0)
    warmup_fraction: Fraction = 0.1
    epochs: float = Field(default=1.0, gt=0)
    tokens: Count | Auto = "auto"  # auto: epochs, cut to the budget
    too_long: Literal["cut", "drop"] = "cut"  # an answer beyond the context loses its end, or its pair is left out
    share_prompts: bool = True  # the answers to one prompt lie in one row, which reads the prompt once
    delta: AnyDelta | None = None  # learn a delta on the frozen model, by AdamW, instead of all its weights
    base_weights: Literal["float", "int8", "nf4"] = (
        "float"  # with a delta: what the frozen model is kept in while it learns
    )
    delta_merged: bool = True  # the finished model has the delta in its weights; false: it lies beside those before it


class PromptFileSource(Section):
    """Questions from a file, to be answered and judged: JSON rows or a table; what else a row says becomes columns."""

    kind: Literal["file"] = "file"
    path: str
    prompt: str = "auto"  # the key that holds the question; auto: prompt, question, messages, instruction, …
    answer: str = "auto"  # the key that becomes the column `answer`; auto: answer, solution, output, …
    system_prompt: str = ""  # for rows that have none
    cap: Count | None = None  # at most so many questions, spread evenly over the file
    bad_rows: Literal["drop", "refuse"] = "drop"


class PromptWorldSource(Section):
    """Training questions of the small world; none combines facts that the exam combines."""

    kind: Literal["world"] = "world"
    seed: int = 0
    size: float = Field(default=1.0, gt=0)
    languages: tuple[Language, ...] = ("en", "zh")
    kinds: tuple[QuestionKind, ...] = ()  # of question to learn from; none named: all, what is hard more often
    questions: Count = 2000


class PromptSumsSource(SumsSource):
    """Word problems to be solved; column `answer`."""

    seed: int = 1  # others than fine-tuning has seen
    problems: Count = 2000


PromptSource = Annotated[
    Annotated[PromptFileSource | PromptWorldSource | PromptSumsSource, Field(discriminator="kind")],
    BeforeValidator(_with_kind),
]


class RewardSection(TrainSection):
    """A reward model, from the weights that the stages before left: what is preferred, as a score of an answer or a step."""

    sources: tuple[AnyPreferenceSource, ...] = ()
    objective: AnyJudgement = PairsSpec()  # objective.method: pairs, steps
    heads: Annotated[int, BeforeValidator(whole), Field(ge=1, le=64)] = 1  # several learn from a resample each
    combine: Literal["mean", "min", "cautious"] = "mean"  # what several heads say together (arXiv:2310.02743)
    caution: float = Field(default=1.0, ge=0)  # cautious: the mean less so many standard deviations
    optimizer: Literal["muon", "adamw"] = "adamw"
    weight_decay: float = Field(default=0.0, ge=0)
    warmup_fraction: Fraction = 0.1
    epochs: float = Field(default=1.0, gt=0)
    tokens: Count | Auto = "auto"  # auto: epochs, cut to the budget
    too_long: Literal["cut", "drop"] = "cut"  # an answer beyond the context loses its end, or its row is left out
    share_prompts: bool = True  # the answers to one prompt lie in one row, which reads the prompt once
    delta: AnyDelta | None = None  # learn a delta on the frozen decoder, by AdamW, and the heads
    base_weights: Literal["float", "int8", "nf4"] = (
        "float"  # with a delta: what the frozen decoder is kept in while it learns
    )


class RlSection(TrainSection):
    """Reinforcement learning, after all other training: the model answers prompts, its answers are judged, and it learns from
    that."""

    sources: tuple[PromptSource, ...] = ()
    rewards: tuple[AnyReward, ...] = ()  # their weighted sum; each in full or as a short form, such as world or math
    algorithm: AnyPolicy = GrpoSpec()  # algorithm.method: grpo, rloo, reinforce++, ppo; each with its own options
    optimizer: Literal["muon", "adamw"] = "adamw"
    weight_decay: float = Field(default=0.0, ge=0)
    schedule: Literal["wsd", "cosine", "constant"] = "constant"
    warmup_fraction: Fraction = 0.05
    steps: Count | Auto = "auto"  # rollouts; auto: as many as the budget allows, 20 to 100
    prompts: Count | Auto = "auto"  # of a rollout; auto: 16
    completions: Count | Auto = "auto"  # answers to each prompt; auto: 8, with ppo 4
    answer_tokens: Count | Auto = "auto"  # the most of an answer; auto: half the context, at most 256
    temperature: float = Field(
        default=1.0, gt=0
    )  # this and the next three: how answers are drawn (see align/rollout.py)
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    top_k: Annotated[int, Field(ge=0)] = 0
    min_p: Annotated[float, Field(ge=0, le=1)] = 0.0
    eval_every: Count | Auto = "auto"  # updates between two looks at the prompts that are kept out; auto: ten in a run
    keep: Literal["best", "last"] = (
        "best"  # which weights are the result: those best on the kept-out prompts, or the last
    )
    share_prompts: bool = True  # the answers to one prompt lie in one row, which reads the prompt once
    delta: AnyDelta | None = None  # learn a delta on the frozen model, by AdamW, instead of all its weights
    delta_merged: bool = True  # the finished model has the delta in its weights; false: it lies beside those before it


class EvaluateSection(Section):
    heldout_bytes: Count = 400_000  # held-out text scored, spread evenly over the documents
    exam_questions: Count = 100  # per kind
    baselines: bool = True  # xz and an order-5 n-gram on the same text
    samples: Annotated[int, Field(ge=0)] = 6
    prompts: tuple[str, ...] = ()
    judge: JudgeReward | None = None  # who says which of two models answers better, in both orders; none: exact rules


class Recipe(Section):
    """A build. `budget` and `memory` size whatever says `auto`."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9一-鿿][A-Za-z0-9_.一-鿿-]{0,63}$")] = "model"
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    budget: Duration = "5min"  # wall time of the whole build: 90s, 5min, 6h
    memory: Bytes = "auto"  # the most that training may take: 2GB, 24GB; auto: what is free
    base: str = ""  # a model to go on from: its folder, a build's home, or a hub's owner/name[@revision]; empty: none
    corpus: CorpusSection = CorpusSection()
    replay: ReplaySection = ReplaySection()
    tokenizer: TokenizerSection = TokenizerSection()
    model: ModelSection = ModelSection()
    pretrain: PretrainSection = PretrainSection()
    sft: SftSection = SftSection()
    prefer: PreferSection = PreferSection()
    reward: RewardSection = RewardSection()
    rl: RlSection = RlSection()
    evaluate: EvaluateSection = EvaluateSection()

    @property
    def only_tunes(self) -> bool:
        """Whether a base is fine-tuned as it is: there is no corpus to read and to learn before."""
        return bool(self.base) and not self.corpus.sources

    @property
    def only_scores(self) -> bool:
        """Whether a reward model is all that a base becomes: there is no other model to show for it."""
        tuned = self.sft.sources or self.prefer.sources or self.rl.sources
        return self.only_tunes and bool(self.reward.sources) and not tuned
