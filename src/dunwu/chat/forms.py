"""How families of models write calls of tools, and the grammar that makes an answer keep to a form and to the tools' schemas."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from dunwu.core.errors import RecipeError
from dunwu.infer.constrain import Constraint
from dunwu.tokenizer.like import TokenizerLike
from dunwu.tokenizer.open import OpenTokenizer

Tool = Mapping[str, Any]
ToolChoice = Literal["none", "auto", "required"] | Mapping[str, Any]
MOST_CALLS = 16  # of one answer


@dataclass(frozen=True, slots=True, kw_only=True)
class CallForm:
    """`{"name": …, key: {…}}` between `opening` and `closing`; one after the other, or in a list. `bare`: the marks are control
    tokens, which text does not show, or there are none, so that a call may begin where the answer begins.
    `id_characters`: how long the id of a call is, of which some templates are particular."""

    opening: str
    closing: str
    key: str = "arguments"
    bare: bool = False
    listed: bool = False
    id_characters: int = 24


HERMES = CallForm(opening="<tool_call>", closing="</tool_call>")
LLAMA = CallForm(opening="<|python_tag|>", closing="", key="parameters", bare=True)
MISTRAL = CallForm(opening="[TOOL_CALLS]", closing="", listed=True, id_characters=9)


def call_form(tokenizer: TokenizerLike) -> CallForm:
    """How this model writes calls, as far as its chat template shows. A template without tools is given them in Hermes' form."""
    template = tokenizer.template_for(tools=True) if isinstance(tokenizer, OpenTokenizer) else tokenizer.chat_template
    template = template or ""
    form = HERMES
    if MISTRAL.opening in template:
        form = MISTRAL
    elif HERMES.opening not in template and '"parameters": ' in template and "tools" in template:
        form = LLAMA
    return replace(form, bare=form.bare or form.opening in tokenizer.special_ids)


def tool_constraint(
    tools: Sequence[Tool], tool_choice: ToolChoice, form: CallForm, *, parallel: bool = True
) -> Constraint | None:
    """What an answer must be, so that its calls fit their tools. None: anything goes.

    `tools` and `tool_choice` in OpenAI's form. "required": the answer is calls; a named function: one call of it; "auto": what
    opens as a call must be one, where a form has an opening. Raises RecipeError for a choice that the tools do not offer.
    """
    functions = [function_of(tool) for tool in tools]
    if tool_choice == "none" or (tool_choice == "auto" and not functions):
        return None
    if not isinstance(tool_choice, str):
        name = _chosen_name(tool_choice)
        functions, parallel = [one for one in functions if one.get("name") == name], False
        if not functions:
            known = ", ".join(repr(function_of(tool).get("name")) for tool in tools) or "none"
            raise RecipeError(
                f"tool_choice names the function {name!r}, and the tools are: {known}; choose one of them"
            )
    elif tool_choice not in ("auto", "required"):
        raise RecipeError(f"tool_choice={tool_choice!r}; use 'none', 'auto', 'required', or name a function")
    elif not functions:
        raise RecipeError("tool_choice='required' without tools; give at least one")
    if tool_choice == "auto" and form.bare:
        return None
    described = [
        {"name": one.get("name"), "parameters": one.get("parameters") or {"type": "object"}} for one in functions
    ]
    opening, closing, most = f"{form.opening}\n", f"\n{form.closing}", MOST_CALLS if parallel else 1
    if form.listed:
        opening, closing, most = f"{form.opening} [", "]", 1
    elif not form.closing:
        opening, closing, most = "", "", 1
    required = tool_choice != "auto"
    return Constraint.tools(described, required=required, most=most, opening=opening, closing=closing, key=form.key)


def function_of(tool: Tool) -> Mapping[str, Any]:
    inner = tool.get("function", tool)
    if not isinstance(inner, Mapping):
        raise RecipeError(f'tool {str(tool)[:200]!r} has a "function" that is no object; see OpenAI\'s form')
    return inner


def _chosen_name(choice: Mapping[str, Any]) -> Any:
    inner = choice.get("function", choice)
    return inner.get("name") if isinstance(inner, Mapping) else inner
