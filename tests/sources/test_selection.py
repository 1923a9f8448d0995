"""Which splits, classes and samples are used; and that none is read to find out."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from critmass.errors import InputError
from critmass.sources.protocols import Samples
from critmass.sources.selection import describe_selection, select


def unread(_index: int) -> str:
    pytest.fail("a sample was read")


def samples(labels, prefix="row", groups=None, read=unread) -> Samples:
    labels = None if labels is None else np.asarray(labels)
    count = 4 if labels is None else len(labels)
    return Samples([f"{prefix} {i}" for i in range(count)], read, labels, groups)


@pytest.fixture
def whole():
    return {
        "train": samples(["ant", "bee", "cat"] * 10, "train"),
        "validation": samples(["ant", "bee", "cat"] * 2, "validation"),
        "v2": samples(["cat"], "v2"),
    }


def test_all_splits_are_used_by_default(whole):
    assert select(whole) == whole
    assert list(select(whole)) == list(whole)


def test_a_mapping_names_what_is_used(whole):
    chosen = select(whole, splits={"train": "train", "test": "val"})
    assert list(chosen) == ["train", "test"]
    assert chosen["test"] is whole["validation"]


@pytest.mark.parametrize(
    ("splits", "message"),
    [
        ({"train": "trian"}, "split for 'train': found 'trian'; .* did you mean 'train'"),
        (
            {"train": "train", "test": "train"},
            "split for 'test': found 'train'; allowed: a split that has no",
        ),
        ({"test": "v2"}, "splits: found test; allowed: one called train"),
    ],
)
def test_mappings_that_cannot_be_are_one_line(whole, splits, message):
    with pytest.raises(InputError, match=message):
        select(whole, splits=splits)


def test_classes_are_a_subset_of_every_split(whole):
    chosen = select(whole, classes=["cat", "ant", "cat"])
    assert {name: sorted(set(s.labels.tolist())) for name, s in chosen.items()} == {
        "train": ["ant", "cat"],
        "validation": ["ant", "cat"],
        "v2": ["cat"],
    }
    assert chosen["train"].names[:3] == ["train 0", "train 2", "train 3"]


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (["bea"], "class: found 'bea'; allowed: ant, bee, cat; did you mean 'bee'"),
        (["ant", "bee"], "classes: found .*; allowed: classes of which 'v2' has samples"),
    ],
)
def test_classes_that_are_not_there_are_one_line(whole, classes, message):
    with pytest.raises(InputError, match=message):
        select(whole, classes=classes)


def test_classes_may_be_numbers_or_their_names():
    chosen = select({"train": samples([3, 10, 7, 10])}, classes=["10", 3])
    assert chosen["train"].labels.tolist() == [3, 10, 10]


@pytest.mark.parametrize("labels", [None, [0.5, 1.5, 2.0, 3.0]])
def test_without_classes_none_can_be_chosen(labels):
    with pytest.raises(InputError, match="allowed: a dataset with classes"):
        select({"train": samples(labels)}, classes=["ant"])


def test_what_is_chosen_reads_its_own_row(whole):
    train = samples(["ant", "bee"] * 5, read=lambda index: f"sample {index}", groups=np.arange(10))
    chosen = select({"train": train}, classes=["bee"], limit=3)["train"]
    rows = [int(name.split()[1]) for name in chosen.names]
    assert [chosen.read(i) for i in range(3)] == [f"sample {row}" for row in rows]
    assert chosen.groups.tolist() == rows
    assert set(chosen.labels.tolist()) == {"bee"}


@given(
    counts=st.lists(st.integers(1, 40), min_size=1, max_size=6),
    extra=st.integers(0, 60),
    seed=st.integers(0, 9),
)
def test_a_limit_is_exact_and_spread_over_the_classes(counts, extra, seed):
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))
    assume(len(labels) >= 2 * len(counts))
    limit = min(2 * len(counts) + extra, len(labels))
    chosen = select({"train": samples(labels)}, limit=limit, seed=seed)["train"]
    rows = [int(name.split()[1]) for name in chosen.names]
    assert len(rows) == limit
    assert rows == sorted(set(rows))
    taken = np.bincount(chosen.labels, minlength=len(counts))
    left = np.array(counts) - 1
    share = 1 + left * (limit - len(counts)) / max(left.sum(), 1)
    assert (np.abs(taken - share) < 1 + 1e-9).all()


def test_limits_by_split_leave_the_others_whole(whole):
    chosen = select(whole, limit={"train": 7, "validation": 100})
    assert {name: len(each) for name, each in chosen.items()} == {"train": 7, "validation": 6, "v2": 1}
    again = select(whole, limit={"train": 7})["train"].names
    assert chosen["train"].names == again
    assert select(whole, limit=7, seed=1)["train"].names != again


@pytest.mark.parametrize(
    ("limit", "message"),
    [
        (2, "limit of 'train': found 2; allowed: 6 or more, two for each of 3 classes; .*fewer classes"),
        (5, "limit of 'train': found 5; allowed: 6 or more"),
        (0, "limit of 'train': found 0; allowed: 1 or more samples"),
        ({"tran": 5}, "limit: found 'tran'; .* did you mean 'train'"),
    ],
)
def test_limits_that_cannot_be_are_one_line(whole, limit, message):
    with pytest.raises(InputError, match=message):
        select(whole, limit=limit)


@pytest.mark.parametrize("labels", [None, [0.5, 1.5, 2.0, 3.0]])
def test_a_limit_needs_no_classes(labels):
    assert len(select({"train": samples(labels)}, limit=2)["train"]) == 2


def test_further_tests_come_from_other_datasets(whole):
    test, validation = samples(["ant"], "test"), samples(["bee"], "validation")
    others = {
        "a": {"train": samples(["cat"]), "validation": validation, "test": test},
        "b": {"train": samples(["cat"]), "validation": validation},
        "c": {"odd": test},
    }
    chosen = select(whole, tests=others)
    assert [chosen[name] for name in "abc"] == [test, validation, test]
    with pytest.raises(InputError, match="tests 'd': found splits train, odd; allowed: one called test"):
        select(whole, tests={"d": {"train": test, "odd": test}})
    with pytest.raises(InputError, match="tests: found 'v2'; allowed: a name other than train, valid"):
        select(whole, tests={"v2": {"test": test}})
    with pytest.raises(InputError, match="tests 'e': found no labels in the test"):
        select(whole, tests={"e": {"test": samples(None)}})


IDS = [f"n{7 * i:08d}" for i in range(1000)]


def test_imagenet_indices_become_wordnet_ids():
    train = {"train": samples(list(reversed(IDS)))}
    chosen = select(train, tests={"v2": {"test": samples([0, 999, 5])}}, classes=[IDS[0], IDS[5]])
    assert chosen["v2"].labels.tolist() == [IDS[0], IDS[5]]
    indices = {"train": samples(np.arange(1000))}
    assert select(indices, tests={"v2": {"test": samples([3])}})["v2"].labels.tolist() == [3]
    with pytest.raises(InputError, match="class index 1000; allowed: 0 to 999"):
        select(train, tests={"v2": {"test": samples([1000])}})


@pytest.mark.parametrize("ids", [IDS[:999], [*IDS[:999], "tench"]])
def test_other_indices_are_not_guessed(ids):
    with pytest.raises(InputError, match="class indices are understood beside the 1,000 WordNet ids"):
        select({"train": samples(ids)}, tests={"v2": {"test": samples([0])}})


def test_a_selection_describes_itself():
    assert describe_selection() == {}
    found = describe_selection(
        splits={"train": "train"}, classes=["b", "a"], limit={"train": 5}, tests={"v2": {"name": "x"}}, seed=3
    )
    assert json.loads(json.dumps(found)) == found
    assert found == {
        "splits": {"train": "train"},
        "classes": ["a", "b"],
        "limit": {"train": 5},
        "seed": 3,
        "tests": {"v2": {"name": "x"}},
    }
