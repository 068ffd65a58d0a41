"""How byte-level vocabularies spell bytes, and what text can be encoded at all."""

import functools


@functools.cache
def byte_of_character() -> dict[str, int]:
    """GPT-2's printable stand-in for each byte: visible Latin-1 stands for itself, the others for U+0100 and on."""
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [number for number in range(256) if number not in visible]
    table = {chr(number): number for number in visible}
    return table | {chr(0x100 + place): number for place, number in enumerate(hidden)}


def well_formed(text: str) -> str:
    """`text` with lone surrogates, which no UTF-8 text can hold, as U+FFFD."""
    if text.isascii():
        return text
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text
