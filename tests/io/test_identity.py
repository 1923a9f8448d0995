"""What tells one function or module from another: every change is a miss, and the same is a hit."""

from __future__ import annotations

import collections
import functools
import random
import threading
import types

import numpy as np
import pytest
import torch
from torch import nn

from critmass.io.identity import UnknownError, identity

FACTOR = 2.0


def doubled(samples):
    return np.array([[len(each) * FACTOR] for each in samples])


def made(text: str, name: str = "f", **given):
    """Return what `text` defines as `name`, in a module of its own."""
    space = {"__name__": "__main__", "np": np, "functools": functools, "nn": nn, "torch": torch, **given}
    exec(text, space)  # noqa: S102
    return space[name]


BASE = "def f(x): return x * 2"
PAIRS = {
    "a constant": (BASE, "def f(x): return x * 3"),
    "an operation": (BASE, "def f(x): return x + 2"),
    "a name that is called": ("def f(x): return np.sin(x)", "def f(x): return np.cos(x)"),
    "a default": ("def f(x, a=1): return x + a", "def f(x, a=2): return x + a"),
    "a keyword's default": ("def f(x, *, a=1): return x + a", "def f(x, *, a=2): return x + a"),
    "a global": ("A = 1\ndef f(x): return x + A", "A = 2\ndef f(x): return x + A"),
    "a function that it calls": (
        "def g(x): return x + 1\ndef f(x): return g(x)",
        "def g(x): return x + 2\ndef f(x): return g(x)",
    ),
    "a function inside": (
        "def f(x): return (lambda y: y + 1)(x)",
        "def f(x): return (lambda y: y + 2)(x)",
    ),
    "what it closes over": (
        "def make(a):\n def f(x): return x + a\n return f\nf = make(1)",
        "def make(a):\n def f(x): return x + a\n return f\nf = make(2)",
    ),
    "an array that it closes over": (
        "def make(a):\n def f(x): return x + a\n return f\nf = make(np.zeros(3))",
        "def make(a):\n def f(x): return x + a\n return f\nf = make(np.array([0, 0, 1e-9]))",
    ),
    "an argument of a partial": (
        "f = functools.partial(np.add, 1)",
        "f = functools.partial(np.add, 2)",
    ),
    "an attribute of an object": (
        "class C:\n def __init__(s, a): s.a = a\n def __call__(s, x): return x + s.a\nf = C(1)",
        "class C:\n def __init__(s, a): s.a = a\n def __call__(s, x): return x + s.a\nf = C(2)",
    ),
    "a method's code": (
        "class C:\n def __call__(s, x): return x + 1\nf = C()",
        "class C:\n def __call__(s, x): return x + 2\nf = C()",
    ),
    "a class attribute": (
        "class C:\n a = 1\n def __call__(s, x): return x + s.a\nf = C()",
        "class C:\n a = 2\n def __call__(s, x): return x + s.a\nf = C()",
    ),
    "what a class inherits": (
        "class B:\n def __call__(s, x): return x + 1\nclass C(B): pass\nf = C()",
        "class B:\n def __call__(s, x): return x + 2\nclass C(B): pass\nf = C()",
    ),
    "a slot": (
        "class C:\n __slots__ = 'a',\n def __init__(s, a): s.a = a\nf = C(1)",
        "class C:\n __slots__ = 'a',\n def __init__(s, a): s.a = a\nf = C(2)",
    ),
    "a bound method's object": (
        "class C:\n def __init__(s, a): s.a = a\n def g(s, x): return x + s.a\nf = C(1).g",
        "class C:\n def __init__(s, a): s.a = a\n def g(s, x): return x + s.a\nf = C(2).g",
    ),
    "the order of arguments": (
        "f = functools.partial(np.subtract, 1, 2)",
        "f = functools.partial(np.subtract, 2, 1)",
    ),
    "a plain attribute of a module": (
        "class M(nn.Module):\n def __init__(s, a):\n  super().__init__()\n  s.a = a\n"
        " def forward(s, x): return x * s.a\nf = M(1.0)",
        "class M(nn.Module):\n def __init__(s, a):\n  super().__init__()\n  s.a = a\n"
        " def forward(s, x): return x * s.a\nf = M(2.0)",
    ),
    "a module's forward": (
        "class M(nn.Module):\n def forward(s, x): return x * 2\nf = M()",
        "class M(nn.Module):\n def forward(s, x): return x * 3\nf = M()",
    ),
    "a module inside": (
        "f = nn.Sequential(nn.Dropout(0.1))",
        "f = nn.Sequential(nn.Dropout(0.2))",
    ),
    "a hook": (
        "f = nn.Identity()",
        "f = nn.Identity()\nf.register_forward_hook(lambda m, i, o: o * 2)",
    ),
    "the order of parameters": (
        "def f(x, a, b): return x * a + b\nf = functools.partial(f, a=2, b=3)",
        "def f(x, b, a): return x * a + b\nf = functools.partial(f, a=2, b=3)",
    ),
    "a star": ("def f(x): return x", "def f(*x): return x"),
    "an attribute of a function": (
        "def f(x): return x * f.s\nf.s = 2",
        "def f(x): return x * f.s\nf.s = 3",
    ),
    "a function in another's clothes": (
        "@functools.wraps(np.mean)\ndef f(x): return x * 2",
        "@functools.wraps(np.mean)\ndef f(x): return x * 3",
    ),
    "a named tuple's method": (
        "import typing\nclass C(typing.NamedTuple):\n s: int\n def __call__(s, x): return x * 2\nf = C(1)",
        "import typing\nclass C(typing.NamedTuple):\n s: int\n def __call__(s, x): return x + 2\nf = C(1)",
    ),
    "what a list of one's own holds": (
        "class C(list):\n def __call__(s, x): return x + s[0]\nf = C([1])",
        "class C(list):\n def __call__(s, x): return x + s[0]\nf = C([2])",
    ),
    "an attribute of a list of one's own": (
        "class C(list): pass\nf = C([1])\nf.a = 1",
        "class C(list): pass\nf = C([1])\nf.a = 2",
    ),
    "a dictionary's kind": ("f = {}", "import collections\nf = collections.OrderedDict()"),
    "a kind of method": (
        "class C:\n @staticmethod\n def g(*a): return a\nf = C()",
        "class C:\n @classmethod\n def g(*a): return a\nf = C()",
    ),
    "a private slot": (
        "class C:\n __slots__ = ('n', '__s')\n def __init__(s, a): s.n, s.__s = 0, a\nf = C(1)",
        "class C:\n __slots__ = ('n', '__s')\n def __init__(s, a): s.n, s.__s = 0, a\nf = C(2)",
    ),
    "one slot by a text": (
        "class C:\n __slots__ = 'scale'\n def __init__(s, a): s.scale = a\nf = C(1)",
        "class C:\n __slots__ = 'scale'\n def __init__(s, a): s.scale = a\nf = C(2)",
    ),
    "fields of an array": (
        "f = np.zeros(1, dtype=[('a', 'f4'), ('b', 'f4')])",
        "f = np.zeros(1, dtype=[('b', 'f4'), ('a', 'f4')])",
    ),
    "the mode of a module": ("f = nn.Dropout()", "f = nn.Dropout().eval()"),
    "weights in a list": (
        "torch.manual_seed(0)\nf = nn.Identity()\nf.parts = [nn.Linear(2, 2)]",
        "torch.manual_seed(1)\nf = nn.Identity()\nf.parts = [nn.Linear(2, 2)]",
    ),
    "a dataclass": (
        "import dataclasses\n@dataclasses.dataclass\nclass C:\n a: int = 1\nf = C()",
        "import dataclasses\n@dataclasses.dataclass\nclass C:\n a: int = 1\nf = C(2)",
    ),
    "weights": (
        "torch.manual_seed(0)\nf = nn.Linear(2, 2)",
        "torch.manual_seed(1)\nf = nn.Linear(2, 2)",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", PAIRS)
def test_a_change_makes_another_and_none_makes_the_same(what):
    one, other = PAIRS[what]
    assert identity(made(one)) == identity(made(one))
    assert identity(made(other)) == identity(made(other))
    assert identity(made(one)) != identity(made(other))


def test_a_global_is_read_when_it_is_asked_for(monkeypatch):
    before = identity(doubled)
    monkeypatch.setitem(globals(), "FACTOR", 3.0)
    assert identity(doubled) != before


def test_weights_may_be_left_out_where_they_have_a_hash_of_their_own():
    one, other = nn.Linear(2, 2), nn.Linear(2, 2)
    assert identity(one, weights=False) == identity(other, weights=False)
    assert identity(one, weights=False) != identity(nn.Linear(2, 3), weights=False)
    assert identity(one) != identity(other)


@pytest.mark.parametrize("made", [
    lambda x: setattr(x, "parts", [nn.Linear(2, 2)]),
    lambda x: x.register_buffer("k", torch.rand(3), persistent=False),
    lambda x: x.register_forward_hook(functools.partial(print, nn.Linear(2, 2))),
])  # fmt: skip
def test_only_weights_that_have_another_hash_are_left_out(made):
    found = set()
    for seed in (0, 1):
        torch.manual_seed(seed)
        module = nn.Identity()
        made(module)
        found.add(identity(module, weights=False))
    assert len(found) == 2


def test_a_method_that_somebody_replaced_counts(monkeypatch):
    before = identity(nn.Identity())
    monkeypatch.setattr(nn.Identity, "forward", lambda self, x: 2 * x)
    one = identity(nn.Identity())
    monkeypatch.setattr(nn.Identity, "forward", lambda self, x: 3 * x)
    assert len({before, one, identity(nn.Identity())}) == 3


def test_what_refers_to_itself_comes_to_an_end():
    loop = [1]
    loop.append(loop)
    assert identity(loop) == identity(loop)


def test_what_cannot_be_known_is_not_guessed():
    own = types.ModuleType("helpers_of_mine")
    for unknown, found in (
        (made("def f(x): return own.g(x)", own=own), "the module helpers_of_mine"),
        (made("f = lambda x: it", it=iter([1])), "builtins.list_iterator"),
        (made("f = lambda x: lock", lock=threading.Lock()), "lock"),
        (made("f = random.Random(0)", random=random), "random.Random"),
        (made("f = collections.defaultdict(int)", collections=collections), "defaultdict"),
        (made("def f(x):\n import helpers_of_mine\n return x"), "the module helpers_of_mine"),
        (made("def f(x): return eval('x')"), r"what f reaches with eval\(\)"),
        (made("f = np.frompyfunc(lambda x: x, 1, 1)"), "ufunc"),
        (made("f = torch.zeros(2).to_sparse()"), "layout"),
        (made("f = np.array([f], dtype=object)", f=1), "array of object"),
        (made("f = functools.singledispatch(lambda x: x)\nf.register(int, lambda x: x + 1)"), "weakref"),
    ):
        with pytest.raises(UnknownError, match=found):
            identity(unknown)


def test_real_networks_are_known():
    import timm

    assert identity(timm.create_model("vit_tiny_patch16_224"), weights=False)
    assert identity(timm.create_model("resnet18")) != identity(timm.create_model("resnet18"))
