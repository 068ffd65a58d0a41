"""A delta: few numbers that change what a finished, frozen model does, and can be taken off again.

The seam. A method is a subclass of `Delta` in a file of its own, a specification in `core/deltas.py` and a line in
`registry.py`; everything else (count, save, load, switch, weigh, merge, train) follows from a few things that it says:

- Its parameters: registered on the delta as on any module, never on the model, whose own names and weights stay as they were.
  Trained are those with `requires_grad`. Buffers that `load` must bring back are registered as persistent.
- `hooks()`: puts its hooks on the model's modules and yields their handles. A hook does nothing unless `self.active`, and what
  it adds counts `self.weight` times. Attention, MLPs and the rest know nothing of it. What a hook can reach:
  - after a linear layer, `place.product` (LoRA, and scaling as (IA)³ does; stacks of experts are such places too);
  - after or beside a sublayer: `block.self_attn` and `block.mlp`, input and output `[B, T, D]` (bottleneck adapters);
  - before attention: a pre-hook on `block.self_attn` gets `(x, reading, layer)` and may hand on another reading, whose
    `attend` or `remember` adds keys and values (prefixes);
  - around the decoder: pre-hooks with keyword arguments on `model`, and hooks on `model.model.embed_tokens` and
    `model.model.norm` (prompts: embeddings in front, cut off again at the end).
- `changed()`: for methods that can be merged, the matrices that the model would need to do the same by itself: pairs of a place
  and its new value in float32, made one after another. Methods that cannot (`mergeable` False) say so when asked.
- `exchanged()`: for kinds that peft has, configuration and tensors as it has them; `peft_kinds.py` reads them back.
- `row_wise`: whether each hook stands at a linear layer (before or behind it), or behind an attention or an MLP, and gives each
  row (one token) its input or output from that row alone. Then an engine can let it change some requests of a batch only
  (`rows.py`).
- `differences()`: for methods that train a part of the model's own parameters: what is added to these while the delta counts, by
  the model's names; see `standins.py`. The sums lie in the model, so that kernels and gradients see them.

Several may be attached to one model, also of different methods, trained or not. They apply in the order in which they were
attached; those on one matrix add up.
"""

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from dunwu.core.deltas import DeltaSpec
from dunwu.core.errors import ModelError
from dunwu.delta.exchange import Exchange
from dunwu.delta.fingerprint import base_fingerprint
from dunwu.delta.places import Kept, Place
from dunwu.delta.standins import Difference, lifted, settle, standing
from dunwu.model.decoder import Decoder

Spec = TypeVar("Spec", bound=DeltaSpec)


@dataclass(frozen=True, kw_only=True)
class Merged:
    """What a merge did: the greatest error over the matrices (root of the mean square, as a share of the matrix's own) that
    storing the sums brought, and where. 0 for a model in float32; rounding to bfloat16 or to few bits is not nothing."""

    matrices: int
    error: float
    worst: str | None


@dataclass(frozen=True, kw_only=True)
class Lent:
    """A hook that is run by hand. `before`: it changes what the module takes."""

    module: nn.Module
    hook: Callable[..., Any]
    before: bool


class Delta(nn.Module, ABC, Generic[Spec]):
    """One delta on one model. Make it with `registry.attach`, which also freezes the model and puts the hooks in."""

    mergeable: bool = True
    multiplies: bool = False  # rather than adds: then it matters what is merged first
    model: Decoder

    def __init__(self, model: Decoder, spec: Spec) -> None:
        super().__init__()
        object.__setattr__(self, "model", model)  # beside, not below: the model's parameters are not the delta's
        self.spec = spec
        self._handles: list[RemovableHandle] = []
        self._froze: list[nn.Parameter] = []
        self.base: Mapping[str, str] = {}
        self._kept: list[tuple[Place, Kept]] | None = None
        self._attached, self._enabled, self._weight, self._order = False, True, 1.0, 0

    # What a method says

    @abstractmethod
    def hooks(self) -> Iterator[RemovableHandle]:
        """Put the hooks in, and yield their handles."""

    def changed(self) -> Iterator[tuple[Place, Tensor]]:
        """Places, and what they hold once this is merged, float32; `self.weight` is counted in."""
        yield from ()

    def differences(self) -> Mapping[str, Difference]:
        """What is added at present to the model's own parameters, by the model's names; nothing while this does not count."""
        return {}

    def lr_factor(self, name: str) -> float:
        """What the learning rate of a parameter (a name of `trained`) is multiplied by."""
        return 1.0

    def exchanged(self) -> Exchange | None:
        """This delta as peft has it, for kinds that it has; None for others."""
        return None

    @property
    def row_wise(self) -> bool:
        """Whether what the hooks do to a token follows from that token's row alone."""
        return False

    def start_from(self, batches: Iterable[Callable[[], object]]) -> None:
        """Called before training begins, and again when it goes on: for starts that look at what the model reads. Each of
        `batches`, few and always the same, runs the model once and gives its loss."""

    # What follows

    @property
    def active(self) -> bool:
        """Whether the hooks do anything: enabled, attached, not merged, of a weight that is not 0."""
        return self._counts

    @property
    def columns_in_front(self) -> int:
        """How many columns it puts in front of every text, at present."""
        return 0

    @property
    def enabled(self) -> bool:
        return self._enabled

    @property
    def merged(self) -> bool:
        return self._kept is not None

    @property
    def weight(self) -> float:
        """How often it counts; 1 is as it was trained. A merged one cannot be weighed anew."""
        return self._weight

    @weight.setter
    def weight(self, value: float) -> None:
        if self.merged:
            raise ModelError(f"the weight of a merged {self.spec.name} cannot become {value}; unmerge it first")
        self._weight = float(value)
        settle(self.model)

    def trained(self) -> dict[str, nn.Parameter]:
        """What learns, by name."""
        return {name: parameter for name, parameter in self._named() if parameter.requires_grad}

    @property
    def count(self) -> int:
        """How many numbers learn."""
        return sum(parameter.numel() for parameter in self.trained().values())

    def tensors(self) -> dict[str, Tensor]:
        """All that makes this delta, beside its specification, by name: what is saved, and what `load` takes."""
        return {name.replace("/", "."): tensor.detach() for name, tensor in self.state_dict().items()}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Copy saved tensors in. Raises ModelError where names or shapes differ: they are of another delta or model."""
        mine = self.tensors()
        if set(mine) != set(tensors):
            missing, over = sorted(set(mine) - set(tensors)), sorted(set(tensors) - set(mine))
            raise ModelError(
                f"the saved {self.spec.name} does not fit this model and specification: missing {missing[:3]}, unknown "
                f"{over[:3]} ({len(missing)} and {len(over)} in all); load it with its own specification on its own base"
            )
        for name, tensor in mine.items():
            if tensor.shape != tensors[name].shape:
                raise ModelError(
                    f"the saved {self.spec.name} has {name} of {list(tensors[name].shape)}, and here it is "
                    f"{list(tensor.shape)}; it belongs to another base, or to another specification"
                )
        with torch.no_grad():
            for name, tensor in mine.items():
                tensor.copy_(tensors[name])

    def enable(self) -> None:
        self._enabled = True
        settle(self.model)

    def disable(self) -> None:
        """The model does as before, until `enable`. Raises ModelError when merged: there is nothing to switch off."""
        if self.merged:
            raise ModelError(f"a merged {self.spec.name} cannot be disabled; unmerge it first")
        self._enabled = False
        settle(self.model)

    @contextlib.contextmanager
    def disabled(self) -> Generator[None]:
        """Within, the model does as it would without."""
        before = self._enabled
        self.disable()
        try:
            yield
        finally:
            if before:
                self.enable()

    # Attaching and detaching

    def attach(self) -> None:
        """Freeze the model and put the hooks in; `registry.attach` calls it."""
        theirs = {id(parameter) for parameter in standing(self.model)}
        self.base = base_of(self.model)
        learning = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self._froze = [parameter for parameter in learning if id(parameter) not in theirs]
        for parameter in self._froze:
            parameter.requires_grad_(False)
        self.model.changes = (*self.model.changes, self)
        self._handles = list(self.hooks())
        self._attached = True
        settle(self.model)

    def lend(self) -> list[Lent]:
        """The hooks and the modules that they stand at, for who runs them by hand; the model keeps none of them."""
        before = {id(module._forward_pre_hooks): module for module in self.model.modules()}
        behind = {id(module._forward_hooks): module for module in self.model.modules()}
        lent: list[Lent] = []
        for handle in list(self.hooks()):
            hooks = handle.hooks_dict_ref()
            assert hooks is not None
            module = before.get(id(hooks)) or behind.get(id(hooks))
            assert module is not None, "a row-wise delta has hooks at modules alone"
            lent.append(Lent(module=module, hook=hooks[handle.id], before=id(hooks) in before))
            handle.remove()
        self._attached = True
        return lent

    def detach(self) -> None:
        """Take it off: the model is as it was before, bit for bit, and learns again what it learned once all are off."""
        if self.merged:
            self.unmerge()
        self._leave()

    def unhook(self) -> None:
        """Take the hooks out for a while: what they stand on is about to change."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def rehook(self) -> None:
        """Put hooks in anew, where it is attached."""
        self._handles = list(self.hooks()) if self._attached else []

    def _leave(self) -> None:
        self.unhook()
        self._attached = False
        settle(self.model)
        others = [change for change in self.model.changes if change is not self]
        self.model.changes = tuple(others)
        heir = next((change for change in others if isinstance(change, Delta)), None)
        if heir is not None:
            heir._froze += self._froze
        else:
            for parameter in self._froze:
                parameter.requires_grad_(True)
        self._froze = []

    # Merging

    def merge(self) -> Merged:
        """Put the change into the model's matrices: as fast as without, and what the model was is kept for `unmerge`.

        Raises ModelError for a method that cannot, one that is merged or disabled.
        """
        self._require_mergeable()
        self._order = 1 + max((change._order for change in self.model.changes if isinstance(change, Delta)), default=0)
        self._kept, error, worst = [], 0.0, None
        try:
            with lifted(self.model):
                for place, value in self.changed():
                    kept, own = place.replace(value)
                    self._kept.append((place, kept))
                    if own > error:
                        error, worst = own, place.name
        except BaseException:
            with lifted(self.model):
                self._put_back()
            raise
        return Merged(matrices=len(self._kept), error=error, worst=worst)

    def unmerge(self) -> None:
        """The model's matrices as they were, bit for bit; those that were merged later are merged again on top.

        Raises ModelError when it is not merged.
        """
        if not self.merged:
            raise ModelError(f"this {self.spec.name} is not merged; merge it first, or leave it attached as it is")
        others = [change for change in self.model.changes if isinstance(change, Delta) and change.merged]
        later = sorted((other for other in others if other._order > self._order), key=lambda other: other._order)
        for other in later:
            if (self.multiplies or other.multiplies) and self._touched() & other._touched():
                raise ModelError(
                    f"{other.spec.name} was merged after this {self.spec.name} into the same matrices, one of them by factors; "
                    f"unmerge {other.spec.name} first"
                )
        with lifted(self.model):
            for other in reversed(later):
                other._put_back()
            self._put_back()
        for other in later:
            other.merge()

    def absorb(self) -> Merged:
        """Merge for good: the model keeps the change, what it was is forgotten, and the delta is off."""
        merged = self.merge()
        self._kept = None
        self._leave()
        return merged

    def _require_mergeable(self) -> None:
        method = self.spec.name
        if not self.mergeable:
            raise ModelError(
                f"{method} cannot be merged: no weights do the same; leave it attached, or save it beside the base"
            )
        if self.merged:
            raise ModelError(f"this {method} is merged already; unmerge it first")
        if not self._enabled or not self._attached:
            state = "disabled" if self._attached else "detached"
            raise ModelError(f"a {state} {method} cannot be merged; enable it, or attach it anew")
        self._require_turn()

    def _require_turn(self) -> None:
        """Sums and products of one matrix do not commute: what multiplies is merged last, or alone."""
        before = True
        for other in self.model.changes:
            if other is self:
                before = False
            elif isinstance(other, Delta) and other._counts and self._clashes(other, before):
                raise ModelError(
                    f"{self.spec.name} and {other.spec.name} change the same matrices, one of them by factors, and merging "
                    f"{self.spec.name} first would change what they do; merge {other.spec.name} first, or disable it"
                )

    def _clashes(self, other: "Delta[Any]", before: bool) -> bool:
        factors = self.multiplies or (before and other.multiplies and not self.differences())
        return factors and bool(self._touched() & other._touched())

    def _touched(self) -> set[str]:
        names = self.tensors()
        return {*names, *(name.rpartition(".")[0] for name in names)}

    def _put_back(self) -> None:
        for place, kept in reversed(self._kept or []):
            place.restore(kept)
        self._kept = None

    @property
    def _counts(self) -> bool:
        return self._enabled and self._kept is None and self._weight != 0.0 and self._attached

    def _named(self) -> Iterator[tuple[str, nn.Parameter]]:
        for name, parameter in self.named_parameters():
            yield name.replace("/", "."), parameter


def base_of(model: Decoder) -> Mapping[str, str]:
    """Which base the model is, whatever is attached to it."""
    known = (change.base for change in model.changes if isinstance(change, Delta))
    return next(known, None) or base_fingerprint(model)
