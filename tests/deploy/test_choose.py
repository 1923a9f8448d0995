"""Parts chosen on validation rows: the choice is the best of its candidates, and never sees a test row."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest

import critmass as cm
from critmass.deploy.choose import choose_parts
from critmass.errors import InputError


def hard_class(n: int = 1200, d: int = 40, seed: int = 0) -> cm.Features:
    """Three classes of which one is told apart by few neurons only; other parts sacrifice it."""
    rng = np.random.default_rng(seed)
    y = np.arange(n) % 3
    x = rng.normal(size=(n, d))
    x[:, : d // 2] += 0.8 * (y == 1)[:, None] - 0.8 * (y == 2)[:, None]
    x[:, -4:] += 2.0 * (y == 0)[:, None]
    groups = np.where(rng.random(n) < 0.3, "few", "many")
    half = n // 2
    return cm.Features.from_arrays(
        (x[:half], y[:half]),
        test=(x[half:], y[half:]),
        groups={"train": groups[:half], "test": groups[half:]},
    )


def test_the_choice_is_the_best_of_its_candidates() -> None:
    """Against a naive loop: each candidate measured alone on the rows set aside."""
    fs = hard_class(n=400)
    chosen = choose_parts(fs, candidates=3, sizes=[5, 12], repeats=2)
    assert chosen.masks.shape == (2, 2, 40)
    train, aside = fs.splits["train"], fs.validation_rows(0)
    fit = np.setdiff1d(np.arange(train.x.shape[0]), aside)
    inner = cm.Features.from_arrays((train.x[fit], train.y[fit]), test=(train.x[aside], train.y[aside]))
    curve = cm.measure(inner, sizes=[5, 12], repeats=6)
    for repeat in range(2):
        for index, size in enumerate((5, 12)):
            worst = (
                curve.by_class.filter((pl.col("size") == size) & (pl.col("repeat") // 3 == repeat))
                .group_by("repeat", maintain_order=True)
                .agg(pl.col("score").min())
            )
            row = chosen.frame.filter((pl.col("size") == size) & (pl.col("repeat") == repeat)).row(
                0, named=True
            )
            assert row["chosen"] == pytest.approx(worst["score"].max())
            assert row["candidates_mean"] == pytest.approx(worst["score"].mean())
            best = worst.filter(pl.col("score") == worst["score"].max())["repeat"].to_list()
            masks = [set(curve.indices(repeat=r, size=size)) for r in best]
            assert set(np.flatnonzero(chosen.masks[repeat, index])) in masks


def test_it_spares_the_worst_class_on_test_rows_it_never_saw() -> None:
    fs = hard_class()
    random = cm.measure(fs, sizes=[8], repeats=5, regularisation=10.0)
    settings = {"regularisation": 10.0}
    chosen = choose_parts(fs, candidates=20, sizes=[8], repeats=5, settings=settings)
    spared = cm.measure(fs, parts=chosen.masks, regularisation=10.0)

    def worst(curve: cm.Curve) -> float:
        return (
            cm.inequality(curve)
            .frame.filter((pl.col("size") == 8) & (pl.col("by") == "class"))["worst_accuracy"]
            .item()
        )

    assert worst(spared) > worst(random) + 0.1
    assert chosen.frame["chosen"].mean() > chosen.frame["candidates_mean"].mean()


def test_test_rows_change_nothing() -> None:
    fs = hard_class(n=300)
    train = fs.splits["train"]
    other = cm.Features.from_arrays((train.x, train.y), test=(-train.x[:60], train.y[:60]))
    same = cm.Features.from_arrays((train.x, train.y), test=(train.x[:60], train.y[:60]))
    first, second = (choose_parts(f, candidates=3, sizes=[6], repeats=2) for f in (other, same))
    np.testing.assert_array_equal(first.masks, second.masks)
    assert first.frame.equals(second.frame)


def test_a_validation_split_and_groups_are_used() -> None:
    fs = hard_class(n=300)
    x, y = np.asarray(fs.splits["train"].x), fs.splits["train"].y
    group = np.where(np.arange(len(y)) % 4 == 0, "few", "many")
    given = cm.Features.from_arrays(
        (x[:100], y[:100]),
        validation=(x[100:], y[100:]),
        test=(x[:50], y[:50]),
        groups={"validation": group[100:]},
    )
    by_group = choose_parts(given, by="worst-group", candidates=3, sizes=[6], repeats=1)
    inner = cm.Features.from_arrays((x[:100], y[:100]), test=(x[100:], y[100:]), groups={"test": group[100:]})
    curve = cm.measure(inner, sizes=[6], repeats=3)
    lowest = curve.by_group.filter(pl.col("size") == 6).group_by("repeat").agg(pl.col("score").min())
    assert by_group.frame["chosen"].item() == pytest.approx(lowest["score"].max())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"by": "worst"}, "by: found 'worst'; allowed: mean, worst-class, worst-group"),
        ({"candidates": 0}, "candidates: found 0"),
        ({"repeats": 0}, "repeats: found 0"),
        ({"score": "cka"}, "by: found 'worst-class'"),
        ({"sizes": [99]}, "sizes: found 99"),
    ],
)
def test_what_cannot_be_chosen_is_named(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        choose_parts(hard_class(n=120), **{"candidates": 2, "sizes": [4], "repeats": 1, **changes})


def test_targets_are_refused() -> None:
    rng = np.random.default_rng(0)
    fs = cm.Features.from_arrays((rng.normal(size=(60, 5)), rng.normal(size=60)))
    with pytest.raises(InputError, match="features: found task regression; allowed: classes"):
        choose_parts(fs)
