"""The paper's models: their data is true of the packages, and they open from files in the cache."""

from __future__ import annotations

import urllib.error
import urllib.request

import pytest
import timm
import torch
import torchvision
from helpers_data import ROOT

from critmass.errors import InputError
from critmass.sources import open_model
from critmass.sources.models import zoo as opener
from critmass.sources.models.architectures import architecture
from critmass.sources.zoo import entries, table

KNOWN = {entry.name: entry for entry in entries()}


@pytest.fixture(autouse=True)
def no_network(monkeypatch, tmp_path):
    def refused(*arguments, **keywords):
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(urllib.request, "urlopen", refused)
    monkeypatch.setenv("CRITMASS_CACHE", str(tmp_path / "cache"))


def test_the_zoo_is_the_paper_s():
    assert len(KNOWN) == len(entries()) == 25
    assert len({entry.file for entry in entries() if entry.url}) == sum(bool(e.url) for e in entries())
    standard = {"resnet18", "resnet50", "wide-resnet50-2", "wide-resnet50-4", "vgg16"}
    assert standard | {f"{name}-l2-eps3" for name in standard} | {"resnet50-linf-eps4"} <= set(KNOWN)
    assert {f"vit-s{patch}{data}" for patch in (16, 32) for data in ("", "-21k")} <= set(KNOWN)
    assert {"resnet50-mrl"} | {f"resnet50-ff{2**k}" for k in range(3, 12)} <= set(KNOWN)


def test_the_page_is_the_data():
    page = (ROOT / "docs" / "zoo.md").read_text()
    assert table() in page


@pytest.mark.parametrize("name", KNOWN)
def test_an_entry_names_what_there_is(name):
    entry = KNOWN[name]
    prefix, _, rest = entry.opens.partition(":")
    if prefix == "timm":
        config = timm.get_pretrained_cfg(rest)
        assert config.has_weights
        assert entry.licence.lower() == config.license
    elif prefix == "torchvision":
        model, _, weights = rest.partition("@")
        assert weights in torchvision.models.get_model_weights(model).__members__
    with torch.device("meta"):
        network = architecture(rest.partition("@")[0] if rest else entry.opens)
    assert network.penultimate.side == "in"
    assert network.module.get_submodule(network.penultimate.module).in_features == entry.d


def test_a_model_opens_from_its_file(tmp_path):
    state = torchvision.models.resnet18(num_classes=3).state_dict()
    statistics = {"new_mean": torch.full((3, 1, 1), 0.5), "new_std": torch.full((3, 1, 1), 0.25)}
    wrapped = {f"module.normalizer.{name}": tensor for name, tensor in statistics.items()}
    wrapped |= {f"module.model.{name}": tensor for name, tensor in state.items()}
    wrapped |= {f"module.attacker.model.{name}": tensor for name, tensor in state.items()}
    path = KNOWN["resnet18-l2-eps3"].path
    assert path == tmp_path / "cache" / "zoo" / "resnet18_l2_eps3.ckpt"
    path.parent.mkdir(parents=True)
    torch.save({"model": wrapped, "epoch": 90}, path)
    network = open_model("zoo:resnet18-l2-eps3", image_size=64)
    assert network.name == "zoo:resnet18-l2-eps3"
    assert network.layers()["penultimate"].shape == (512,)
    assert network.inputs.transform.mean == (0.5, 0.5, 0.5)
    assert path.with_name(f"{path.name}.sha256").exists()
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(InputError, match="SHA-256.*delete it, and it is fetched again"):
        open_model("zoo:resnet18-l2-eps3")


def test_offline_is_one_line_with_the_place_to_put_it(tmp_path):
    with pytest.raises(InputError) as caught:
        open_model("zoo:resnet50-ff8")
    text = str(caught.value)
    assert "Imagenet1k_R50_ff8/final_weights.pt: found no network" in text
    assert f"put it at {tmp_path / 'cache' / 'zoo' / 'mrl-resnet50-ff8.pt'}" in text
    assert "\n" not in text
    with pytest.raises(InputError, match="model of the zoo: found 'resnet50-ff9'.*did you mean"):
        open_model("zoo:resnet50-ff9")


def test_what_a_package_carries_is_opened_by_its_name(monkeypatch):
    asked = []
    small = architecture("resnet20-cifar")
    monkeypatch.setattr(
        opener, "open_model", lambda name, image_size: asked.append((name, image_size)) or small
    )
    assert open_model("zoo:vit-s16-21k", image_size=96).name == "zoo:vit-s16-21k"
    assert asked == [("timm:vit_small_patch16_224.augreg_in21k", 96)]
