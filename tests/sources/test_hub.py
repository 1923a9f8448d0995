"""Where the hub does not answer, nothing is tried twice, and settings are as they were afterwards."""

from __future__ import annotations

import socket
import threading

import pytest
from huggingface_hub import constants
from huggingface_hub.utils import _http

from critmass.errors import InputError
from critmass.sources import hub, open_dataset, open_model
from critmass.sources.hub import answers, hub_or_cache
from critmass.sources.protocols import DatasetRequest


@pytest.fixture
def address(monkeypatch):
    """An address where nothing listens."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}"


@pytest.fixture
def no_answer(address, monkeypatch):
    """The hub at an address where nothing listens, on a machine that is not told to be offline."""
    import datasets

    waits = []
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}"
    )
    monkeypatch.setattr(_http.time, "sleep", waits.append)
    yield address
    assert not waits, "a library of the hub waited to try again"
    assert not constants.HF_HUB_OFFLINE
    assert not datasets.config.HF_HUB_OFFLINE


@pytest.mark.parametrize(
    "name", ["hf:nobody/nothing", "sentence-transformers:nobody/nothing", "timm:test_vit3.r160_in1k"]
)
def test_a_model_is_refused_at_once(no_answer, name):
    with pytest.raises(InputError, match=f"no answer from {no_answer}, and not in the cache") as caught:
        open_model(name)
    assert "fetch them where there is a network; they are looked for in HF_HOME" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_dataset_is_refused_at_once(no_answer, tmp_path):
    with pytest.raises(InputError, match=f"no answer from {no_answer}, and not in the cache; fetch https://"):
        open_dataset("hf:org/none", DatasetRequest(root=tmp_path))


def test_offline_ends_with_the_call_whatever_happens_in_it(no_answer):
    def fail():
        assert constants.is_offline_mode()
        raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"), hub_or_cache("org/none"):
        fail()
    assert not constants.is_offline_mode()


def test_where_the_hub_answers_nothing_is_set(monkeypatch, address):
    with socket.create_server(("127.0.0.1", 0)) as server:
        here = f"http://127.0.0.1:{server.getsockname()[1]}/mirror"
        assert answers(here)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "ENDPOINT", here)
        with hub_or_cache("org/none"):
            assert not constants.is_offline_mode()
        monkeypatch.setenv("http_proxy", here)
        monkeypatch.delenv("no_proxy", raising=False)
        assert answers("http://hub.invalid"), "through the proxy, which knows names that are not known here"
    assert not answers(address)


def test_a_folder_asks_nobody(monkeypatch, tmp_path):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub, "answers", lambda address: pytest.fail("the hub was asked"))
    with hub_or_cache(str(tmp_path)):
        assert not constants.is_offline_mode()


def test_a_name_that_is_looked_up_for_long_is_no_answer(monkeypatch):
    looked_up, given_up = threading.Event(), threading.Event()

    def create_connection(*_, **__):
        looked_up.set()
        given_up.wait()
        raise OSError

    monkeypatch.setattr(hub, "WAIT", 0.05)
    monkeypatch.setattr(hub.socket, "create_connection", create_connection)
    assert not answers("https://hub.invalid")
    assert looked_up.is_set()
    given_up.set()
