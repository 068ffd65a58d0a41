"""A model by name: a folder of this machine, or one of a hub, downloaded once into the hub's own cache.

`huggingface_hub` does the work and reads its own settings: HF_ENDPOINT (a mirror), HF_HUB_OFFLINE=1 (the cache alone),
HF_HOME (where the cache lies), HF_TOKEN (for models that ask for a licence). A download that was cut off goes on where it
stopped. Weights come as safetensors only; nothing that could be run is fetched.
"""

import fnmatch
import os
import re
from pathlib import Path
from urllib.parse import urlsplit

from dunwu.core.errors import ModelError
from dunwu.core.files import sha256_file
from dunwu.core.modelfiles import HUB_NAME, REPEATED_TOKENIZER_FILES, TOKENIZER_FILES

WEIGHTS = ("model.safetensors", "model-*-of-*.safetensors")
FILES = (
    "config.json",
    "generation_config.json",
    "model.safetensors.index.json",
    *TOKENIZER_FILES,
    *REPEATED_TOKENIZER_FILES,
    "README.md",
    "LICENSE*",
    "LICENCE*",
)
"""What is fetched of a model beside its weights: what dunwu reads, and what says how the model may be used."""
_HTTP_LIBRARIES = {"httpx", "httpx2", "httpcore", "requests", "urllib3"}


def is_hub_name(name: str) -> bool:
    """Whether a name has the form owner/name."""
    return re.fullmatch(HUB_NAME, name) is not None


def model_folder(name: str | Path, *, revision: str | None = None, weights: bool = True) -> Path:
    """The folder of a model: `name` itself where there is such a folder, else the model `owner/name` of the hub.

    `revision`: a branch, tag or commit; the main branch by default. Downloads what is not in the cache; with `weights` False
    only the small files.
    Raises ModelError where there is neither, or the network does not bring it.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    if folder.is_file():
        raise ModelError(
            f"{name} is a file; give the model's folder, or make one of the file with `dunwu import {name}`"
        )
    if isinstance(name, Path) or not is_hub_name(name):
        raise ModelError(f"{name} does not exist; give the folder of a model, or owner/name of one on the hub")
    return _download(name, revision, [*FILES, *WEIGHTS] if weights else [*FILES])


def _download(name: str, revision: str | None, patterns: list[str]) -> Path:
    import huggingface_hub  # only where it is needed: it takes a third of a second

    try:
        if any(pattern in patterns for pattern in WEIGHTS):
            _download_weights(name, revision)
        folder = Path(huggingface_hub.snapshot_download(name, revision=revision, allow_patterns=patterns))
    except (
        Exception
    ) as error:  # the library's own, its HTTP library's and the system's errors, of which versions differ
        raise ModelError(_explain(name, revision, error)) from error
    if not (folder / "config.json").exists():
        raise ModelError(
            f"{name} on the hub has no config.json, so it is not a model that dunwu reads; it may hold GGUF files or an "
            "adapter: give the model that these were made from"
        )
    return folder


def _download_weights(name: str, revision: str | None) -> None:
    """Put the large files into the cache, each going on where an earlier try stopped, even one that was killed.

    `huggingface_hub` (2.4) resumes within one call only, and throws away what a stopped call had of a file. Here the part is
    kept beside its place in the cache, and takes that place when its checksum is right. Does nothing without a network.
    """
    from huggingface_hub import HfApi, constants, errors, file_download
    from huggingface_hub.utils import WeakFileLock

    if constants.HF_HUB_OFFLINE:
        return
    try:
        commit = HfApi().model_info(name, revision=revision).sha  # first, since it does not try again and again
        listed = list(HfApi().list_repo_tree(name, revision=commit))
    except (errors.HfHubHTTPError, OSError):
        return  # `snapshot_download` looks into the cache, or says what is wrong
    except Exception as error:
        if type(error).__module__.partition(".")[0] not in _HTTP_LIBRARIES:
            raise
        return
    repository = file_download.repo_folder_name(repo_id=name, repo_type="model")
    blobs = Path(constants.HF_HUB_CACHE) / repository / "blobs"
    locks = Path(constants.HF_HUB_CACHE) / ".locks" / repository  # the library's own
    for entry in listed:
        checksum = getattr(getattr(entry, "lfs", None), "sha256", None)
        is_weights = any(fnmatch.fnmatchcase(entry.path, pattern) for pattern in WEIGHTS)
        if not (is_weights and checksum and re.fullmatch("[0-9a-f]{64}", checksum)) or (blobs / checksum).exists():
            continue
        blobs.mkdir(parents=True, exist_ok=True)
        locks.mkdir(parents=True, exist_ok=True)
        with WeakFileLock(locks / f"{checksum}.lock"):
            _download_file(file_download.hf_hub_url(name, entry.path, revision=commit), blobs / checksum, entry.path)


def _download_file(url: str, blob: Path, name: str) -> None:
    """Fetch `url` to `blob`, whose name is its SHA-256. Raises ModelError when what came is something else."""
    from huggingface_hub import file_download
    from huggingface_hub.utils import build_hf_headers

    if blob.exists():  # another process was faster
        return
    about = file_download.get_hf_file_metadata(url)
    headers = build_hf_headers()
    if urlsplit(about.location).netloc != urlsplit(url).netloc:
        headers.pop("authorization", None)  # the token is for the hub, not for where it keeps its files
    part = blob.with_name(f"{blob.name}.part")
    with part.open("ab") as file:
        if about.size is not None and file.tell() > about.size:
            file.truncate(0)
        file_download.http_get(
            about.location,
            file,
            resume_size=file.tell(),
            headers=headers,
            expected_size=about.size,
            displayed_filename=name,
        )
        file.flush()
        os.fsync(file.fileno())
    if sha256_file(part) != blob.name:
        part.unlink()
        raise ModelError(f"{name} from {url} came damaged: its SHA-256 is not {blob.name}; run the same command again")
    os.replace(part, blob)


def _explain(name: str, revision: str | None, error: Exception) -> str:
    """What went wrong and what to do about it."""
    from huggingface_hub import constants, errors

    where = constants.ENDPOINT
    by_hand = (
        f"or download the files of {where}/{name} by any other way into a folder, and give the folder "
        "(config.json, *.safetensors, tokenizer*.json)"
    )
    if isinstance(error, errors.GatedRepoError):
        return (
            f"{name} asks you to accept its licence: do so at {where}/{name}, then set HF_TOKEN to a token of yours that may "
            "read it, and run the same command again"
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return f"{name} has no revision {revision!r}; give a branch, tag or commit that {where}/{name}/tree/main lists"
    if isinstance(error, errors.RepositoryNotFoundError):
        return f"{name} is neither a folder here nor a model at {where}; check the spelling, or set HF_TOKEN if it is private"
    if isinstance(error, PermissionError) or getattr(error, "errno", None) == 28:
        return (
            f"{name} cannot be written to {constants.HF_HUB_CACHE} ({error}); free some space, or set HF_HOME to a folder that "
            "you may write"
        )
    if isinstance(error, errors.HFValidationError):
        return f"{name} is neither a folder here nor a possible name on the hub; give owner/name"
    if constants.HF_HUB_OFFLINE:
        return (
            f"{name} is not whole in the cache {constants.HF_HUB_CACHE}, and HF_HUB_OFFLINE={os.environ.get('HF_HUB_OFFLINE', 1)} "
            f"forbids to fetch it; unset that, {by_hand}"
        )
    return (
        f"{name} is no folder here, and could not be fetched from {where} ({_first_line(error)}); check the network and run the "
        f"same command again: what has come is kept. Where {where} cannot be reached, set HF_ENDPOINT to a mirror's address, "
        f"{by_hand}"
    )


def _first_line(error: Exception) -> str:
    cause = error.__cause__ or error
    lines = str(cause).strip().splitlines()
    return f"{type(cause).__name__}: {lines[0][:200]}" if lines else type(cause).__name__
