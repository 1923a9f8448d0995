"""Fetching: whole files or none, whatever the server does. The server is on this machine."""

from __future__ import annotations

import hashlib
import http.server
import sys
import threading

import pytest

from critmass.errors import InputError
from critmass.io.downloads import cache_root, fetch

BODY = bytes(range(256)) * 20_000
HASH = hashlib.sha256(BODY).hexdigest()


class Server(http.server.ThreadingHTTPServer):
    """Serves BODY at /weights.pt; what goes wrong is set on it."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.body, self.tag, self.break_after, self.ranges = BODY, '"one"', None, []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/weights.pt"


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path != "/weights.pt":
            self.send_error(404)
            return
        server, start = self.server, 0
        asked = self.headers.get("Range")
        server.ranges.append(asked)
        if asked and self.headers.get("If-Range") == server.tag:
            start = int(asked.removeprefix("bytes=").removesuffix("-"))
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(server.body) - 1}/{len(server.body)}")
        else:
            self.send_response(200)
        rest = server.body[start:]
        self.send_header("Content-Length", str(len(rest)))
        if server.tag:
            self.send_header("ETag", server.tag)
        self.end_headers()
        self.wfile.write(rest[: server.break_after])

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server():
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_arrives_whole_and_is_not_fetched_twice(server, tmp_path):
    steps = []
    path = tmp_path / "zoo" / "weights.pt"
    fetch(server.url, path, progress=lambda *step: steps.append(step))
    assert path.read_bytes() == BODY
    assert names(path.parent) == ["weights.pt", "weights.pt.sha256"]
    assert steps[-1] == ("fetching weights.pt", 5, 5)
    fetch(server.url, path)
    assert server.ranges == [None]


def test_a_known_hash_is_held_against_the_file(server, tmp_path):
    fetch(server.url, tmp_path / "right", hash_known=HASH)
    with pytest.raises(InputError, match=f"{'0' * 16}.*nothing was kept"):
        fetch(server.url, tmp_path / "wrong", hash_known="0" * 64)
    assert names(tmp_path) == ["right", "right.sha256"]


def test_a_file_that_changed_after_it_came_is_refused(server, tmp_path):
    path = fetch(server.url, tmp_path / "weights.pt")
    path.write_bytes(BODY[:-1] + b"!")
    with pytest.raises(InputError, match="SHA-256.*delete it, and it is fetched again"):
        fetch(server.url, path)


def test_a_file_put_there_by_hand_is_recorded_when_first_seen(tmp_path):
    path = tmp_path / "weights.pt"
    path.write_bytes(BODY)
    fetch("https://nowhere.invalid/weights.pt", path)
    assert (tmp_path / "weights.pt.sha256").read_text().strip() == HASH
    path.write_bytes(b"other")
    with pytest.raises(InputError, match="delete it"):
        fetch("https://nowhere.invalid/weights.pt", path)


def test_a_broken_transfer_says_so_and_goes_on_where_it_stopped(server, tmp_path):
    server.break_after, path = 3_000_000, tmp_path / "weights.pt"
    with pytest.raises(InputError, match=r"broke off after 3,000,000 of 5,120,000 bytes.*try again"):
        fetch(server.url, path)
    assert not path.exists()
    server.break_after = None
    fetch(server.url, path, hash_known=HASH)
    assert server.ranges == [None, "bytes=3000000-"]
    assert names(tmp_path) == ["weights.pt", "weights.pt.sha256"]


@pytest.mark.parametrize("tag", ['"two"', None, 'W/"weak"'])
def test_it_starts_again_when_the_file_changed_or_has_no_version(server, tmp_path, tag):
    server.break_after, path = 3_000_000, tmp_path / "weights.pt"
    server.tag = '"one"' if tag == '"two"' else tag
    with pytest.raises(InputError, match="broke off"):
        fetch(server.url, path)
    server.break_after, server.tag, server.body = None, tag, BODY[::-1]
    assert fetch(server.url, path).read_bytes() == BODY[::-1]


def test_what_cannot_be_fetched_is_one_line_with_the_place_to_put_it(server, tmp_path):
    path = tmp_path / "weights.pt"
    with pytest.raises(InputError, match=f"HTTP 404.*put it at {path}"):
        fetch(server.url.replace("weights", "none"), path)
    port = server.server_port
    server.shutdown()
    server.server_close()
    with pytest.raises(InputError, match=f"127.0.0.1:{port}.*refused.*put it at {path}") as caught:
        fetch(server.url, path)
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="starts with https://"):
        fetch("file:///etc/hostname", path)
    assert not path.exists()


def test_the_cache_is_where_the_environment_says(monkeypatch, tmp_path):
    monkeypatch.setenv("CRITMASS_CACHE", str(tmp_path))
    assert cache_root() == tmp_path
    monkeypatch.delenv("CRITMASS_CACHE")
    monkeypatch.setattr(
        "platformdirs.user_cache_path", lambda name, *, appauthor: tmp_path / f"{name}{appauthor}"
    )
    assert cache_root() == tmp_path / "critmassFalse"


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have places of their own")
def test_the_cache_is_where_the_system_says(monkeypatch, tmp_path):
    monkeypatch.delenv("CRITMASS_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_root() == tmp_path / "critmass"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_root() == tmp_path / ".cache" / "critmass"
