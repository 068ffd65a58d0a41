"""Random JSON schemas: objects, arrays, enums, numbers with bounds, strings with lengths and patterns, choices, nested."""

import random
from typing import Any

PATTERNS = [
    "^[a-z]{2,5}$",
    "^\\d{3}-\\d{4}$",
    "^(ab|cd)+$",
    "[a-f0-9]",
    "^x?y*z$",
    '^[^\\s"]{1,6}$',
    "^第\\d{1,3}回$",
]
NAMES = ["name", "age", "a b", 'quo"te', "back\\slash", "名字", "x", "items", "$ref", "", "🙂"]


def random_schema(chance: random.Random, depth: int = 3) -> dict[str, Any]:
    kinds = [_string, _integer, _number, _literal, _pattern]
    if depth > 0:
        kinds += [_object, _object, _array, _array, _either]
    return chance.choice(kinds)(chance, depth)


def _string(chance: random.Random, _: int) -> dict[str, Any]:
    least = chance.randint(0, 4)
    return {"type": "string", "minLength": least, "maxLength": least + chance.randint(0, 6)}


def _pattern(chance: random.Random, _: int) -> dict[str, Any]:
    return {"type": "string", "pattern": chance.choice(PATTERNS)}


def _integer(chance: random.Random, _: int) -> dict[str, Any]:
    low = chance.randint(-1000, 1000)
    schema: dict[str, Any] = {"type": "integer", "minimum": low, "maximum": low + chance.randint(0, 500)}
    if chance.random() < 0.3:
        schema = {"type": "integer", "exclusiveMinimum": low}
    return schema


def _number(chance: random.Random, _: int) -> dict[str, Any]:
    low = round(chance.uniform(-50, 50), 2)
    upper = chance.choice(["maximum", "exclusiveMaximum"])
    return {"type": "number", "minimum": low, upper: low + chance.choice([0.5, 1, 17.25])}


def _literal(chance: random.Random, _: int) -> dict[str, Any]:
    values = [None, True, False, 0, -3, 2.5, "", "yes", "a\nb", "猫", [1, "two"], {"k": None}]
    if chance.random() < 0.3:
        return {"const": chance.choice(values)}
    if chance.random() < 0.3:
        return {"type": chance.choice(["null", "boolean"])}
    return {"enum": chance.sample(values, chance.randint(1, 6))}


def _object(chance: random.Random, depth: int) -> dict[str, Any]:
    names = chance.sample(NAMES, chance.randint(0, 4))
    properties = {name: random_schema(chance, depth - 1) for name in names}
    required = [name for name in names if chance.random() < 0.6]
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def _array(chance: random.Random, depth: int) -> dict[str, Any]:
    least = chance.randint(0, 2)
    most = least + chance.randint(0, 2)
    if chance.random() < 0.2:
        items = [random_schema(chance, depth - 1) for _ in range(chance.randint(1, 3))]
        return {"type": "array", "prefixItems": items, "items": False, "minItems": len(items)}
    return {"type": "array", "items": random_schema(chance, depth - 1), "minItems": least, "maxItems": most}


def _either(chance: random.Random, depth: int) -> dict[str, Any]:
    return {"anyOf": [random_schema(chance, depth - 1) for _ in range(chance.randint(2, 3))]}
