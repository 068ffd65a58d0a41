"""Deltas between registries: folders that several can reach, and repositories of a hub."""

import contextlib
import tempfile
from collections.abc import Generator
from pathlib import Path

from dunwu.core.errors import DataError, ModelError
from dunwu.delta.library import DeltaEntry, Library, require_name
from dunwu.model.fetch import is_hub_name


def on_hub(place: str) -> bool:
    """Whether a place is a repository of a hub (owner/name) and no folder of this machine."""
    path = Path(place).expanduser()
    return is_hub_name(place) and not path.exists() and not path.parent.is_dir()


def push(name: str, library: Library, place: str) -> DeltaEntry:
    """Copy an entry into another registry: a folder, or a repository of a hub, which is made (private) where there is none.

    Raises RecipeError where that registry has the name already, ModelError where the entry is damaged or the hub cannot be reached.
    """
    entry, folder = library.entry(name), library.files(name)
    if not on_hub(place):
        return Library(Path(place).expanduser()).add(folder, entry)
    import huggingface_hub  # only where it is needed: it takes a third of a second

    try:
        api = huggingface_hub.HfApi()
        api.create_repo(place, private=True, exist_ok=True)
        if any(file.startswith(f"{name}/") for file in api.list_repo_files(place)):
            raise DataError(
                f"there is a delta {name!r} in {place} already; add it here under another name, and push that"
            )
        api.upload_folder(repo_id=place, folder_path=folder, path_in_repo=name, commit_message=f"Add the delta {name}")
    except DataError:
        raise
    except (
        Exception
    ) as error:  # the library's own, its HTTP library's and the system's errors, of which versions differ
        raise ModelError(_explain(place, error, "written")) from error
    return entry


def pull(name: str, library: Library, place: str) -> DeltaEntry:
    """Copy an entry of another registry, a folder or a hub's repository, into this one; what comes is looked at first.

    Raises RecipeError where the name cannot be one or is taken here, ModelError where there is no such entry or it is damaged.
    """
    require_name(name)
    with _registry(place, name) as other:
        return library.add(other.files(name), other.entry(name))


@contextlib.contextmanager
def _registry(place: str, name: str) -> Generator[Library]:
    if not on_hub(place):
        folder = Path(place).expanduser()
        if not folder.is_dir():
            raise ModelError(f"{place} does not exist; give a registry's folder, or owner/name of one on a hub")
        yield Library(folder)
        return
    import huggingface_hub

    with tempfile.TemporaryDirectory(prefix="dunwu-delta-") as fetched:
        patterns = [f"{name}/*.json", f"{name}/*.safetensors"]
        try:
            huggingface_hub.snapshot_download(place, local_dir=fetched, allow_patterns=patterns)
        except Exception as error:  # as above
            raise ModelError(_explain(place, error, "read")) from error
        yield Library(Path(fetched))


def _explain(place: str, error: Exception, done: str) -> str:
    from huggingface_hub import constants, errors

    where = f"{constants.ENDPOINT}/{place}"
    folder = f"if {place} is a folder that is still to be made, write ./{place}"
    if isinstance(error, errors.GatedRepoError | errors.RepositoryNotFoundError):
        return f"{where} does not exist, or you may not read it; check the spelling, or set HF_TOKEN; {folder}"
    if isinstance(error, errors.OfflineModeIsEnabled) or constants.HF_HUB_OFFLINE:
        return (
            f"{where} cannot be {done}: HF_HUB_OFFLINE forbids it; unset that, or use a folder that both machines reach"
        )
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status in (401, 403):
        return f"{where} cannot be {done}: set HF_TOKEN to a token of yours that may ({status}); {folder}"
    lines = str(error.__cause__ or error).strip().splitlines()
    first = f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__
    return (
        f"{where} cannot be {done} ({first}); check the network and try again, set HF_ENDPOINT to a mirror's address, or use a "
        f"folder that both machines reach; {folder}"
    )
