"""YAML 1.2: `1e-4` is a number, `no` is text, and a key written twice is refused."""

import io
from typing import Any

from ruamel.yaml import YAML


def parse_yaml(text: str) -> Any:
    """Plain lists, dictionaries and scalars. Raises ruamel's YAMLError."""
    return YAML(typ="safe", pure=True).load(text)  # pyright: ignore[reportUnknownMemberType] -- ruamel is untyped


def format_yaml(value: Any) -> str:
    """YAML for people: block style, keys in the order given."""
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    yaml.allow_unicode = True
    yaml.sort_base_mapping_type_on_output = False  # pyright: ignore[reportAttributeAccessIssue] -- ruamel is untyped
    stream = io.StringIO()
    yaml.dump(value, stream)  # pyright: ignore[reportUnknownMemberType] -- ruamel is untyped
    return stream.getvalue()
