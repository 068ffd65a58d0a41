"""A step that fills a template."""

from collections.abc import Mapping, Sequence
from typing import Any

from dunwu.core.errors import DunwuError, PromptError
from dunwu.core.templates import Template
from dunwu.prompt.chains.running import Outcome, Run, Values
from dunwu.prompt.chains.step import Step


class Fill(Step):
    """Takes the template's variables, gives its text."""

    kind = "fill"

    def __init__(self, template: str | Template, *, gives: str = "prompt") -> None:
        self.template = as_template(template, "the template of fill")
        self.takes, self.optional = takes_of(self.template)
        self.gives = {gives: str}

    async def do(self, items: Sequence[Values], run: Run, path: str, attempt: int) -> list[Outcome]:
        return [self._filled(item) for item in items]

    def _filled(self, item: Values) -> Outcome:
        try:
            return Outcome(values={self.answer: self.template.render(item)})
        except DunwuError as error:
            return Outcome(error=error)

    def spec(self) -> dict[str, Any]:
        return {"fill": text_of(self.template), "gives": self.answer}


def as_template(template: str | Template, name: str) -> Template:
    """Raises PromptError for text that is none."""
    return template if isinstance(template, Template) else Template(template, name=name)


def takes_of(template: Template) -> tuple[dict[str, Any], frozenset[str]]:
    """What a template needs, with the kinds that it says, and what it can do without."""
    return {name: template.types.get(name, Any) for name in template.variables}, template.optional


def together(*parts: tuple[Mapping[str, Any], frozenset[str]]) -> tuple[dict[str, Any], frozenset[str]]:
    """What several templates need."""
    takes: dict[str, Any] = {}
    for names, _ in parts:
        takes |= names
    needed = {name for names, optional in parts for name in names if name not in optional}
    return takes, frozenset(takes.keys() - needed)


def text_of(template: Template) -> str:
    """For YAML, which holds no types of variables."""
    if template.types:
        raise PromptError(f"{template.name} has types, which YAML cannot hold; give them among the chain's inputs")
    return template.text
