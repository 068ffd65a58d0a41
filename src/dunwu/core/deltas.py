"""What a recipe or a caller says of parameter-efficient tuning: one frozen, strict specification a method.

What each does is in `dunwu/delta/`, one file a method. A new method is a specification here with its place in `AnyDelta`, a
file there, and a line in `delta/registry.py`.
"""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from dunwu.core.nearest import validated
from dunwu.core.section import Auto, Count, Decay, Rate, Section

ALL_LINEAR = "all-linear"
"""In place of patterns: every linear layer of the blocks."""


class DeltaSpec(Section):
    """A method and its options. Each has a field `method`, its key in `delta/registry.py`.

    `mergeable`: whether weights can do the same (of BitFit that depends on the model too).
    """

    mergeable: ClassVar[bool] = True

    @property
    def name(self) -> str:
        """The method."""
        return str(self.model_dump(include={"method"})["method"])


class LowRankSpec(DeltaSpec):
    """What LoRA and its kin share."""

    r: Count = 8
    alpha: Rate | Auto = "auto"  # auto: twice the rank
    targets: Annotated[tuple[str, ...], Field(min_length=1)] = (ALL_LINEAR,)  # q_proj, *.mlp.*, model.layers.[0-9].*
    dropout: Decay = 0.0  # of what goes into A, while training
    rank_stabilised: bool = False  # the product counts alpha / sqrt(r) times (arXiv:2312.03732), not alpha / r
    lr_ratio: Annotated[float, Field(ge=1)] = 1.0  # the rate of B, as a multiple of A's (arXiv:2402.12354)


class LoraSpec(LowRankSpec):
    """LoRA (arXiv:2106.09685): `alpha / r · B A` is added to each matrix that `targets` name."""

    method: Literal["lora"] = "lora"


class RsLoraSpec(LowRankSpec):
    """Rank-stabilised LoRA (arXiv:2312.03732)."""

    method: Literal["rslora"] = "rslora"
    rank_stabilised: bool = True


class LoraPlusSpec(LowRankSpec):
    """LoRA+ (arXiv:2402.12354): B learns faster than A."""

    method: Literal["lora_plus"] = "lora_plus"
    lr_ratio: Annotated[float, Field(ge=1)] = 16.0


class DoraSpec(LowRankSpec):
    """DoRA (arXiv:2402.09353): LoRA turns the rows of a matrix, and their lengths learn by themselves."""

    method: Literal["dora"] = "dora"


class PissaSpec(LowRankSpec):
    """PiSSA (arXiv:2404.02948): LoRA that begins with the principal part of each matrix."""

    method: Literal["pissa"] = "pissa"


class EvaSpec(LowRankSpec):
    """EVA (arXiv:2410.07170): LoRA that begins by what the model reads, its rank shared out by what that explains."""

    method: Literal["eva"] = "eva"
    rho: Annotated[float, Field(ge=1)] = 2.0  # a matrix may have up to so many times the rank


class VeraSpec(DeltaSpec):
    """VeRA (arXiv:2310.11454): a frozen random pair for all matrices, of which two vectors a matrix learn."""

    method: Literal["vera"] = "vera"
    r: Count = 256
    targets: Annotated[tuple[str, ...], Field(min_length=1)] = (ALL_LINEAR,)
    dropout: Decay = 0.0
    d_initial: float = 0.1


class BottleneckSpec(DeltaSpec):
    """What bottleneck adapters share: `scale · up(activation(down(x)))`, of `bottleneck` channels."""

    mergeable: ClassVar[bool] = False
    bottleneck: Count = 16
    activation: Literal["relu", "gelu", "silu"] = "relu"
    scale: Rate = 1.0
    targets: Annotated[tuple[str, ...], Field(min_length=1)] = ("mlp",)  # sublayers: self_attn, mlp, model.layers.0.*


class HoulsbySpec(BottleneckSpec):
    """Adapters after attention and after the MLP of each block (arXiv:1902.00751)."""

    method: Literal["houlsby"] = "houlsby"
    targets: Annotated[tuple[str, ...], Field(min_length=1)] = ("self_attn", "mlp")


class PfeifferSpec(BottleneckSpec):
    """An adapter after the MLP of each block (arXiv:2005.00247)."""

    method: Literal["pfeiffer"] = "pfeiffer"


class ParallelSpec(BottleneckSpec):
    """An adapter beside the MLP of each block, which reads what the MLP reads (arXiv:2110.04366)."""

    method: Literal["parallel_adapter"] = "parallel_adapter"
    scale: Rate = 4.0


class Ia3Spec(DeltaSpec):
    """(IA)³ (arXiv:2205.05638): keys, values and the channels within MLPs are scaled.

    `inputs`: of the targets those whose input is scaled, not their output.
    """

    method: Literal["ia3"] = "ia3"
    targets: Annotated[tuple[str, ...], Field(min_length=1)] | Auto = (
        "auto"  # auto: k_proj, v_proj, down_proj; latent: kv_b_proj
    )
    inputs: tuple[str, ...] = ("down_proj",)


class FrontSpec(DeltaSpec):
    """What stands in front of every text, `length` columns. `start`: as those of random words, or as noise."""

    mergeable: ClassVar[bool] = False
    length: Count = 20
    start: Literal["words", "random"] = "words"


class DeepFrontSpec(FrontSpec):
    """Keys and values in every layer.

    `mlp`: while training they come out of an MLP of so many hidden channels, which is thrown away afterwards; 0 is none.
    """

    mlp: Annotated[int, Field(ge=0)] = 0


class PrefixSpec(DeepFrontSpec):
    """Prefix tuning (arXiv:2101.00190): keys and values in front of every text, in every layer."""

    method: Literal["prefix"] = "prefix"


class PTuningV2Spec(DeepFrontSpec):
    """P-tuning v2 (arXiv:2110.07602): prompts in every layer, which are keys and values of their own, and many of them."""

    method: Literal["p_tuning_v2"] = "p_tuning_v2"
    length: Count = 64


class PromptSpec(FrontSpec):
    """Prompt tuning (arXiv:2104.08691): embeddings in front of every text."""

    method: Literal["prompt"] = "prompt"


class BitFitSpec(DeltaSpec):
    """BitFit (arXiv:2106.10199): biases alone learn.

    `add`: linear layers that have no bias get one of zeros; auto: where no linear layer of the model has any (Llama and its kin).
    """

    method: Literal["bitfit"] = "bitfit"
    targets: Annotated[tuple[str, ...], Field(min_length=1)] = ("*",)  # of biases, or of the layers that get one
    add: bool | Auto = "auto"


class NormsSpec(DeltaSpec):
    """Norms alone learn (arXiv:2312.11420)."""

    method: Literal["norms"] = "norms"
    targets: Annotated[tuple[str, ...], Field(min_length=1)] = ("*",)


class LastLayersSpec(DeltaSpec):
    """The last blocks learn as a whole; embedding, head and the final norm stay."""

    method: Literal["last_layers"] = "last_layers"
    layers: Count = 1


class PatternSpec(DeltaSpec):
    """Parameters whose names fit learn as a whole."""

    method: Literal["pattern"] = "pattern"
    targets: Annotated[tuple[str, ...], Field(min_length=1)]  # model.layers.0.*, lm_head.weight, q_proj.weight


class FisherSpec(DeltaSpec):
    """A mask by Fisher information (arXiv:2111.09839): those numbers learn whose squared gradients are largest."""

    method: Literal["fisher_mask"] = "fisher_mask"
    share: Annotated[float, Field(gt=0, le=1)] = 0.005  # of the numbers of `targets`
    targets: Annotated[tuple[str, ...], Field(min_length=1)] = ("model.layers.*",)


AnyDelta = Annotated[
    LoraSpec | RsLoraSpec | LoraPlusSpec | DoraSpec | PissaSpec | EvaSpec | VeraSpec
    | HoulsbySpec | PfeifferSpec | ParallelSpec | Ia3Spec | PrefixSpec | PTuningV2Spec | PromptSpec
    | BitFitSpec | NormsSpec | LastLayersSpec | PatternSpec | FisherSpec,
    Field(discriminator="method"),
]  # fmt: skip
"""Every method's specification."""


class _Holder(Section):
    delta: AnyDelta


def delta_spec(values: Mapping[str, Any]) -> DeltaSpec:
    """The specification that a mapping such as `{"method": "lora", "r": 8}` stands for.

    Raises RecipeError naming the key, its value, the rule, and the nearest key where one is not known.
    """
    return validated(_Holder, {"delta": dict(values)}).delta
