"""Files are whole or absent; errors say the name, what was found, what is allowed, and what to do."""

from __future__ import annotations

import errno
import hashlib
import importlib.metadata
import io
import os
import re
import shlex
import subprocess
import sys
import tomllib
import unicodedata
import urllib.parse
from pathlib import Path
from typing import Any

import pytest
from helpers_data import ROOT, tree
from hypothesis import example, given
from hypothesis import strategies as st

from critmass.errors import (
    CritmassError,
    InputError,
    MissingExtraError,
    StoreError,
    require,
    unknown,
    verbatim,
)
from critmass.io.files import (
    LONGEST_NAME,
    check_writable,
    create_atomic,
    file_name,
    locked,
    sha256,
    write_atomic,
)


def test_writes_and_replaces_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "file.bin"
    write_atomic(path, b"first")
    write_atomic(path, b"second, longer")
    assert tree(tmp_path) == {"a": None, "a/b": None, "a/b/file.bin": b"second, longer"}


def test_the_old_file_is_there_until_the_new_one_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file.bin"
    write_atomic(path, b"old")
    seen, replace = [], os.replace

    def watched(beside: Path, to: Path) -> None:
        assert Path(beside).parent == path.parent, "a rename is atomic within one folder only"
        seen.append((path.read_bytes(), Path(beside).read_bytes()))
        replace(beside, to)

    monkeypatch.setattr(os, "replace", watched)
    create_atomic(path, lambda stream: (stream.write(b"half"), stream.write(b" and half")))
    assert seen == [(b"old", b"half and half")]
    assert tree(tmp_path) == {"file.bin": b"half and half"}


def test_is_flushed_to_disk_before_it_gets_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda handle: (calls.append("fsync"), fsync(handle)))
    monkeypatch.setattr(os, "replace", lambda a, b: (calls.append("replace"), replace(a, b)))
    write_atomic(tmp_path / "file.bin", b"x")
    assert calls == ["fsync", "replace", "fsync"]


@pytest.mark.parametrize("error", [RuntimeError("no"), KeyboardInterrupt(), ValueError("bad")])
@pytest.mark.parametrize("before", [None, b"old"])
def test_an_exception_while_writing_changes_nothing(
    tmp_path: Path, error: BaseException, before: bytes | None
) -> None:
    path = tmp_path / "file.bin"
    if before is not None:
        path.write_bytes(before)
    untouched = tree(tmp_path)

    def create(stream: io.BytesIO) -> None:
        stream.write(b"half")
        raise error

    with pytest.raises(type(error)):
        create_atomic(path, create)
    assert tree(tmp_path) == untouched


STEPS = {
    "make a folder": (Path, "mkdir"),
    "make a file": (os, "open"),
    "flush": (os, "fsync"),
    "rename": (os, "replace"),
}


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EIO])
def test_a_disk_that_fails_is_one_clear_error_and_changes_nothing(
    tmp_path, monkeypatch, step, number
) -> None:
    path = tmp_path / "file.bin"
    path.write_bytes(b"old")
    new = tmp_path / "folder" / "file.bin"
    home, name = STEPS[step]

    def failing(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(home, name, failing)
    target = new if step == "make a folder" else path
    with pytest.raises(InputError, match=f"{os.strerror(number)}; choose another folder") as caught:
        write_atomic(target, b"new")
    monkeypatch.undo()
    assert str(target if step != "make a folder" else new.parent) in str(caught.value)
    assert tree(tmp_path) == {"file.bin": b"old"}


def test_a_disk_that_is_full_is_named_though_nothing_can_be_removed_either(tmp_path, monkeypatch) -> None:
    def failing(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    def read_only(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(os, "fsync", failing)
    monkeypatch.setattr(Path, "unlink", read_only)
    with pytest.raises(InputError, match="No space left on device"):
        write_atomic(tmp_path / "file.bin", b"new")


def test_what_a_killed_writer_left_is_removed_and_what_a_living_one_writes_is_not(tmp_path: Path) -> None:
    import fcntl

    path = tmp_path / "file.bin"
    for slot in range(3):
        (tmp_path / f"file.bin.{slot}.part").write_bytes(b"from a killed run, longer than the new content")
    write_atomic(path, b"new")
    assert tree(tmp_path) == {"file.bin": b"new"}
    with (tmp_path / "file.bin.0.part").open("wb") as living:
        fcntl.flock(living, fcntl.LOCK_EX)
        write_atomic(path, b"newer")
        assert tree(tmp_path) == {"file.bin": b"newer", "file.bin.0.part": b""}


@pytest.mark.parametrize("link", [Path.symlink_to, Path.hardlink_to])
def test_a_link_planted_where_a_file_is_made_is_not_followed(tmp_path: Path, link) -> None:
    outside = tmp_path / "outside"
    outside.write_bytes(b"precious")
    folder = tmp_path / "out"
    folder.mkdir()
    for slot in range(3):
        link(folder / f"file.bin.{slot}.part", outside)
    write_atomic(folder / "file.bin", b"new")
    assert outside.read_bytes() == b"precious"
    assert (folder / "file.bin").read_bytes() == b"new"
    assert not (folder / "file.bin").is_symlink()


WRITER = """
import sys
from pathlib import Path
from critmass.io.files import write_atomic
path, mine = Path(sys.argv[1]), sys.argv[2].encode() * 50_000
for _ in range(40):
    write_atomic(path, mine)
    found = path.read_bytes()
    assert len(found) == 50_000 and len(set(found)) == 1, "torn"
"""


def test_many_writers_of_one_file_tear_nothing_and_fail_never(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file.bin"
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(path), letter], stderr=subprocess.PIPE)
        for letter in "abcd"
    ]
    for writer in writers:
        _, errors = writer.communicate()
        assert (writer.returncode, errors) == (0, b"")
    assert len(set(path.read_bytes())) == 1
    assert [found.name for found in path.parent.iterdir()] == ["file.bin"]


def test_a_path_below_a_file_or_that_is_a_folder_is_an_input_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"a file")
    (tmp_path / "folder").mkdir()
    untouched = tree(tmp_path)
    with pytest.raises(InputError, match="output: found "):
        write_atomic(tmp_path / "file" / "x.bin", b"x")
    with pytest.raises(InputError, match="output: found "):
        write_atomic(tmp_path / "folder", b"x")
    assert tree(tmp_path) == untouched


def test_check_writable_accepts_what_can_be_made_and_makes_nothing(tmp_path: Path) -> None:
    check_writable(tmp_path)
    check_writable(tmp_path / "not" / "there" / "yet")
    assert tree(tmp_path) == {}


def test_check_writable_refuses_files(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"")
    for path in (file, file / "below", file / "far" / "below"):
        with pytest.raises(InputError, match=f"{file} is a file"):
            check_writable(path)


def test_check_writable_refuses_a_folder_without_permission(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: not mode & os.W_OK)  # root may write anywhere
    with pytest.raises(InputError, match="Permission denied; choose another folder"):
        check_writable(tmp_path / "out")


def test_sha256_is_that_of_the_bytes(tmp_path: Path) -> None:
    content = bytes(range(256)) * 5000
    (tmp_path / "file").write_bytes(content)
    assert sha256(tmp_path / "file") == hashlib.sha256(content).hexdigest()


def test_an_input_error_has_four_pieces_on_one_line() -> None:
    error = InputError("delta", 1.5, "a number above 0 and up to 1", "give a share")
    assert str(error) == "delta: found 1.5; allowed: a number above 0 and up to 1; give a share"
    assert (error.name, error.found, error.allowed, error.advice) == (
        "delta",
        1.5,
        "a number above 0 and up to 1",
        "give a share",
    )
    assert str(InputError("delta", "x", "numbers")) == "delta: found 'x'; allowed: numbers"
    assert str(InputError("X", verbatim("shape (3,)"), "2 dimensions")) == (
        "X: found shape (3,); allowed: 2 dimensions"
    )
    assert isinstance(error, CritmassError)
    assert isinstance(error, ValueError)
    assert issubclass(StoreError, InputError)


def test_a_found_value_is_cut_and_stays_on_one_line() -> None:
    message = str(InputError("x", verbatim("line\nbreak " + 1000 * "a"), "less"))
    assert "\n" not in message
    assert message.startswith("x: found line break aaa")
    assert message.endswith("aaa...; allowed: less")
    assert len(message) < 160


def test_an_unknown_name_shows_what_there_is_and_what_is_near() -> None:
    assert str(unknown("score", "rigde", ["ridge", "cka"])) == (
        "score: found 'rigde'; allowed: cka, ridge; did you mean 'ridge'?"
    )
    assert str(unknown("score", "zzz", ["ridge", "cka"])) == "score: found 'zzz'; allowed: cka, ridge"
    assert "did you mean 'cka' or 'cka-biased'?" in str(unknown("score", "cka-", ["cka", "cka-biased"]))


def asked_of_pip(extra: str) -> set[str]:
    """Return the packages of an extra, by the project's own file."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    found = set()
    for requirement in extras[extra]:
        others = re.fullmatch(r"critmass\[(.*)\]", requirement)
        for other in others[1].split(",") if others else ():
            found |= asked_of_pip(other)
        found |= set() if others else {requirement}
    return found


def test_a_missing_extra_of_a_critmass_that_is_not_installed_names_the_package(monkeypatch) -> None:
    def nowhere(name: str) -> list[str]:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "requires", nowhere)
    found = str(MissingExtraError("altair", extra="report", purpose="drawing charts"))
    assert found == 'drawing charts needs the package "altair"; next: pip install "altair"'


def test_a_missing_extra_says_how_to_get_it() -> None:
    assert require("json", package="json", extra="x", purpose="y").loads("1") == 1
    with pytest.raises(MissingExtraError) as caught:
        require("no_such_module_here", package="no-such", extra="demo", purpose="the model lite0:")
    message, command = str(caught.value).split("; next: pip install ")
    assert message == 'the model lite0: needs the package "no-such"'
    assert set(shlex.split(command)) == asked_of_pip("demo")
    assert isinstance(caught.value, ImportError)
    assert isinstance(caught.value, CritmassError)


HOLDER = """
import sys
from pathlib import Path
from critmass.io.files import locked
with locked(Path(sys.argv[1])) as mine:
    print(mine, flush=True)
    sys.stdin.readline()
"""


def hold(path: Path) -> subprocess.Popen[bytes]:
    """Start a process that takes the lock and keeps it until it is told or killed."""
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert holder.stdout.readline().strip() == b"True"
    return holder


def test_a_lock_is_one_process_s_until_it_ends_or_is_killed(tmp_path: Path) -> None:
    path = tmp_path / "locks" / "cell.lock"
    for end in (lambda holder: holder.stdin.close(), subprocess.Popen.kill):
        holder = hold(path)
        with locked(path) as mine:
            assert not mine
        end(holder)
        holder.wait()
        holder.stdout.close()
        holder.stdin.close()
        with locked(path) as mine:
            assert mine
            with locked(path) as twice:
                assert not twice


def test_a_lock_that_is_waited_for_comes(tmp_path: Path) -> None:
    holder = hold(tmp_path / "lock")
    waiting = subprocess.Popen(
        [sys.executable, "-c", HOLDER.replace("1])", "1]), wait=True"), str(tmp_path / "lock")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    holder.communicate(b"\n")
    assert waiting.communicate(b"\n")[0].strip() == b"True"


def test_a_lock_is_let_go_of_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="inside"), locked(tmp_path / "lock"):
        raise RuntimeError("inside")
    with locked(tmp_path / "lock") as mine:
        assert mine


def test_a_lock_where_nothing_can_be_written_is_an_input_error(tmp_path: Path) -> None:
    (tmp_path / "lock").mkdir()
    with pytest.raises(InputError, match="lock.*choose another folder"), locked(tmp_path / "lock"):
        pass


@given(st.text(st.characters(), max_size=40))
@example("..")
@example("")
@example("/conv1/Conv_output:0")
@example("CON.txt")
@example("\ud800")
@example("e\u0301")
@example("\u1100\u1161")
def test_any_text_has_a_file_name_of_its_own(text: str) -> None:
    name = file_name(text)
    assert name not in ("", ".", "..")
    assert not set(name) & {*'<>:"/\\|?*', *map(chr, range(32))}
    assert not name.endswith((".", " "))
    assert unicodedata.is_normalized("NFC", name)
    assert not re.fullmatch(r"(con|nul|aux|prn|com\d|lpt\d)(\..*)?", name.lower())
    assert Path("/folder", name).name == name
    assert len(name.encode()) <= LONGEST_NAME
    if "~" not in name:
        assert ("" if name == "%" else urllib.parse.unquote(name, errors="surrogatepass")) == text


@given(st.lists(st.text(st.characters(), max_size=200), unique=True, max_size=20))
def test_different_texts_have_different_file_names(texts: list[str]) -> None:
    assert len({file_name(text) for text in texts}) == len(texts)


@given(st.text(st.characters(), min_size=1, max_size=160), st.data())
@example("Conv", None)
@example("stra\u00dfe", None)
@example("\u017f\u0131\u0130\u03c2K\u212a", None)
def test_texts_that_differ_in_capitals_have_names_that_differ_in_more(text: str, data: Any) -> None:
    changed = [text.lower(), text.upper(), text.casefold(), text.swapcase(), text.title()]
    if data is not None:
        picked = data.draw(st.lists(st.booleans(), min_size=len(text), max_size=len(text)))
        changed.append("".join(c.upper() if p else c.lower() for c, p in zip(text, picked, strict=True)))
    texts = {text, *changed}
    for fold in (str.casefold, str.upper, str.lower):
        assert len({fold(file_name(each)) for each in texts}) == len(texts)


def test_a_long_name_is_cut_and_still_its_own() -> None:
    names = {file_name("x" * n) for n in range(140, 400)}
    assert len(names) == 260
    assert max(len(name) for name in names) == LONGEST_NAME
    assert file_name("features.18.1") == "features.18.1"
