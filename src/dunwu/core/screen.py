"""Text that others wrote, on a terminal: control characters and escapes are shown, not obeyed."""

_C0 = {code: chr(0x2400 + code) for code in range(0x20) if chr(code) not in "\n\t"}
_OTHERS = (0x7F, *range(0x80, 0xA0), 0x061C, 0x200E, 0x200F, *range(0x2028, 0x202F), *range(0x2066, 0x206A))
_STEERING = dict.fromkeys(_OTHERS, "\ufffd")  # C1 controls, and marks that turn the direction of writing
_SURROGATES = dict.fromkeys(range(0xD800, 0xE000), "\ufffd")  # of names that are not UTF-8; no stream takes them
_VISIBLE = _C0 | _STEERING | _SURROGATES


def harmless(text: str) -> str:
    """`text` with every control character but newline and tab made visible, and direction marks replaced."""
    return text.translate(_VISIBLE)
