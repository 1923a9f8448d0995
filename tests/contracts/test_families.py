"""What every family of parts must do."""

from __future__ import annotations

import numpy as np
import pytest

from critmass.parts import FAMILIES, make_parts


@pytest.mark.parametrize("name", FAMILIES)
class TestFamily:
    def test_orders_are_permutations(self, name):
        orders = make_parts(name, 37, repeats=3).orders
        assert (np.sort(orders, axis=1) == np.arange(37)).all()

    def test_repeats_only_where_there_is_chance(self, name):
        assert make_parts(name, 37, repeats=3).repeats == (3 if FAMILIES[name].chance else 1)

    def test_the_same_seed_gives_the_same_parts(self, name):
        assert (make_parts(name, 37, seed=5).orders == make_parts(name, 37, seed=5).orders).all()

    def test_the_seed_matters_exactly_where_there_is_chance(self, name):
        same = (make_parts(name, 37, seed=5).orders == make_parts(name, 37, seed=6).orders).all()
        assert same != FAMILIES[name].chance

    def test_one_neuron(self, name):
        assert make_parts(name, 1, repeats=2).orders.tolist() == [[0]] * (2 if FAMILIES[name].chance else 1)
