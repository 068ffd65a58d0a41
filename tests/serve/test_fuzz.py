"""Requests made up from the published description of the API: none is a mistake of the server's own, and every answer has a
form that the description names."""

from collections import Counter

import hypothesis
import pytest
import schemathesis
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from dunwu.serve.source import ModelSource

from .live import make_folder, running

CHECKS = (not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance)
SETTINGS = {
    "deadline": None,
    "derandomize": True,
    "database": None,
    "suppress_health_check": list(hypothesis.HealthCheck),
    "phases": [hypothesis.Phase.explicit, hypothesis.Phase.generate],
}


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory):
    """The context is small, so that an answer without end has one."""
    folder = make_folder(tmp_path_factory.mktemp("models") / "kitten", context=64)
    with running(ModelSource(id="kitten", folder=folder, instruction_tuned=True)) as live:
        yield live


def attack(live, examples):
    """Ask every operation so often; gives how often each status came."""
    statuses: Counter[tuple[str, int]] = Counter()
    for found in schemathesis.openapi.from_url(f"{live.url}/openapi.json").get_all_operations():
        ask_often(found.ok(), examples, statuses)
    return statuses


def ask_often(operation, examples, statuses):
    @hypothesis.settings(max_examples=examples, **SETTINGS)
    @hypothesis.given(case=operation.as_strategy())
    def ask(case):
        if isinstance(case.body, dict) and "model" in case.body:
            case.body["model"] = "kitten"  # a name out of the blue would only ever be 404
        response = case.call(timeout=60)
        statuses[operation.label, response.status_code] += 1
        case.validate_response(response, checks=CHECKS)

    ask()


def test_no_request_is_a_mistake_of_the_server_s_own(fuzzed):
    statuses = attack(fuzzed, 6)
    assert {label for label, status in statuses if status == 200} >= {"GET /health", "GET /v1/models", "GET /metrics"}
    assert statuses["POST /v1/chat/completions", 200] + statuses["POST /v1/chat/completions", 400] >= 5


@pytest.mark.slow
def test_no_request_of_many_is_a_mistake_of_the_server_s_own(fuzzed):
    statuses = attack(fuzzed, 300)
    assert sum(statuses.values()) >= 300
    assert not [(label, status) for label, status in statuses if status >= 500]
