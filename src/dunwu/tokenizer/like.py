"""What every tokenizer offers, ours and those of open models."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

Ids = npt.NDArray[np.int32]


class TokenizerLike(Protocol):
    """Text ↔ ids. What somebody typed is never parsed as a special token."""

    @property
    def vocab_size(self) -> int:
        """One more than the greatest id; `unused_ids` are the ids below it that stand for nothing."""
        ...

    @property
    def rows_needed(self) -> int:
        """One more than the greatest id that a text can become: a model needs so many rows of embeddings."""
        ...

    @property
    def unused_ids(self) -> Sequence[int]: ...

    @property
    def eos_id(self) -> int:
        """What ends a document."""
        ...

    @property
    def start_ids(self) -> Sequence[int]:
        """What stands before a text; empty for models that want nothing there."""
        ...

    @property
    def stop_ids(self) -> Sequence[int]:
        """All that end a turn or a text."""
        ...

    @property
    def special_ids(self) -> Mapping[str, int]:
        """Tokens that are no text: `decode` leaves them out."""
        ...

    @property
    def chat_template(self) -> str | None:
        """The Jinja text of the chat template; None for a model without one."""
        ...

    @property
    def spells_bytes(self) -> bool:
        """Whether decoding is joining `id_bytes`: true of byte-level vocabularies."""
        ...

    def encode(self, text: str) -> list[int]: ...
    def encode_array(self, text: str) -> Ids: ...
    def encode_batch(self, texts: Sequence[str], *, threads: int = 1) -> list[Ids]: ...
    def decode(self, ids: Iterable[int], skip_special: bool = True) -> str: ...
    def id_bytes(self, number: int) -> bytes: ...
    def bytes_per_token(self, texts: Iterable[str]) -> float: ...
