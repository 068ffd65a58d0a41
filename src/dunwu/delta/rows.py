"""A delta for some rows of a pass alone: what its hooks do, taken off the model, so that a batch may mix deltas.

Shapes: `n` rows, `I` inputs, `O` outputs.
"""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from dunwu.core.errors import ModelError
from dunwu.delta.base import Delta

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
    for module, hook in delta.lend():
        name = names[id(module)]
        changes[name] = _after(changes.get(name), module, hook)
    return changes


def _after(first: RowChange | None, module: nn.Module, hook: Callable[..., Any]) -> RowChange:
    def change(x: Tensor, output: Tensor) -> Tensor:
        if first is not None:
            output = first(x, output)
        changed = hook(module, (x,), output)
        return output if changed is None else changed

    return change
