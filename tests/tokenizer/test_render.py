"""Rendering of templates: jinja's own constructs as transformers renders them, and an end to hostile ones."""

import pytest
from transformers.utils.chat_template_utils import render_jinja_template

from dunwu.core.errors import DataError, TokenizerError
from dunwu.core.jinja import Bounds
from dunwu.tokenizer import render
from dunwu.tokenizer.render import render_template

CALL = {"type": "function", "function": {"name": "f", "arguments": {"b": 1, "a": [True, None, "é<&'"], "n": "1e-7"}}}
MESSAGES = [
    {"role": "system", "content": " Sys\n"},
    {"role": "user", "content": "Hi é中"},
    {"role": "assistant", "content": "<think>\nhm\n</think>\n\nyo", "tool_calls": [CALL]},
    {"role": "user", "content": "x"},
]
CONSTRUCTS = r"""
{{ messages[::-1] | map(attribute='role') | join(',') }} {{ messages[1:]|length }} {{ messages[-1].role }}
{{ true }} {{ none }} {{ [1,'a'] }} {{ {'a':1,'b':none} }} {{ 'a' ~ true ~ none ~ 1 }}
{{ messages[2].tool_calls[0] | tojson }} {{ messages[2].tool_calls[0] | tojson(indent=4) }}
{{ messages[2].tool_calls[0].function.arguments | string }} {{ messages[2].tool_calls[0].function.arguments }}
{% for k, v in messages[2].tool_calls[0].function.arguments.items() %}{{k}}={{v}};{% endfor %}
{% for k, v in messages[2].tool_calls[0].function.arguments|items %}{{k}}={{v|tojson}};{% endfor %}
{% set ns = namespace(found=false) %}{% for m in messages %}{% if m.role=='user' %}{% set ns.found = true %}{% endif %}{% endfor %}{{ns.found}}
{% for m in messages %}{% if loop.first %}{% continue %}{% endif %}{{m.role}}{% if loop.index0 == 2 %}{% break %}{% endif %}{% endfor %}
{{ messages[2].content.split('</think>')[0].rstrip('\n').split('<think>')[-1].lstrip('\n') }}|{{ messages[0].content.strip() }}|
{{ 'abc'.startswith('a') }} {{ 'a,b,c'.split(',', 1) }} {{ 'xay'.strip('xy') }} {{ 'a\nb'.splitlines() }} {{ 'a b'.title() }}
{% if tools is not none and tools is defined %}t{% endif %}{% if missing is defined %}d{% else %}u{% endif %}{{ missing }}
{% if messages[0].content is string %}s{% endif %}{% if messages is iterable and messages[0] is mapping %}m{% endif %}
{% macro f(a, b=2) %}[{{a}}:{{b}}]{% endmacro %}{{ f(1) }}{{ f('x', b=3) }}
{{ messages|selectattr('role','equalto','user')|list|length }} {{ messages|rejectattr('role','==','user')|map(attribute='role')|list }}
{{ messages[0].get('name', 'zz') }} {{ 'tool_calls' in messages[2] }} {{ 'x' if false }}
{%- set x %}block {{ 1 }} set{% endset %}{{ x }} {% raw %}{{ x }}{% endraw %} {# comment #}
{% for m in messages if m.role == 'user' %}{{ loop.index }}{{ loop.last }}{% else %}none{% endfor %}
{{ {"b":1}|tojson(separators=(',',':')) }} {{ {"b":1,"a":"é"}|tojson(sort_keys=True, ensure_ascii=True) }}
{{ 'héllo'[1:3] }} {{ 'abc'[::-1] }} {{ ["it's", 'q"', 'é\n'] }} {{ '\u2028'|tojson }}
{{ '%s-%d' % ('a', 3) }} {{ 'a.b'.rsplit('.', 1) }} {{ 'a.b'.partition('.') }} {{ 'a'.rjust(3) }} {{ 'ab'.removeprefix('a') }}
{{ (numbers | first) | tojson }} {% for v in numbers %}{{ v | tojson }} {{ v }},{% endfor %}
{% generation %}
  said
{% endgeneration %}
after
""".strip().split("\n")
CONSTRUCTS = [*CONSTRUCTS[:-4], "\n".join(CONSTRUCTS[-4:])]


@pytest.mark.parametrize("source", CONSTRUCTS)
@pytest.mark.parametrize("numbers", [[1, 2], [1.0, 1e-7, 2.5]], ids=["whole", "broken"])
def test_constructs_render_as_in_transformers(source, numbers):
    context = {"numbers": numbers, "bos_token": "<s>"}
    theirs, _ = render_jinja_template([MESSAGES], chat_template=source, **context)
    context |= {"messages": MESSAGES, "add_generation_prompt": False}
    assert render_template(source, context) == theirs[0]
    plain = {"mark_from": "", "mark_to": "", "tools": None}
    assert render._render_jinja2(source, plain | context) == theirs[0]


BY_JINJA2 = "{{ '%d' % 1 }}"  # minijinja cannot


@pytest.mark.parametrize(
    "source",
    [
        "{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}",
        BY_JINJA2 + "{% set r = range(50000) %}{% for i in r %}{% for j in r %}{% endfor %}{% endfor %}",
        BY_JINJA2 + "{% set n = namespace(x='a') %}{% for i in range(60) %}{% set n.x = n.x ~ n.x %}{% endfor %}",
        BY_JINJA2 + "{% set n = namespace(x='a') %}{% for i in range(60) %}{% set n.x = n.x + n.x %}{% endfor %}",
        BY_JINJA2 + "{{ 'a' * 500000000 }}",
        BY_JINJA2 + "{{ 10 ** (10 ** 9) }}",
        BY_JINJA2 + "{{ 'a'.ljust(1000000000) }}",
        BY_JINJA2 + "{{ 'x' | center(1000000000) }}",
        BY_JINJA2 + "{{ '{:1000000000}'.format(1) }}",
        "{{ '%1000000000d' % 1 }}",
        BY_JINJA2 + "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        BY_JINJA2 + "{{ ''.__class__.__mro__ }}",
        BY_JINJA2 + "{% set n = namespace(_x=1) %}{{ n._x }}",
        "{% for %}",
        "{{ nothing.at.all }}",
        "x" * (render.MOST_TEMPLATE_CHARACTERS + 1),
    ],
)
def test_hostile_and_broken_templates_end_with_an_error(source, monkeypatch):
    monkeypatch.setattr(render, "BOUNDS", Bounds(steps=3_000, characters=1 << 20))
    with pytest.raises(TokenizerError, match="chat template"):
        render_template(source, {"messages": []})


@pytest.mark.parametrize("before", ["", BY_JINJA2])
def test_what_a_template_refuses_is_told(before):
    with pytest.raises(DataError, match="refuses this conversation: only 1"):
        render_template(before + "{{ raise_exception('only ' ~ 1) }}", {"messages": []})
