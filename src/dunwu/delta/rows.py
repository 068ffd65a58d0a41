"""A delta for some rows of a pass alone: what its hooks do, taken off the model, so that a batch may mix deltas.

Shapes: `n` rows, `I` inputs, `O` outputs.
"""

from collections.abc import Callable
from typing import Any, cast

from torch import Tensor

from dunwu.core.errors import ModelError
from dunwu.delta.base import Delta, Lent

RowChange = Callable[[Tensor, Tensor], Tensor]
"""What a module read, `[1, n, I]`, and what it made of that, `[1, n, O]` → what it shall have made."""


def row_changes(delta: Delta[Any]) -> dict[str, RowChange]:
    """What a delta that is attached nowhere does behind each module, by the module's name in its model.

    Raises ModelError for a delta that does more than change rows.
    """
    if not delta.row_wise:
        method = delta.spec.name
        remedy = (
            "merge it with `dunwu delta merge` and serve the model that comes of it"
            if delta.mergeable
            else "talk to it alone with `dunwu chat MODEL --delta`"
        )
        raise ModelError(f"this {method} changes more than rows, and cannot share a batch with others; {remedy}")
    names = {id(module): name for name, module in delta.model.named_modules()}
    changes: dict[str, RowChange] = {}
    for lent in delta.lend():
        name = names[id(lent.module)]
        assert not (lent.before and name in changes), "what changes the input comes first"
        changes[name] = _anew(lent) if lent.before else _behind(lent, changes.get(name))
    return changes


def _anew(lent: Lent) -> RowChange:
    """What the module makes of changed input, its product made once more for these rows."""

    def change(x: Tensor, output: Tensor) -> Tensor:
        changed = lent.hook(lent.module, (x,))
        return output if changed is None else cast("Tensor", lent.module.forward(*changed))

    return change


def _behind(lent: Lent, first: RowChange | None) -> RowChange:
    def change(x: Tensor, output: Tensor) -> Tensor:
        if first is not None:
            output = first(x, output)
        changed = lent.hook(lent.module, (x,), output)
        return output if changed is None else cast("Tensor", changed)

    return change
