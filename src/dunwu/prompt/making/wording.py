"""What the model is asked, by language. `english` and `chinese` hold the words.

Texts of other languages are asked for in English, with the language named.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from string import Template

NAMES: Mapping[str, str] = {
    "en": "English",
    "zh": "Chinese",
    "de": "German",
    "fr": "French",
    "es": "Spanish",
    "it": "Italian",
    "pt": "Portuguese",
    "nl": "Dutch",
    "ru": "Russian",
    "ja": "Japanese",
    "ko": "Korean",
    "ar": "Arabic",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Wording:
    """One language's words; gaps are written $gap. Each request of a kind has a text for an answer in words, and where a JSON schema
    holds the answer (`…_json`), other words for its form.

    `evolve`: by operation; five make an instruction harder, `breadth` makes another of its kind. `labels`: how fields are written.
    """

    pairs: str  # $count $language $passage $form
    pairs_form: str
    pairs_json: str
    supported: str  # $passage $question $answer $form
    tasks: str  # $tasks $number $count $language $form
    tasks_form: str
    tasks_json: str
    task: str  # $number $task
    is_classification: str  # $task $form
    instances: str  # $task $language $form
    labelled_instances: str  # $task $language $form
    instances_form: str
    instances_json: str
    another: str  # $examples $number $language $form
    another_form: str
    another_json: str
    example: str  # $number $instruction $input $constraints
    complete: str  # $instruction $input $constraints
    paraphrase: str  # $instruction $count $language $form
    evolve: Mapping[str, str]  # $instruction $language
    equal: str  # $old $new $form
    yes_no_form: str
    yes_no_json: str
    nothing: str  # what stands for no input, or no constraints
    labels: Mapping[str, Sequence[str]]


def filled(template: str, **gaps: object) -> str:
    """The template with its gaps filled; what stands in the gaps is not looked at."""
    return Template(template).substitute(gaps)


def prompt_name(name: str, language: str, *templates: str) -> str:
    """What a row says of the words by which it was made: they are known by their hash, whoever changes them."""
    return f"{name}/{language}/{hashlib.sha256(chr(0).join(templates).encode()).hexdigest()[:8]}"
