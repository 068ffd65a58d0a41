"""Finished deltas, kept in a registry."""

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import App, Parameter

from dunwu.cli.given import AnyBase, AsJson, Model, Registry, work

deltas = App(name="delta", help="Finished deltas: kept, looked at, merged, handed on.", help_format="plaintext")
DeltaArgument = Annotated[str, Parameter(help="The delta's name in the registry.")]
AnyDelta = Annotated[str, Parameter(help="A name in the registry, or the folder of an adapter.")]


@deltas.command(name="list")
def delta_list(
    *,
    for_: Annotated[str | None, Parameter(name="--for", help="Only those of this model.")] = None,
    as_json: AsJson = False,
    registry: Registry = None,
) -> None:
    """Say which deltas there are: method, size, base. Damaged entries are named."""
    work("deltas").show_all(registry, base=for_, as_json=as_json)


@deltas.command(name="show")
def delta_show(name: DeltaArgument, /, *, as_json: AsJson = False, registry: Registry = None) -> None:
    """Say all that is known of a delta, and check its files."""
    work("deltas").show(name, registry, as_json=as_json)


@deltas.command(name="add")
def delta_add(
    path: Annotated[str, Parameter(help="The folder of an adapter (peft's too), or a build that trained one.")],
    /,
    *,
    name: Annotated[str, Parameter(help="What to call it.")],
    base: Annotated[
        str | None, Parameter(help="The model that it was trained on, if its files do not lead there.")
    ] = None,
    licence: Annotated[str | None, Parameter(help="Under which it may be used; default: what the build says.")] = None,
    note: Annotated[str, Parameter(help="A line on what it is for.")] = "",
    any_base: AnyBase = False,
    registry: Registry = None,
) -> None:
    """Put a delta into the registry, with its base's hash, data, scores, size and licence."""
    work("deltas").add(path, registry, name=name, base=base, licence=licence, note=note, any_base=any_base)


@deltas.command(name="remove")
def delta_remove(name: DeltaArgument, /, *, registry: Registry = None) -> None:
    """Take a delta out of the registry, a damaged one too."""
    work("deltas").remove(name, registry)


@deltas.command(name="merge")
def delta_merge(
    base: Model,
    delta: AnyDelta,
    /,
    *,
    out: Annotated[Path | None, Parameter(help="The folder to make; default: models/BASE-DELTA.")] = None,
    weights: Annotated[
        Literal["float", "int8", "int4"], Parameter(help="Say also what rounding to so few bits would lose.")
    ] = "float",
    any_base: AnyBase = False,
    registry: Registry = None,
) -> None:
    """Write a model with the delta in its weights, for programs that know no deltas."""
    work("deltas").merge(base, delta, registry, out=out, weights=weights, any_base=any_base)


@deltas.command(name="combine")
def delta_combine(
    base: Model,
    /,
    *names: Annotated[str, Parameter(help="Two deltas or more: names in the registry, or folders of adapters.")],
    name: Annotated[str, Parameter(help="What the new delta is called.")],
    how: Annotated[
        Literal["linear", "ties", "dare"],
        Parameter(help="A weighed sum; TIES: what agrees in sign; DARE: a random part of each, enlarged."),
    ] = "linear",
    weights: Annotated[str | None, Parameter(help="How often each counts, such as 0.5,0.5; default: once.")] = None,
    density: Annotated[
        float | None, Parameter(help="The share of its numbers that each keeps; default: ties 0.2, dare 0.5.")
    ] = None,
    rank: Annotated[int | None, Parameter(help="The most that a result of LoRA's kin has.")] = None,
    seed: Annotated[int, Parameter(help="What DARE drops.")] = 0,
    licence: Annotated[str | None, Parameter(help="Of the new one; default: theirs, where they agree.")] = None,
    note: Annotated[str, Parameter(help="A line for those who look it up.")] = "",
    any_base: AnyBase = False,
    registry: Registry = None,
) -> None:
    """Make one delta of several over one base, without training."""
    given = {"weights": weights, "density": density, "rank": rank, "seed": seed, "licence": licence, "note": note}
    work("deltas").combine(base, names, registry, name=name, how=how, any_base=any_base, **given)


@deltas.command(name="push")
def delta_push(
    name: DeltaArgument,
    to: Annotated[str, Parameter(help="Another registry: a shared folder, or owner/name on a hub.")],
    /,
    *,
    registry: Registry = None,
) -> None:
    """Copy a delta into another registry."""
    work("deltas").push(name, to, registry)


@deltas.command(name="pull")
def delta_pull(
    name: DeltaArgument,
    source: Annotated[str, Parameter(help="Another registry: a shared folder, or owner/name on a hub.")],
    /,
    *,
    registry: Registry = None,
) -> None:
    """Copy a delta of another registry into this one, once its checksums are right."""
    work("deltas").pull(name, source, registry)
