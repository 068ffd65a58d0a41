import openai
import pytest

from dunwu.serve.source import ModelSource

from .live import Live, make_folder, running


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    return make_folder(tmp_path_factory.mktemp("models") / "kitten")


@pytest.fixture(scope="session")
def live(folder):
    sources = [
        ModelSource(id="kitten", folder=folder, instruction_tuned=True, system_prompt="Be kind."),
        ModelSource(id="kitten:pretrain", folder=folder, stage="pretrain", instruction_tuned=False, lazy=True),
    ]
    with running(*sources) as server:
        yield server


@pytest.fixture
def client(live: Live) -> openai.OpenAI:
    return openai.OpenAI(base_url=live.api, api_key="none", max_retries=0, timeout=30)
