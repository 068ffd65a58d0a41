"""What the kernels are told of a model: where its weights lie and what is done with them.

Shapes: `D` model width, `T` time.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import cycle
from typing import NamedTuple

import torch
from torch import Tensor, nn

from dunwu.infer.paged import PagedCache
from dunwu.model.blocks.attention import Attention
from dunwu.model.blocks.mlp import GatedMLP, PlainMLP
from dunwu.model.blocks.norms import RMSNorm
from dunwu.model.blocks.quantised import QuantisedLinear, QuantisedMatrix
from dunwu.model.blocks.reading import Reading
from dunwu.model.decoder import Block, Decoder
from dunwu.model.native import library
from dunwu.model.native.library import Chain, Matrix, Norm, Part

Half = Callable[[Tensor, Reading], Tensor]
"""An attention or an MLP with its norms and the stream around it, `[1, T, D]`, as its module computes it."""

SHARES = 8


class Whole(NamedTuple):
    """A model as the kernels know it: its embedding, all layers, and the norm at the end."""

    embedding: Matrix
    chain: Chain
    norm: Norm


class Parts:
    """The halves of all layers in order: chains of those that the kernels know, and modules.

    `norm`, the last one, and `head`: None where torch does it. `whole`: the kernels know all from ids to normalised states.

    `wide`: the most outputs of q, k and v together, or inputs of a last product.
    """

    def __init__(self, model: Decoder, cache: PagedCache) -> None:
        self._model, self._config, self._cache = model, model.config, cache
        self._watched: list[Tensor] = []
        self._kept: list[Tensor] = []
        self._addresses: list[int] = []
        self._turns = cycle(slice(start, None, SHARES) for start in range(SHARES))
        self._head_from = 0
        self.calls: list[Chain | Half] = []
        self.norm: Norm | None = None
        self.whole: Whole | None = None
        self.head: Matrix | None = None
        self.wide = 0

    def look(self, some: bool = False) -> None:
        """Tell the kernels anew where the weights lie, if they were moved: training in place moves none. What they were told
        of stays there meanwhile. `some`: look at an eighth of them, each time at another."""
        if self.calls and self._in_place(next(self._turns) if some else slice(None)):
            return
        self._watched = []
        self.calls = list(self._chained())
        self.norm = self._norm(self._model.model.norm)
        self._head_from = len(self._watched)
        embedding = self._matrix(self._model.model.embed_tokens)
        self.head = embedding if self._config.tie_word_embeddings else self._matrix(self._model.lm_head)
        self.whole = self._whole(embedding)
        self._kept = [tensor.detach() for tensor in self._watched]
        self._addresses = [tensor.data_ptr() for tensor in self._watched]

    def look_at_head(self) -> None:
        """`look`, where only the head is asked for."""
        if not self.calls or not self._in_place(slice(self._head_from, None)):
            self.look()

    def _whole(self, embedding: Matrix | None) -> Whole | None:
        if len(self.calls) != 1 or self.norm is None or embedding is None or self._config.positions == "learned":
            return None
        plain = embedding.kind == library.FLOAT32 or (
            embedding.kind == library.INT8 and embedding.group >= embedding.inputs
        )
        chain = self.calls[0]
        return Whole(embedding, chain, self.norm) if plain and isinstance(chain, Chain) else None

    def _in_place(self, which: slice) -> bool:
        return [*map(Tensor.data_ptr, self._watched[which])] == self._addresses[which]

    def _chained(self) -> Iterator[Chain | Half]:
        waiting: list[Part] = []
        for layer, block in enumerate(self._model.model.layers):
            assert isinstance(block, Block)
            for part, module in self._halves(block, layer):
                if part is not None:
                    waiting.append(part)
                    continue
                if waiting:
                    yield Chain(waiting)
                    waiting = []
                yield module
        if waiting:
            yield Chain(waiting)

    def _halves(self, block: Block, layer: int) -> Iterator[tuple[Part | None, Half]]:
        yield self._attention(block, layer), lambda x_BTD, reading: block.attend(x_BTD, reading, layer)
        yield self._mlp(block), lambda x_BTD, _: block.feed(x_BTD)

    def _attention(self, block: Block, layer: int) -> Part | None:
        module, config, cache = block.self_attn, self._config, self._cache
        if type(module) is not Attention:
            return None
        matrices = self._matrices(module.q_proj, module.k_proj, module.v_proj, module.o_proj)
        norms = self._norms(block.input_layernorm, block.attention_output_norm, module.q_norm, module.k_norm)
        if norms is None or matrices is None:
            return None
        turns = config.positions == "rotary" and layer not in config.nope_layers
        part = Part(
            kind=library.ATTENTION,
            before=norms[0],
            after=norms[1],
            q_norm=norms[2],
            k_norm=norms[3],
            sinks=0 if module.sinks is None else self._address(module.sinks),
            keys=cache.keys[layer].data_ptr(),
            values=cache.values[layer].data_ptr(),
            key_scales=cache.key_scales[layer].data_ptr() if cache.kind == "int8" else 0,
            value_scales=cache.value_scales[layer].data_ptr() if cache.kind == "int8" else 0,
            norm_all=module.norm_all,
            turns=(library.PAIRS if config.rope_interleaved else library.HALVES) if turns else library.STILL,
            table=layer in config.sliding_layers and config.local_rope_theta is not None,
            window=config.window(layer) or 0,
            scale=config.score_scale,
            cap=config.attention_softcap or 0.0,
        )
        return self._with_products(part, matrices)

    def _mlp(self, block: Block) -> Part | None:
        module = block.mlp
        if not isinstance(module, GatedMLP | PlainMLP) or module.activation not in library.ACTIVATIONS:
            return None
        gate = [module.gate_proj] if isinstance(module, GatedMLP) else []
        matrices = self._matrices(*gate, module.up_proj, module.down_proj)
        norms = self._norms(block.post_attention_layernorm, block.mlp_output_norm)
        if norms is None or matrices is None:
            return None
        if not gate:
            matrices.insert(0, Matrix())
        part = Part(
            kind=library.MLP,
            before=norms[0],
            after=norms[1],
            activation=library.ACTIVATIONS[module.activation],
        )
        return self._with_products(part, matrices)

    def _with_products(self, part: Part, matrices: Sequence[Matrix]) -> Part:
        *first, part.last = matrices
        for place, matrix in enumerate(first):
            part.first[place] = matrix
        together = sum(matrix.outputs for matrix in first) if part.kind == library.ATTENTION else 0
        self.wide = max(self.wide, together, part.last.inputs)
        return part

    def _matrices(self, *modules: nn.Module) -> list[Matrix] | None:
        found = [matrix for module in modules if (matrix := self._matrix(module)) is not None]
        return found if len(found) == len(modules) else None

    def _matrix(self, module: nn.Module) -> Matrix | None:
        """None for what is more, or other, than a matrix of float32 or few bits."""
        if isinstance(module, QuantisedMatrix):
            self._watched += [module.packed, module.scales]
            return module.matrix(module.bias if isinstance(module, QuantisedLinear) else None)
        if not isinstance(module, nn.Linear | nn.Embedding) or type(module) not in (nn.Linear, nn.Embedding):
            return None
        weight, bias = module.weight, module.bias if isinstance(module, nn.Linear) else None
        if weight.dtype != torch.float32 or not weight.is_contiguous():
            return None
        outputs, inputs = weight.shape
        return Matrix(
            weights=self._address(weight),
            bias=0 if bias is None else self._address(bias),
            outputs=outputs,
            inputs=inputs,
            group=inputs,
            kind=library.FLOAT32,
        )

    def _norms(self, *modules: nn.Module) -> list[Norm] | None:
        found = [norm for module in modules if (norm := self._norm(module)) is not None]
        return found if len(found) == len(modules) else None

    def _norm(self, module: nn.Module) -> Norm | None:
        if type(module) is nn.Identity:
            return Norm()
        if type(module) is RMSNorm:
            weight = self._address(module.weight)
            return Norm(weight=weight, kind=library.RMS_NORM, offset=module.offset, eps=module.eps)
        if type(module) is nn.LayerNorm:
            weight, bias = self._address(module.weight), 0 if module.bias is None else self._address(module.bias)
            return Norm(weight=weight, bias=bias, kind=library.LAYER_NORM, eps=module.eps)
        return None

    def _address(self, tensor: Tensor) -> int:
        self._watched.append(tensor)
        return tensor.data_ptr()
