"""What several rooms must agree on: the files of a tokenizer, a model's name on the hub, a mark in chat templates,
a set of phrasings."""

TEMPLATE_FOLDER = "additional_chat_templates"
"""Where transformers keeps chat templates beyond the first, each as NAME.jinja; the one folder within a model's."""

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "chat_template.json",
    f"{TEMPLATE_FOLDER}/*.jinja",
)
"""All that is read of a tokenizer: whoever fetches, copies or hands on a model takes these, as patterns."""

REPEATED_TOKENIZER_FILES = ("added_tokens.json", "vocab.json", "merges.txt")
"""What older software reads. They repeat `tokenizer.json`, and would contradict an extended one."""

HUB_NAME = r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*"
"""owner/name, as a regular expression."""

GENERATION_TAG = r"\{%([-+]?)\s*(end)?generation\s*([-+]?)%\}"
"""`{% generation %}` and `{% endgeneration %}`, as a regular expression: what to do with the blanks before, "end", those after."""


def is_phrasings_file(name: str) -> bool:
    """Whether a set of phrasings is a file of one's own, by its name, and not one that comes with dunwu."""
    return name.lower().endswith((".yaml", ".yml", ".json"))
