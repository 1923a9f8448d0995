"""What every score must do, as a test class: subclass it for a score of your own. Needs pytest.

>>> from critmass.testing import ScoreContract
>>> class TestMine(ScoreContract):
...     def make(self):
...         return "ridge"  # or a Score, or a function of two splits
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from critmass.curves.measure import measure
from critmass.errors import InputError
from critmass.features.features import Features
from critmass.linalg.devices import resolve_device
from critmass.linalg.matrices import Floats, Indices
from critmass.parts.making import make_parts
from critmass.parts.plan import Plan
from critmass.parts.sizes import resolve_sizes
from critmass.scores import Run, Score, make_score
from critmass.scores.custom import Custom
from critmass.scores.protocols import Measurement
from critmass.scores.settings import settings_of


def made_up(
    n: int = 120, d: int = 24, *, classes: int = 3, seed: int = 0, dtype: Any = np.float64
) -> tuple[Floats, Indices]:
    """Return correlated columns of very different scale and offset, and labels that depend on them."""
    generator = np.random.default_rng(seed)
    x = generator.normal(size=(n, d)) @ generator.normal(size=(d, d)) * 10.0 ** generator.uniform(-2, 2, d)
    x += generator.normal(size=d) * 50
    centred = (x - x.mean(0)) / x.std(0)
    y = np.argmax(centred @ generator.normal(size=(d, classes)) + generator.normal(size=(n, classes)), axis=1)
    return x.astype(dtype), y


class ScoreContract:
    """Tests that a score passes. Override `make`; the tolerances where rounding can flip a prediction.

    Attributes
    ----------
    exact : float
        How far apart two ways to the same score may be.
    across_devices : float
        The same, between NumPy and torch.
    """

    exact = 1e-9
    across_devices = 1e-3

    def make(self) -> str | Score | Callable[..., Any]:
        """Return the score: a name, a Score or a function of two splits."""
        raise NotImplementedError

    @pytest.fixture
    def score(self) -> Score:
        """The score, made."""
        return make_score(self.make())

    @pytest.fixture
    def features(self) -> Features:
        """180 training rows, 620 test rows, 18 neurons, 3 classes, a further test split."""
        x, y = made_up(n=800, d=18)
        return Features.from_arrays(
            (x[:180], y[:180]), test=(x[180:], y[180:]), tests={"more": (x[200:], y[200:])}
        )

    def test_it_measures_every_test_split_size_and_repeat(self, score: Score, features: Features) -> None:
        plan = Plan.of(make_parts("random", 18, repeats=3), resolve_sizes([1, 2, 5, 17], 18))
        measured = score.measure(features, plan, Run())
        assert measured.keys() == {"test", "more"}
        for measurement in measured.values():
            assert measurement.scores.shape == measurement.converged.shape == (3, 5)
            assert np.isfinite(measurement.scores).all()
            assert all(values.shape == (3, 5) for values in measurement.chosen.values())
            if measurement.covariance is not None:
                assert measurement.covariance.shape == (5, 4, 4)
                assert (np.linalg.eigvalsh(measurement.covariance) > -1e-9).all()

    def test_all_ways_agree(self, score: Score, features: Features) -> None:
        x, y = made_up(n=400, d=18)
        # Fewer training and test rows than neurons: then some scores have a way by rows, too.
        few = Features.from_arrays((x[:17], y[:17]), test=(x[17:34], y[17:34]))
        for rows in (features, few):
            plan = Plan.of(make_parts("random", 18, repeats=3), resolve_sizes([1, 2, 5, 17], 18))
            ways = [score.measure(rows, plan, Run(way=way)) for way in score.memory(rows, plan)]
            for other in ways[1:]:
                self._assert_same(ways[0], other)

    def _assert_same(self, one: Mapping[str, Measurement], other: Mapping[str, Measurement]) -> None:
        assert one.keys() == other.keys()
        for split, first in one.items():
            second = other[split]
            np.testing.assert_allclose(first.scores, second.scores, atol=self.exact)
            assert first.whole == pytest.approx(second.whole)
            assert (first.covariance is None) == (second.covariance is None)
            if first.covariance is not None and second.covariance is not None:
                np.testing.assert_allclose(first.covariance, second.covariance, atol=1e-7)
            assert first.n_units == second.n_units
            assert first.chosen.keys() == second.chosen.keys()
            for name, values in first.chosen.items():
                np.testing.assert_allclose(values, second.chosen[name])

    def test_the_part_of_size_d_is_the_whole(self, features: Features) -> None:
        curve = measure(features, score=self.make(), sizes="all", repeats=3)
        assert (curve.measurement.scores[:, -1] == curve.whole).all()
        assert curve.redundancy(1.0).reached

    def test_the_order_of_neurons_in_the_layer_is_no_matter(self, features: Features) -> None:
        shuffle = np.random.default_rng(0).permutation(18)
        x = {name: np.asarray(split.x[:])[:, shuffle] for name, split in features.splits.items()}
        y: dict[str, Any] = {name: split.y for name, split in features.splits.items()}
        moved = Features.from_arrays((x["train"], y["train"]), test=(x["test"], y["test"]))
        order = np.stack([np.random.default_rng(seed).permutation(18) for seed in (1, 2)])
        position = np.argsort(shuffle)
        one = measure(features, score=self.make(), parts=order, sizes=[3, 9])
        other = measure(moved, score=self.make(), parts=position[order], sizes=[3, 9])
        np.testing.assert_allclose(one.measurement.scores, other.measurement.scores, atol=self.exact)

    def test_the_container_of_the_rows_is_no_matter_to_the_last_bit(
        self, features: Features, tmp_path: Path
    ) -> None:
        stored = features.save(tmp_path / "store", shard_rows=37)
        one, other = (
            measure(fs, score=self.make(), sizes="all", repeats=2).measurement for fs in (features, stored)
        )
        assert one.scores.tobytes() == other.scores.tobytes()
        if one.covariance is not None and other.covariance is not None:
            assert one.covariance.tobytes() == other.covariance.tobytes()

    def test_features_are_left_as_they_were(self, features: Features) -> None:
        before = features.fingerprint
        measure(features, score=self.make(), sizes=[4], repeats=2)
        again = Features(
            features.name, features.task, features.classes, features.groups, features.splits
        ).fingerprint
        assert again == before

    def test_labels_are_needed_exactly_where_it_says_so(self, score: Score, features: Features) -> None:
        if isinstance(score, Custom):
            pytest.skip("a function says for itself what it needs")
        bare = Features.from_arrays(np.asarray(features.splits["train"].x))
        if score.label_free:
            assert measure(bare, score=score, sizes=[9]).whole > 0
        else:
            with pytest.raises(InputError, match="needs no labels"):
                measure(bare, score=score)

    def test_less_memory_than_it_says_is_refused_with_advice(self, score: Score, features: Features) -> None:
        parts = make_parts("random", features.n_neurons)
        plan = Plan.of(parts, parts.resolve("paper"))
        needed = min(score.memory(features, plan).values()) / 2**30
        with pytest.raises(InputError, match="raise memory_gib"):
            measure(features, score=self.make(), memory_gib=0.999 * needed)
        assert measure(features, score=self.make(), memory_gib=1.001 * needed).sizes[-1] == parts.n_neurons

    def test_not_finite_test_rows_are_named(self, features: Features) -> None:
        train, test = features.splits["train"], features.splits["test"]
        x = np.array(test.x)
        x[7, 3] = np.nan
        bad = Features.from_arrays((train.x, train.y), test=(x, test.y))
        with pytest.raises(InputError, match=r"X of 'test': found nan at row 7, neuron 3"):
            measure(bad, score=self.make())

    def test_its_settings_are_json_and_name_the_measurement(self, score: Score, features: Features) -> None:
        settings = settings_of(score)
        assert json.loads(json.dumps(settings)) == {
            name: list(value) if isinstance(value, tuple) else value for name, value in settings.items()
        }
        asked = measure(features, score=score, sizes=[4], repeats=1).spec
        assert asked["score"] == score.name
        assert settings.keys() == asked["settings"].keys()

    def test_numpy_and_torch_agree(self, features: Features) -> None:
        if importlib.util.find_spec("torch") is None:
            pytest.skip("torch is not installed")
        assert resolve_device("torch:cpu").torch_name == "cpu"
        one, other = (
            measure(features, score=self.make(), sizes="all", repeats=2, device=device).measurement
            for device in ("cpu", "torch:cpu")
        )
        np.testing.assert_allclose(one.scores, other.scores, atol=self.across_devices)
        assert one.whole == pytest.approx(other.whole, abs=self.across_devices)
