"""The SGD probes against the loop they replace: one torch.nn.Linear and torch.optim.SGD for each part."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score

import critmass as cm
from critmass.linalg import rng
from critmass.linalg.devices import resolve_device
from critmass.parts.making import make_parts
from critmass.parts.plan import Plan
from critmass.parts.sizes import resolve_sizes
from critmass.scores import Run
from critmass.scores.probes import fit_and_validation, row_weights
from critmass.scores.sgd import SGD
from critmass.scores.sgd_solvers import WHOLE, initial, side_by_side
from critmass.testing import made_up


def features_of(x, y, **more):
    third = len(x) // 3
    return cm.Features.from_arrays((x[third:], y[third:]), test=(x[:third], y[:third]), **more)


@pytest.fixture(scope="module", autouse=True)
def _torch_on_one_thread():
    """Heads this narrow are no work for threads, which on a busy machine wait for one another."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def small_digits(digits):
    """The digits as float32 within 0..1: 1,348 training rows, so that the last batch of 256 is ragged."""
    (x, y), (xt, yt) = ((np.asarray(s.x[:]), s.y) for s in digits.splits.values())
    return cm.Features.from_arrays(((x / 16).astype("f4"), y), test=((xt / 16).astype("f4"), yt))


def trained(score, features, parts, sizes, run=None):
    return score.fit(features, Plan.of(parts, np.asarray(sizes)), run or Run())


def probes(score, features, parts, sizes, run=None):
    """Return the weights of every probe by (repeat, size), bias first."""
    found = {}
    for heads in trained(score, features, parts, sizes, run).heads:
        for size, weights in zip(heads.group.sizes.tolist(), heads.probes(), strict=True):
            assert weights.shape[1] == size + 1
            found[heads.group.repeat, size] = weights
    assert len(found) == parts.repeats * (len(sizes) - 1) + 1
    return found


def torch_head(score, views, y, weights, start, seed=0):
    """Train what a user of torch would: one head, alone. Return its weights, bias first."""
    tensors = [torch.from_numpy(np.ascontiguousarray(view)) for view in views]
    head = torch.nn.Linear(start.shape[1] - 1, len(start), dtype=tensors[0].dtype)
    with torch.no_grad():
        head.bias.copy_(torch.from_numpy(start[:, 0]))
        head.weight.copy_(torch.from_numpy(start[:, 1:]))
    optimiser = torch.optim.SGD(
        head.parameters(), lr=score.learning_rate, momentum=score.momentum, weight_decay=score.weight_decay
    )
    schedule = {
        "step": lambda: torch.optim.lr_scheduler.StepLR(optimiser, score.step_epochs, score.decay),
        "cosine": lambda: torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, score.epochs),
        "constant": lambda: torch.optim.lr_scheduler.ConstantLR(optimiser, factor=1.0),
    }[score.schedule]()
    loss_of = torch.nn.CrossEntropyLoss(reduction="none")
    labels, weights = torch.from_numpy(y), torch.from_numpy(weights).to(tensors[0].dtype)
    for epoch in range(score.epochs):
        order = torch.from_numpy(rng.stream(seed, "sgd", epoch).permutation(len(y)))
        for rows in order.split(score.batch_size):
            loss = loss_of(head(tensors[epoch % len(tensors)][rows]), labels[rows])
            optimiser.zero_grad()
            ((weights[rows] * loss).sum() / weights[rows].sum()).backward()
            optimiser.step()
        schedule.step()
    return torch.cat([head.bias[:, None], head.weight], dim=1).detach().numpy()


def assert_equals_torch(score, features, parts, sizes, tolerance=1e-5, seed=0):
    """Compare weights, and outputs on test rows, of every size and repeat and of the whole."""
    train, test = features.splits["train"], np.asarray(features.splits["test"].x[:])
    if score.select == "best":
        train, _ = fit_and_validation(features, seed)
    weights = row_weights(features, train, score.class_weight)
    weights = np.ones(len(train.y)) if weights is None else weights
    x, mean, scale = np.asarray(train.x[:]), 0.0, 1.0
    if score.standardise:
        mean = np.average(x.astype("f8"), axis=0, weights=weights)
        scale = np.sqrt(np.average((x - mean) ** 2, axis=0, weights=weights))
        scale = np.where(scale == 0, 1.0, scale)
    views = [((np.asarray(view[:]) - mean) / scale).astype(x.dtype) for view in train.views or (x,)]
    test = ((test - mean) / scale).astype(x.dtype)
    found = probes(score, features, parts, sizes, Run(seed=seed))
    for (repeat, size), ours in found.items():
        part = parts.orders[max(repeat, 0)][:size]
        start = initial(seed, repeat, size, len(features.classes))
        theirs = torch_head(score, [view[:, part] for view in views], train.y, weights, start, seed)
        np.testing.assert_allclose(ours, theirs, atol=tolerance, rtol=tolerance)
        outputs = [test[:, part] @ w[:, 1:].T + w[:, 0] for w in (ours, theirs)]
        np.testing.assert_allclose(*outputs, atol=10 * tolerance, rtol=10 * tolerance)


@pytest.mark.parametrize("schedule", ["step", "cosine", "constant"])
def test_every_head_of_digits_is_the_one_that_torch_trains_alone(small_digits, schedule):
    score = SGD(epochs=6, step_epochs=2, schedule=schedule)
    assert_equals_torch(score, small_digits, make_parts("random", 64, repeats=3), [1, 3, 20, 40, 63, 64])


def test_the_papers_own_protocol_to_the_last_epoch(small_digits):
    assert_equals_torch(SGD(), small_digits, make_parts("random", 64, repeats=1), [6, 32, 64], seed=4)


def test_float64_rows_are_computed_in_float64(digits):
    # Pixels of 0..16 at this rate jump about: in float32 no two orders of summation would agree.
    score = SGD(epochs=3)
    assert_equals_torch(score, digits, make_parts("random", 64, repeats=2), [5, 40, 64], tolerance=1e-9)


@pytest.mark.parametrize("batch_size", [1, 7, 50, 1000])
def test_other_batches_momentum_and_decay(batch_size):
    x, y = made_up(n=150, d=10, dtype=np.float32)
    score = SGD(
        epochs=3, batch_size=batch_size, momentum=0.0, weight_decay=0.05, learning_rate=0.02, standardise=True
    )
    assert_equals_torch(score, features_of(x, y), make_parts("random", 10, repeats=2), [1, 4, 10])


@pytest.mark.parametrize("standardise", [False, True])
@pytest.mark.parametrize("class_weight", [None, "balanced", {0: 3.0, 2: 0.2}])
@pytest.mark.parametrize("weighted", [False, True])
def test_weights_of_rows_and_classes(standardise, class_weight, weighted):
    x, y = made_up(n=150, d=12, dtype=np.float32)
    own = np.random.default_rng(1).uniform(0.1, 3.0, 100)
    features = features_of(x, y, weights={"train": own} if weighted else None)
    rate = 0.1 if standardise else 1e-6
    score = SGD(
        epochs=4, batch_size=32, learning_rate=rate, standardise=standardise, class_weight=class_weight
    )
    assert_equals_torch(score, features, make_parts("random", 12, repeats=2), [2, 7, 12])


@pytest.mark.parametrize(("select", "epochs"), [("last", 5), ("best", 1)])
def test_epochs_take_the_views_in_turn(select, epochs):
    x, y = made_up(n=150, d=8, dtype=np.float32)
    generator = np.random.default_rng(0)
    views = [x[50:] + generator.normal(size=(100, 8)).astype("f4") * x.std(0) for _ in range(2)]
    features, parts = features_of(x, y, views=views), make_parts("random", 8, repeats=2)
    score = SGD(epochs=epochs, batch_size=32, standardise=True, select=select)
    assert_equals_torch(score, features, parts, [3, 8])


def test_two_classes_have_two_outputs():
    x, y = made_up(n=150, d=9, classes=2, dtype=np.float32)
    features, parts = features_of(x, y), make_parts("random", 9, repeats=2)
    assert_equals_torch(SGD(epochs=4, batch_size=32, standardise=True), features, parts, [1, 4, 9])
    assert probes(SGD(epochs=1), features, parts, [4, 9])[0, 4].shape == (2, 5)


def test_scores_are_those_of_the_weights(small_digits):
    parts, sizes = make_parts("random", 64, repeats=2), resolve_sizes([3, 20, 40], 64)
    score = SGD(epochs=5)
    measured = score.measure(small_digits, Plan.of(parts, sizes), Run())["test"]
    test = small_digits.splits["test"]
    for (repeat, size), weights in probes(score, small_digits, parts, sizes).items():
        part = parts.orders[max(repeat, 0)][:size]
        outputs = np.asarray(test.x[:])[:, part] @ weights[:, 1:].T + weights[:, 0]
        expected = accuracy_score(test.y, outputs.argmax(axis=1))
        if repeat == WHOLE:
            assert (measured.scores[:, -1] == measured.whole).all()
            assert measured.whole == expected
        else:
            assert measured.scores[repeat, sizes.tolist().index(size)] == expected
    assert measured.whole > 0.8
    assert measured.converged.all()
    np.testing.assert_array_equal(measured.chosen["epoch"], np.full((2, 4), 5))


def naive_best(features, score, part, repeat, seed=0):
    """Return the first epoch of the best validation accuracy, by training that long, for every length."""
    fit, validation = fit_and_validation(features, seed)
    start = initial(seed, repeat, len(part), len(features.classes))
    x, xv = (np.asarray(split.x[:])[:, part] for split in (fit, validation))
    scores = []
    for epochs in range(1, score.epochs + 1):
        shorter = SGD(epochs=epochs, step_epochs=score.step_epochs)
        weights = torch_head(shorter, [x], fit.y, np.ones(len(x)), start, seed)
        scores.append(((xv @ weights[:, 1:].T + weights[:, 0]).argmax(axis=1) == validation.y).mean())
    return int(np.argmax(scores)) + 1


def test_the_best_epoch_is_the_first_best_on_validation_rows(small_digits):
    score = SGD(epochs=8, step_epochs=3, select="best")
    parts, sizes = make_parts("random", 64, repeats=2), resolve_sizes([2, 30], 64)
    chosen = score.measure(small_digits, Plan.of(parts, sizes), Run())["test"].chosen["epoch"]
    whole = naive_best(small_digits, score, parts.orders[0], WHOLE)
    expected = [
        [naive_best(small_digits, score, order[:k], r) for k in (2, 30)] + [whole]
        for r, order in enumerate(parts.orders)
    ]
    np.testing.assert_array_equal(chosen, expected)
    assert len(np.unique(chosen)) > 1


def test_the_best_epochs_weights_are_kept(small_digits):
    parts, sizes = make_parts("random", 64, repeats=2), [2, 30, 64]
    best = trained(SGD(epochs=8, step_epochs=3, select="best"), small_digits, parts, sizes)
    for heads in best.heads:
        for epoch, found, size in zip(
            heads.epochs, heads.probes(), np.array(sizes)[heads.group.size_index], strict=True
        ):
            fit, _ = fit_and_validation(small_digits, 0)
            part = parts.orders[max(heads.group.repeat, 0)][:size]
            start = initial(0, heads.group.repeat, int(size), 10)
            shorter = SGD(epochs=int(epoch), step_epochs=3)
            x = np.asarray(fit.x[:])[:, part]
            expected = torch_head(shorter, [x], fit.y, np.ones(len(x)), start)
            np.testing.assert_allclose(found, expected, atol=1e-5)


def test_test_labels_choose_nothing():
    x, y = made_up(n=240, d=10, dtype=np.float32)
    score = SGD(epochs=12, batch_size=32, standardise=True, select="best")
    shuffled = np.random.default_rng(0).permutation(y[:80])
    parts, sizes = make_parts("random", 10, repeats=3), resolve_sizes([2, 6], 10)
    one, other = (
        cm.Features.from_arrays((x[80:], y[80:]), test=(x[:80], labels)) for labels in (y[:80], shuffled)
    )
    epochs = [score.measure(fs, Plan.of(parts, sizes), Run())["test"].chosen["epoch"] for fs in (one, other)]
    np.testing.assert_array_equal(*epochs)
    assert len(np.unique(epochs[0])) > 1
    predictions = []
    for fs in (one, other):
        heads = score.fit(fs, Plan.of(parts, sizes), Run())
        ((_, classes),) = heads.predictions(fs.splits["test"].x, "test")
        predictions.append(classes)
    np.testing.assert_array_equal(*predictions)


@hypothesis_settings(max_examples=15, deadline=None)
@given(
    some=st.lists(st.integers(1, 89), min_size=1, max_size=6, unique=True).map(sorted),
    more=st.lists(st.integers(1, 89), max_size=12),
    momentum=st.sampled_from([0.0, 0.9]),
)
def test_heads_do_not_depend_on_which_others_are_trained(some, more, momentum):
    x, y = made_up(n=120, d=90, dtype=np.float32)
    features, parts = features_of(x, y), make_parts("random", 90, repeats=2)
    score = SGD(epochs=3, batch_size=32, momentum=momentum, standardise=True)
    few = probes(score, features, parts, [*some, 90])
    many = probes(score, features, parts, [*sorted({*some, *more}), 90])
    for key, weights in few.items():
        np.testing.assert_allclose(weights, many[key], atol=1e-5)


@given(st.lists(st.integers(1, 5000), max_size=40, unique=True).map(sorted))
def test_sizes_side_by_side_are_cut_but_none_lost(sizes):
    runs = side_by_side(np.array(sizes, dtype=np.intp))
    assert [size for run in runs[::-1] for size in sizes[run]] == sizes
    for run in runs:
        assert sizes[run][-1] <= 64 or sizes[run][0] >= sizes[run][-1] / 2


def test_a_rate_too_high_is_told_and_not_warned_of():
    x, y = made_up(n=150, d=8, dtype=np.float32)
    features, parts, sizes = features_of(x, y), make_parts("random", 8, repeats=2), resolve_sizes([3], 8)
    score = SGD(learning_rate=1e6, schedule="constant")
    measured = score.measure(features, Plan.of(parts, sizes), Run())["test"]
    assert not measured.converged.any()
    assert np.isfinite(measured.scores).all()
    curve = cm.measure(features, score=score, sizes=[3], repeats=2)
    assert any("did not converge" in warning for warning in curve.warnings)
    kept = SGD(learning_rate=1e6, schedule="constant", select="best")
    assert not kept.measure(features, Plan.of(parts, sizes), Run())["test"].converged.any()


def test_one_head_that_diverges_leaves_the_others_alone():
    generator = np.random.default_rng(0)
    y = np.arange(120) % 3
    x = (np.eye(3)[y] + 0.1 * generator.normal(size=(120, 3))).astype("f4")
    x = np.concatenate(
        [x, np.full((120, 1), 1e30, "f4") * generator.normal(size=(120, 1)).astype("f4")], axis=1
    )
    features = features_of(x, y)
    measured = cm.measure(features, score=SGD(epochs=20), parts=[0, 1, 2, 3], sizes=[3]).measurement
    np.testing.assert_array_equal(measured.converged, [[True, False]])
    assert measured.scores[0, 0] > 0.9


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[
            (name, value)
            for name in ("learning_rate", "decay")
            for value in (0, -1.0, float("nan"), None, "1")
        ],
        *[("momentum", value) for value in (1.0, -0.1, True, None)],
        *[("weight_decay", value) for value in (-1e-9, float("inf"), "0")],
        *[
            (name, value)
            for name in ("batch_size", "epochs", "step_epochs")
            for value in (0, 2.0, True, None)
        ],
        *[("schedule", value) for value in ("stepp", None)],
        *[("select", value) for value in ("first", 1)],
        *[("standardise", value) for value in (None, 1, "yes")],
        *[("metric", value) for value in ("r2", "accurcy")],
        *[("class_weight", value) for value in ("even", 2.0)],
    ],
)
def test_bad_settings_are_named(name, value):
    with pytest.raises(cm.InputError, match=name) as error:
        SGD(**{name: value})
    assert "\n" not in str(error.value)


def test_targets_are_refused_with_advice():
    x, _ = made_up(n=90, d=6)
    features = features_of(x, x[:, 0], task="regression")
    with pytest.raises(cm.InputError, match="use ridge"):
        cm.measure(features, score="sgd")
    with pytest.raises(cm.InputError, match="use ridge"):
        SGD().measure(features, Plan.of(make_parts("random", 6), resolve_sizes([2], 6)), Run())


@pytest.mark.parametrize("standardise", [False, True])
@pytest.mark.parametrize("select", ["last", "best"])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_rows_read_as_needed_give_the_same_bits(tmp_path, standardise, select, dtype):
    x, y = made_up(n=300, d=20)
    x = ((x - x.mean(0)) / x.std(0) + 1).astype(dtype)
    features = features_of(x, y, views=[x[100:] * 2, x[100:] + 1])
    stored = features.save(tmp_path / "store", shard_rows=37)
    parts, sizes = make_parts("random", 20, repeats=2), resolve_sizes([1, 5, 15], 20)
    score = SGD(epochs=5, batch_size=64, standardise=standardise, select=select)
    tight = Run(memory=score.memory(stored, Plan.of(parts, sizes))["rows"] + 1)
    train = stored.splits["train"]
    plan = Plan.of(parts, sizes)
    assert score._sources(stored, train, plan, Run())[0].held is not None
    assert score._sources(stored, train, plan, tight)[0].held is None
    one, other = probes(score, features, parts, sizes), probes(score, stored, parts, sizes, tight)
    assert all(one[key].tobytes() == other[key].tobytes() for key in one)
    scores = [
        score.measure(*given)["test"].scores.tobytes()
        for given in ((features, plan, Run()), (stored, plan, tight))
    ]
    assert scores[0] == scores[1]


def test_the_number_of_threads_is_no_matter_to_the_last_bit(small_digits, monkeypatch):
    parts, sizes = make_parts("random", 64, repeats=3), [4, 30, 50, 64]
    found = []
    for count in (1, 3):
        monkeypatch.setattr("critmass.linalg.devices.threads", lambda count=count: count)
        found.append(probes(SGD(epochs=2), small_digits, parts, sizes))
    assert all(found[0][key].tobytes() == found[1][key].tobytes() for key in found[0])


def test_reading_as_needed_takes_no_more_memory_than_it_says(tmp_path):
    generator = np.random.default_rng(0)
    x, y = generator.normal(size=(30_000, 64)).astype("f4"), np.arange(30_000) % 4
    np.save(tmp_path / "x.npy", x)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    features = cm.Features.from_arrays((mapped, y), test=(x[:100], y[:100]))
    parts, sizes, score = make_parts("random", 64, repeats=2), resolve_sizes([8, 40], 64), SGD(epochs=1)
    needed = score.memory(features, Plan.of(parts, sizes))["rows"]
    assert needed < x.nbytes
    tracemalloc.start()
    score.measure(features, Plan.of(parts, sizes), Run(memory=needed))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < needed


@pytest.mark.parametrize("select", ["last", "best"])
def test_torch_gives_the_same(small_digits, select):
    parts, sizes = make_parts("random", 64, repeats=2), [3, 20, 40, 64]
    score = SGD(epochs=6, select=select, standardise=True)
    one = probes(score, small_digits, parts, sizes)
    other = probes(score, small_digits, parts, sizes, Run(device=resolve_device("torch:cpu")))
    for key, weights in one.items():
        np.testing.assert_allclose(weights, other[key], atol=1e-4)


def test_not_finite_training_rows_are_named():
    x, y = made_up(n=90, d=6, dtype=np.float32)
    bad = x.copy()
    bad[37, 2] = np.inf
    with pytest.raises(cm.InputError, match=r"X of 'train': found inf at row 7, neuron 2"):
        cm.measure(features_of(bad, y), score="sgd")
    with pytest.raises(cm.InputError, match=r"X of 'train': found inf at row 7, neuron 2"):
        cm.measure(features_of(bad, y), score="sgd", standardise=True, settings={"select": "best"})
    with pytest.raises(cm.InputError, match=r"X of 'train.view1': found inf at row 7, neuron 2"):
        cm.measure(features_of(x, y, views=[bad[30:]]), score="sgd")


def test_progress_counts_epochs(small_digits):
    told = []
    score = SGD(epochs=3)
    run = Run(progress=lambda *what: told.append(what))
    score.measure(small_digits, Plan.of(make_parts("random", 64, repeats=1), resolve_sizes([5], 64)), run)
    assert [step for step in told if step[0].startswith("training")] == [
        ("training probes (sgd)", done, 3) for done in range(4)
    ]
    assert told[-1] == ("scoring test", 449, 449)


def test_settings_reach_it_by_name(small_digits):
    curve = cm.measure(
        small_digits, score="sgd", settings={"epochs": 2, "schedule": "cosine"}, sizes=[8], repeats=1
    )
    assert curve.spec["settings"]["epochs"] == 2
    assert curve.frame["epoch"].to_list() == [2, 2]


def test_heads_of_a_basis_are_those_that_torch_trains_on_its_columns(small_digits):
    score = SGD(epochs=4, standardise=True)
    train, sizes = small_digits.splits["train"], np.array([3, 20, 64])
    parts = make_parts("random-projection", 64, repeats=2)
    x = np.asarray(train.x[:], dtype=np.float64)
    scale = x.std(axis=0)
    x = (x - x.mean(axis=0)) / np.where(scale == 0, 1.0, scale)
    heads = trained(score, small_digits, parts, sizes)
    found = 0
    for head in heads.heads:
        repeat = head.group.repeat
        basis = np.eye(64) if repeat == WHOLE else parts.matrices[repeat]
        for size, ours in zip(head.group.sizes, head.probes(), strict=True):
            start, columns = initial(0, repeat, int(size), 10), x @ basis[:, :size]
            view = columns.astype(np.asarray(train.x[:1]).dtype)
            expected = torch_head(score, [view], train.y, np.ones(len(view)), start)
            np.testing.assert_allclose(ours, expected, atol=1e-4, rtol=1e-4)
            found += 1
    assert found == 2 * 3 + 1
