"""Templates: what they need, what they say of what is missing, and that neither a template nor a value gets out of its bounds."""

import dataclasses
import threading
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from dunwu.core.errors import PromptError
from dunwu.core.jinja import Bounds
from dunwu.core.templates import Template, template

SMALL = Bounds(steps=2_000, characters=1 << 18, timeout_s=5.0)


def test_holes_are_filled_and_white_space_stays():
    assert (
        Template("Q: {{ q }}\n{% for c in choices %}\n{{ loop.index }}. {{ c }}\n{% endfor %}\nA:\n").render(
            q="Which?", choices=["a", "b"]
        )
        == "Q: Which?\n\n1. a\n\n2. b\n\nA:\n"
    )


def test_its_variables_in_order_of_appearance():
    one = Template(
        "{% set x = 1 %}{{ b }}{{ a|default('z') }}{{ x }}{% for c in b %}{{ c }}{% endfor %}{{ range(2) }}"
        "{% if d is defined %}{{ d }}{% endif %}{% macro m(e) %}{{ e }}{% endmacro %}"
    )
    assert one.variables == ("b", "a", "d")
    assert one.optional == {"a", "d"}
    assert one.required == ("b",)
    assert one.render(b="") == "z1range(0, 2)"


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"produkt": "kites"}, "needs 'product', which is not given; did you mean 'produkt'?"),
        ({"x": 1, "y": 2}, "needs 'product', which is not given; there are: x, y"),
        ({}, "needs 'product', which is not given; give it"),
    ],
)
def test_a_missing_variable_is_named_with_the_nearest(values, says):
    with pytest.raises(PromptError) as error:
        Template("A name for {{ product }}", name="ask").render(values)
    assert str(error.value) == f"ask {says}"


def test_a_missing_key_is_named_with_the_nearest_and_its_line():
    with pytest.raises(
        PromptError, match=r"line 2, cannot be filled: there is no 'nmae' in a mapping; did you mean 'name'\?"
    ):
        Template("one\n{{ user.nmae }}").render(user={"name": "Ada", "age": 3})


@given(st.text() | st.sampled_from(["{{ secret }}", "{% for %}", "{# x #}", "}}{{ 7*7 }}", "<b>&amp;"]))
def test_data_stay_data(value):
    assert template("[{{ x }}|{{ x ~ '' }}|{{ [x, x]|join('{{ y }}') }}]").render(x=value, secret="no") == (
        f"[{value}|{value}|{value}{{{{ y }}}}{value}]"
    )


def test_types_are_checked():
    typed = Template("{{ n }} of {{ names|join(', ') }}", types={"n": int, "names": list[str]})
    assert typed.render(n=2, names=["a", "b"]) == "2 of a, b"
    with pytest.raises(PromptError, match="takes n as int, and it is '2'"):
        typed.render(n="2", names=[])
    with pytest.raises(PromptError, match="takes names as"):
        typed.render(n=2, names=[1])
    with pytest.raises(PromptError, match=r"no variable 'nmes' to give a type; did you mean 'names'\?"):
        Template("{{ names }}", types={"nmes": int})


class Point(BaseModel):
    x: int


@dataclasses.dataclass
class Place:
    at: Point
    tags: tuple[str, ...]


def test_records_become_plain_data_and_objects_are_refused():
    assert template("{{ p.at.x }}{{ p.tags[0] }}{{ p|tojson }}").render(p=Place(Point(x=3), ("é",))) == (
        '3é{"at": {"x": 3}, "tags": ["é"]}'
    )
    for bad in (object(), open, b"x", threading.Lock()):
        with pytest.raises(PromptError, match="which a template cannot take"):
            template("{{ x }}").render(x=bad)
    ring: list[object] = []
    ring.append(ring)
    with pytest.raises(PromptError, match="stands in itself"):
        template("{{ x }}").render(x=ring)


class Sly(str):
    def __str__(self) -> str:
        raise AssertionError("called")

    def strip(self, *_: object) -> str:
        raise AssertionError("called")


def test_of_text_with_own_methods_the_text_is_taken():
    assert template("{{ x.strip() }}").render(x=Sly(" a ")) == "a"


def test_numbers_of_any_kind_and_keys_of_any_kind_are_taken():
    values = {"n": np.int64(3), "f": np.float64(0.5), "b": True, "d": {(1, 2): "pair", 3: "three", None: "none"}}
    assert template("{{ n }} {{ f }} {{ b }} {{ d['(1, 2)'] }} {{ d[3] }} {{ d[none] }}").render(values) == (
        "3 0.5 True pair three none"
    )
    with pytest.raises(PromptError, match="has no attribute 'dump'"):
        template("{{ f.dump('x') }}").render(values)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("ok\n{% for x in y %}\n", "ask, line 2: Unexpected end of template"),
        ("a\nb\n{{ x + }}", r"ask, line 3: .*mend '\{\{ x \+ \}\}'"),
        ("{{ x|nosuch }}", "ask, line 1: No filter named 'nosuch'"),
        ("{% include 'other' %}", "ask, line 1: a template stands alone"),
        ("{% extends 'other' %}", "ask, line 1: a template stands alone"),
        ("{% for a in x %}" * 30 + "{% endfor %}" * 30, "ask is no template"),
        ("{{ " + "(" * 20_000 + ")" * 20_000 + " }}", "ask is no template"),
        ("{{ " + "9" * 5_000 + " }}", "ask is no template"),
        ("x" * ((1 << 20) + 1), "give long text as a value"),
    ],
)
def test_what_is_no_template_is_said_with_its_line(text, says):
    with pytest.raises(PromptError, match=says):
        Template(text, name="ask")


DOUBLE = "{% set n = namespace(x=[1]) %}{% for i in range(60) %}{% set n.x = [n.x, n.x] %}{% endfor %}"
HOSTILE = [
    "{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}",
    "{{ range(10**9)|list }}",
    "{{ range(10**30) }}",
    "{% for i in range(99999) %}{% for j in range(99999)|map('string') %}{{ j }}{% endfor %}{% endfor %}",
    "{{ 'a' * 500000000 }}",
    "{{ ['a'] * 500000000 }}",
    "{{ ['a' * 1000000] * 1000 }}",
    "{{ x * 9999 }}",
    "{{ 10 ** (10 ** 9) }}",
    "{% set n = namespace(x=3) %}{% for i in range(60) %}{% set n.x = n.x * n.x %}{% endfor %}",
    "{% set n = namespace(x='a') %}{% for i in range(60) %}{% set n.x = n.x ~ n.x %}{% endfor %}",
    "{% set n = namespace(x='a') %}{% for i in range(60) %}{% set n.x = n.x + n.x %}{% endfor %}",
    DOUBLE + "{{ n.x }}",
    DOUBLE + "{{ n.x|string|length }}",
    DOUBLE + "{{ n.x == n.x }}",
    DOUBLE.replace("[", "(").replace("]", ",)") + "{{ {n.x: 1} }}",
    "{% set n = namespace(x={}) %}{% for i in range(60) %}{% set n.x = dict(a=n.x, b=n.x) %}{% endfor %}{{ n.x|tojson }}",
    "{{ 'a'.ljust(1000000000) }}",
    "{{ 'a'.zfill(1000000000) }}",
    "{{ '\t'.expandtabs(1000000000) }}",
    "{{ 'x' | center(1000000000) }}",
    "{{ x | indent(1000000000) }}",
    "{{ x | replace('ab', '\n') | indent('a' * 100000) }}",
    "{{ [1] | slice(1000000000) | list }}",
    "{{ [1] | batch(1000000000, 'x') | list }}",
    "{{ 1.5 | round(1000000000, 'floor') }}",
    "{{ x | replace('', x) }}",
    "{{ x.replace('', x) }}",
    "{{ x.join(x) }}",
    "{{ x | join(x) }}",
    "{{ range(9999) | map('replace', '', x) | join }}",
    "{{ range(9999) | map('center', 9999) | list }}",
    "{{ {'a': 1} | tojson(indent=1000000000) }}",
    "{{ x | wordwrap(1, true, x) }}",
    "{{ (x * 100) | wordwrap(1) }}",
    "{{ '{:1000000000}'.format(1) }}",
    "{{ '{:{}}'.format(1, 1000000000) }}",
    "{{ '{0[0]:{0[1]}}'.format([1, 1000000000]) }}",
    "{{ '%1000000000d' % 1 }}",
    "{{ '%*d' % (1000000000, 1) }}",
    "{{ '%.1000000000f' % 1 }}",
    "{{ ('{0}' * 900).format(x) }}",
    "{{ x.encode() * 1000 }}",
    "{{ (5).to_bytes(1000000000, 'big') }}",
    "{{ x.translate({97: x}) }}",
    "{{ ('b' + 'a' * 400000).rfind('b' + 'a' * 200000) }}",
    "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(40) }}",
    "{% block a %}{{ self.a() }}{{ self.a() }}{% endblock %}",
    "{% set y %}{% for i in range(1999) %}{{ x }}{% endfor %}{% endset %}{{ y|length }}",
    "{% macro f() %}{% for i in range(1999) %}{{ x }}{% endfor %}{% endmacro %}{{ f()|length }}",
    "{% filter upper %}{% for i in range(1999) %}{{ x }}{% endfor %}{% endfilter %}",
    "{% set y %}{% for i in range(1999) %}" + "plain" * 2000 + "{% endfor %}{% endset %}{{ y|length }}",
    "{{ ''.__class__.__mro__ }}",
    "{{ ''['__class__'] }}",
    "{{ x|attr('__class__') }}",
    "{{ '{0.__class__.__mro__}'.format(1) }}",
    "{{ range.__globals__ }}",
    "{{ self.__init__.__globals__ }}",
    "{{ cycler.__init__.__globals__.os }}",
    "{{ x.append(1) }}",
    "{{ d.update({'a': 1}) }}",
    "{{ lipsum(1000) }}",
    "{% set n = namespace(_x=1) %}{{ n._x }}",
    "{{ open('/etc/passwd') }}",
    "{{ d() }}",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_a_hostile_template_ends_soon_with_one_error(text):
    started = time.process_time()
    with pytest.raises(PromptError, match="the template"):
        Template(text, bounds=SMALL).render(x="ab" * 5_000, d={"b": 1})
    assert time.process_time() - started < 20  # what it would do without bounds takes hours


def test_a_template_that_is_slow_is_ended_by_the_clock():
    slow = Template("{% for i in range(100000) %}{{ '' if x|upper == 'b' }}{% endfor %}", bounds=Bounds(timeout_s=0.02))
    with pytest.raises(PromptError, match="does not come to an end"):
        slow.render(x="a" * 100_000)


def test_threads_have_bounds_of_their_own():
    counting = Template("{% for i in range(1500) %}{{ i % 7 }}{% endfor %}", bounds=SMALL)
    expected = "".join(str(i % 7) for i in range(1500))
    texts: list[str] = []
    threads = [threading.Thread(target=lambda: texts.append(counting.render())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert texts == [expected] * 8


def test_everyday_jinja_works():
    made = Template(
        "{{ name|upper }} {{ '%.2f' % price }} {{ '{:>6}|{:.1f}'.format(name, price) }} {{ items|sum(attribute='n') }} "
        "{{ items|map(attribute='k')|join('/') }} {{ [[1], [2]]|sum(start=[]) }} {{ text|replace('a', 'b')|indent(2) }} "
        "{{ items|selectattr('n', 'gt', 1)|list|length }} {{ text.split('\n')[0].rsplit(' ', 1)[-1] }} {{ 7 // 2 }} "
        "{{ {'b': 1, 'a': [true, none]}|tojson }} {{ items|batch(2, 'x')|list|length }} {{ text|trim|truncate(9, true, '...', 0) }} "
        "{% macro twice(x) %}{{ x }}{{ x }}{% endmacro %}{{ twice('z') }} {{ 3.14159|round(2) }} {{ [1, 2]|tojson(indent=1) }}"
    ).render(name="ada", price=2.5, items=[{"k": "p", "n": 1}, {"k": "q", "n": 2}], text="a cat\nran away")
    assert made == (
        "ADA 2.50    ada|2.5 3 p/q [1, 2] b cbt\n  rbn bwby 1 cat 3 "
        '{"b": 1, "a": [true, null]} 1 a cat\n... zz 3.14 [\n 1,\n 2\n]'
    )
