"""Tables of texts: columns, splits, labels, and files that are not what they seem."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from helpers_data import REAL

from critmass.errors import InputError
from critmass.sources import open_dataset
from critmass.sources.protocols import BadSampleError, DatasetRequest

ROWS = [("hello", "hi"), ("see, you", "bye"), ('a "quoted" word', "hi"), ("two\nlines", "bye")]


def as_csv(rows, header=("text", "category")) -> str:
    lines = [",".join('"' + str(v).replace('"', '""') + '"' for v in row) for row in (header, *rows)]
    return "\n".join(lines) + "\n"


def as_jsonl(rows, header=("text", "category")) -> str:
    return "".join(json.dumps(dict(zip(header, row, strict=True))) + "\n" for row in rows)


@pytest.fixture(params=["csv", "jsonl"])
def form(request):
    return request.param


def written(folder: Path, form: str, rows, header=("text", "category"), name="table") -> str:
    path = folder / f"{name}.{form}"
    path.write_text((as_csv if form == "csv" else as_jsonl)(rows, header), newline="")
    return f"{form}:{path}"


def splits_of(name: str, **columns: str):
    return open_dataset(name, DatasetRequest(columns=columns)).splits()


def test_a_file_is_all_training_rows(tmp_path, form):
    splits = splits_of(written(tmp_path, form, ROWS))
    assert list(splits) == ["train"]
    train = splits["train"]
    assert [train.read(index) for index in range(4)] == [text for text, _ in ROWS]
    assert train.labels.tolist() == [label for _, label in ROWS]
    assert train.names[2] == f"table.{form}, row 3"


def test_a_column_says_the_split(tmp_path, form):
    rows = [("a", "x", "test"), ("b", "y", "val"), ("c", "x", "test"), ("d", "y", "v2")]
    splits = splits_of(written(tmp_path, form, rows, ("text", "label", "split")))
    assert list(splits) == ["test", "validation", "v2"]
    assert splits["test"].labels.tolist() == ["x", "x"]
    assert [splits["test"].read(i) for i in range(2)] == ["a", "c"]
    assert splits["test"].names == [f"table.{form}, row 1", f"table.{form}, row 3"]


def test_a_star_stands_for_the_split(tmp_path, form):
    for split, rows in (("train", ROWS), ("dev", ROWS[:2]), ("v2", ROWS[:1])):
        written(tmp_path, form, rows, name=f"b[1]_{split}")
    splits = splits_of(f"{form}:{tmp_path}/b[1]_*.{form}")
    assert {split: len(samples) for split, samples in splits.items()} == {
        "train": 4,
        "validation": 2,
        "v2": 1,
    }


def test_columns_are_named_or_have_usual_names(tmp_path, form):
    rows = [("a", "x", "g1"), ("b", "y", "g2")]
    name = written(tmp_path, form, rows, ("utterance", "topic", "speaker"))
    train = splits_of(name, text="utterance", label="topic", group="speaker")["train"]
    assert (train.read(1), train.labels.tolist(), train.groups.tolist()) == ("b", ["x", "y"], ["g1", "g2"])
    assert splits_of(name, text="utterance", label="")["train"].labels is None
    with pytest.raises(
        InputError, match="text column: found none .* allowed: one of utterance, topic, speak"
    ):
        splits_of(name)
    with pytest.raises(InputError, match=r"label column: found none with a usual name.*as 'label'"):
        splits_of(name, text="utterance")
    with pytest.raises(InputError, match="label column: found 'topics'; .* did you mean 'topic'"):
        splits_of(name, text="utterance", label="topics")
    with pytest.raises(InputError, match="columns: found 'labels'; .* did you mean 'label'"):
        splits_of(name, labels="topic")
    both = written(tmp_path, form, rows, ("text", "label", "class"), name="both")
    with pytest.raises(InputError, match="found several: label, class; allowed: one of text, label, class"):
        splits_of(both)


def test_texts_alone_need_no_label(tmp_path, form):
    assert splits_of(written(tmp_path, form, [("a",), ("b",)], ("text",)))["train"].labels is None


@pytest.mark.parametrize(
    ("labels", "kind", "found"),
    [
        (["a", "b", "1"], "U", ["a", "b", "1"]),
        (["2", "10", "2"], "i", [2, 10, 2]),
        (["0.5", "1", "2"], "f", [0.5, 1.0, 2.0]),
        (["01", "1", "2"], "U", ["01", "1", "2"]),
        (["nan", "1", "2"], "U", ["nan", "1", "2"]),
        ([2, 10, 2], "i", [2, 10, 2]),
        ([0.5, 1, 2], "f", [0.5, 1.0, 2.0]),
        ([True, False, True], "i", [1, 0, 1]),
    ],
)
def test_labels_are_text_integers_or_targets(tmp_path, labels, kind, found):
    form = "csv" if all(isinstance(label, str) for label in labels) else "jsonl"
    name = written(tmp_path, form, [("t", label) for label in labels])
    array = splits_of(name)["train"].labels
    assert (array.dtype.kind, array.tolist()) == (kind, found)


def test_labels_of_several_files_are_of_one_kind(tmp_path):
    written(tmp_path, "csv", [("t", "1"), ("u", "2")], name="b_train")
    written(tmp_path, "csv", [("t", "none")], name="b_test")
    splits = splits_of(f"csv:{tmp_path}/b_*.csv")
    assert [samples.labels.tolist() for samples in splits.values()] == [["none"], ["1", "2"]]


def test_empty_texts_are_bad_samples_with_their_row(tmp_path, form):
    train = splits_of(written(tmp_path, form, [("a", "x"), (" ", "y"), ("", "x")]))["train"]
    for index, row in ((1, 2), (2, 3)):
        with pytest.raises(BadSampleError, match=f"table.{form}, row {row}: found an empty text"):
            train.read(index)


def test_labels_and_splits_that_are_missing_are_named(tmp_path, form):
    name = written(tmp_path, form, [("a", "x"), ("b", ""), ("c", "")])
    with pytest.raises(InputError, match=rf"table.{form}, row 2: found no label \(2 rows in all\)"):
        splits_of(name)
    name = written(tmp_path, form, [("a", "x", "train"), ("b", "y", "")], ("text", "label", "split"), "s")
    with pytest.raises(InputError, match=f"s.{form}, row 2: found no split"):
        splits_of(name)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "table.csv: found no rows"),
        (b"text,label\n", "table.csv: found no rows"),
        (b"text,label\na,b\nc\n", r"row 2 \(line 3\): found 1 fields; allowed: 2, as in the header"),
        (b"text,label\na,b\n\nc,d\n", r"row 2 \(line 3\): found 0 fields"),
        (b"text,label\na,b\nc,d,e\n", r"row 2 \(line 3\): found 3 fields; .* put quotes around fields"),
        (b'text,label\n"a\nb",c\nd,e,f\n', r"row 2 \(line 4\): found 3 fields"),
        (b'text,label\n"a,b\nc,d\n', "line 3: found unexpected end of data; allowed: quotes that are"),
        (b'text,label\na,"b"x\n', "allowed: quotes that are closed, and doubled inside"),
        (b"text,text\na,b\n", "header: found .* a name of its own for every column"),
        (
            b"text,label\na,b\ncaf\xe9,d\n",
            "line 3: found byte 0xe9, which is not UTF-8; allowed: text in UTF-8",
        ),
        ("text,label\na,b\n".encode("utf-16"), "line 1: found byte 0xff, which is not UTF-8"),
    ],
)
def test_a_bad_csv_is_one_line(tmp_path, data, message):
    (tmp_path / "table.csv").write_bytes(data)
    with pytest.raises(InputError, match=message) as caught:
        splits_of(f"csv:{tmp_path}/table.csv")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "found no rows"),
        (b'{"text": "a", "label": 1}\n{"text": \n', "line 2: found Expecting value"),
        (b'{"text": "a", "label": 1}\n[1]\n', "line 2: found .*1.*; allowed: one JSON object a line"),
        (b'{"text": "a", "label": 1}\n{"text": "b"}\n', "row 2: found no label"),
        (
            b'{"text": "a", "label": 1}\n{"text": "b", "label": "x"}\n',
            "row 2: found 'x'; allowed: labels all",
        ),
        (b'{"text": "a", "label": 1.5}\n{"text": "b", "label": NaN}\n', "row 2: found nan; .* finite"),
        (b'{"text": "a", "label": [1]}\n', r"row 1: found \[1\]; allowed: labels all text"),
        (b'{"text": "a", "label": 99999999999999999999}\n', "an integer above 64 bits"),
        (b"[" * 100_000, "line 1: found .*; allowed: one JSON object a line"),
    ],
)
def test_a_bad_jsonl_is_one_line(tmp_path, data, message):
    (tmp_path / "table.jsonl").write_bytes(data)
    with pytest.raises(InputError, match=message) as caught:
        splits_of(f"jsonl:{tmp_path}/table.jsonl")
    assert "\n" not in str(caught.value)


def test_a_text_that_is_no_text_is_a_bad_sample(tmp_path):
    (tmp_path / "table.jsonl").write_text('{"text": "a", "label": 1}\n{"text": 3, "label": 2}\n')
    with pytest.raises(BadSampleError, match="row 2: found int; allowed: a text"):
        splits_of(f"jsonl:{tmp_path}/table.jsonl")["train"].read(1)


def test_a_byte_order_mark_and_other_newlines_change_nothing(tmp_path):
    (tmp_path / "table.csv").write_bytes(b"\xef\xbb\xbftext,label\r\na,x\r\nb,y\r\n\r\n")
    train = splits_of(f"csv:{tmp_path}/table.csv")["train"]
    assert ([train.read(i) for i in range(2)], train.labels.tolist()) == (["a", "b"], ["x", "y"])


def test_long_texts_are_kept_whole(tmp_path, form):
    text = "word " * 60_000
    train = splits_of(written(tmp_path, form, [(text, "a"), ("b", "b")]))["train"]
    assert train.read(0) == text


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("csv:{0}/none.csv", "a .csv or .jsonl file that exists"),
        ("csv:{0}/none_*.csv", "files that exist, called alike but for one"),
        ("csv:{0}/*_*.csv", "called alike but for one"),
    ],
)
def test_files_that_are_not_there_are_one_line(tmp_path, name, message):
    with pytest.raises(InputError, match=message):
        open_dataset(name.format(tmp_path))


def test_two_files_of_one_split_and_other_columns_are_refused(tmp_path):
    for own in ("val", "valid"):
        written(tmp_path, "csv", ROWS, name=f"b_{own}")
    with pytest.raises(InputError, match="two files are called 'validation'"):
        open_dataset(f"csv:{tmp_path}/b_*.csv")
    (tmp_path / "b_val.csv").unlink()
    written(tmp_path, "csv", ROWS, ("text", "label"), name="b_train")
    with pytest.raises(InputError, match="the columns of the others: text, label"):
        splits_of(f"csv:{tmp_path}/b_*.csv")


@pytest.mark.realdata
def test_banking77():
    if not (REAL / "banking77_train.csv").exists():
        pytest.skip("banking77_train.csv is missing")
    splits = splits_of(f"csv:{REAL}/banking77_*.csv")
    assert {split: len(samples) for split, samples in splits.items()} == {"test": 3080, "train": 10_003}
    for samples in splits.values():
        assert len(np.unique(samples.labels)) == 77
        assert all(samples.read(index) for index in range(len(samples)))


@pytest.mark.parametrize("prefix", ["csv", "jsonl"])
def test_it_is_called_what_it_was_asked_for(tmp_path, prefix):
    rows = {
        "csv": "text,label\na,x\nb,y\n",
        "jsonl": '{"text": "a", "label": "x"}\n{"text": "b", "label": "y"}\n',
    }
    for split in ("train", "test"):
        (tmp_path / f"{split}.{prefix}").write_text(rows[prefix])
    for name in (f"train.{prefix}", f"*.{prefix}"):
        dataset = open_dataset(f"{prefix}:{tmp_path / name}")
        assert dataset.name == dataset.describe()["name"] == f"{prefix}:{name}"
    with pytest.raises(
        InputError, match=f"dataset: found '{prefix}:nowhere.{prefix}'; allowed: a .csv or .jsonl"
    ):
        open_dataset(f"{prefix}:nowhere.{prefix}")


def test_what_has_no_end_is_not_read(tmp_path):
    os.mkfifo(tmp_path / "table.csv")
    with pytest.raises(
        InputError, match="dataset: found .*table.csv'; allowed: a .csv or .jsonl file that exists"
    ):
        splits_of(f"csv:{tmp_path / 'table.csv'}")


@pytest.mark.parametrize("row", [0, 1])
def test_a_cell_of_ten_megabytes_is_read_or_named(tmp_path, row):
    rows = ["text,category", "a,hi", "b,bye", "c,hi", "d,bye"]
    rows[row] = "x" * 10_000_000 + ",category" if row == 0 else "x" * 10_000_000 + ",hi"
    (tmp_path / "table.csv").write_text("\n".join(rows))
    name = f"csv:{tmp_path / 'table.csv'}"
    if row == 0:
        with pytest.raises(InputError, match="table.csv header: found field larger than field limit"):
            splits_of(name)
    else:
        assert len(splits_of(name)["train"].read(0)) == 10_000_000
