"""Files of weights: every form they come in gives the same network, and none of them runs code."""

from __future__ import annotations

import argparse
import io
import os
import pathlib
import struct
import zipfile
from collections import OrderedDict

import numpy as np
import pytest
import timm
import torch
import torchvision
from helpers_data import REAL
from PIL import Image
from safetensors.torch import save_file
from torch.nn import functional

from critmass.errors import InputError
from critmass.sources import list_architectures, open_model
from critmass.sources.inputs.images import decode


def images(n, side=64, seed=0):
    rng = np.random.default_rng(seed)
    return [Image.fromarray(rng.integers(0, 256, (side, side, 3), dtype=np.uint8)) for _ in range(n)]


def layer_of(network, samples, layer="penultimate"):
    return network.start([network.prepare(image) for image in samples], [layer], "auto")()[layer]


def randomised(module, seed=0):
    """The module with weights and statistics that no initialisation gives."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in module.state_dict().values():
            if tensor.is_floating_point():
                noise = torch.rand(tensor.shape, generator=generator)
                tensor.mul_(0.5 + noise).add_(0.02 * noise)
    return module.eval()


@pytest.fixture(scope="module")
def resnet():
    return randomised(torchvision.models.resnet18(num_classes=7))


@pytest.fixture(scope="module")
def vit():
    return randomised(timm.create_model("vit_tiny_patch16_224", img_size=224))


def plain(state):
    return state


def under(state, prefix):
    return OrderedDict((prefix + name, tensor) for name, tensor in state.items())


def headless(state, head="fc"):
    return OrderedDict((name, tensor) for name, tensor in state.items() if not name.startswith(f"{head}."))


def projector(head):
    return {f"{head}.0.weight": torch.zeros(8, 512), f"{head}.2.weight": torch.zeros(4, 8)}


def moco_v2(state):
    query = under({**headless(state), **projector("fc")}, "module.encoder_q.")
    other = {name: torch.zeros_like(tensor) for name, tensor in headless(state).items()}
    key = under({**other, **projector("fc")}, "module.encoder_k.")
    queue = {"module.queue": torch.zeros(4, 9), "module.queue_ptr": torch.zeros(1).long()}
    return {"epoch": 200, "arch": "resnet50", "state_dict": {**key, **query, **queue}}


def moco_v3(state):
    other = {name: torch.zeros_like(tensor) for name, tensor in headless(state).items()}
    found = under({**other, **projector("fc")}, "module.momentum_encoder.")
    found |= under({**headless(state), **projector("fc")}, "module.base_encoder.")
    return {"state_dict": {**found, **under(projector("predictor"), "module.")}}


def robustness(state):
    statistics = {"new_mean": torch.tensor([0.4, 0.5, 0.6]).view(3, 1, 1), "new_std": torch.ones(3, 1, 1) / 4}
    return {
        "model": {
            **under(statistics, "module.normalizer."),
            **under(state, "module.model."),
            **under(statistics, "module.attacker.normalize."),
            **under(state, "module.attacker.model."),
        },
        "optimizer": {"state": {}, "param_groups": [{"lr": 0.1}]},
        "schedule": {"last_epoch": 90, "_last_lr": [np.float64(0.001)]},
        "epoch": 90,
        "amp": "N/A",
    }


def robustness_wrapped(state):
    """As robust-models-transfer wraps torchvision's architectures: one `model` more."""
    return {"model": {**under(state, "module.model.model."), **under(state, "module.attacker.model.model.")}}


def lightning(state):
    settings = argparse.Namespace(lr=0.1, out=pathlib.PurePosixPath("runs/1"), best=np.float32(0.7))
    arrays = {"best": np.float64(71.2), "curve": np.arange(3.0), "names": np.array(["a", "b"])}
    return {"state_dict": under(state, "model."), "hyper_parameters": settings, **arrays}


@pytest.mark.parametrize(
    ("form", "under_what", "classifier", "left_out"),
    [
        (plain, "", "in the file", {}),
        (
            lambda s: {"state_dict": under(s, "module."), "best_prec1": 9.0},
            "state_dict/module",
            "in the file",
            {},
        ),
        (lambda s: under(s, "_orig_mod."), "_orig_mod", "in the file", {}),
        (
            lambda s: {"model_state_dict": under(s, "backbone.")},
            "model_state_dict/backbone",
            "in the file",
            {},
        ),
        (lambda s: {"net": under(s, "encoder.")}, "net/encoder", "in the file", {}),
        (lambda s: {"ema": {"module": s}}, "ema/module", "in the file", {}),
        (lightning, "state_dict/model", "in the file", {}),
        (headless, "", "none", {}),
        (robustness_wrapped, "model/module.model.model", "in the file", {"second copy of the network": 122}),
        (
            robustness,
            "model/module.model",
            "in the file",
            {"normaliser": 4, "second copy of the network": 122},
        ),
        (
            moco_v2,
            "state_dict/module.encoder_q",
            "none",
            {"projection head": 2, "queue": 2, "second copy of the network": 122},
        ),
        (
            moco_v3,
            "state_dict/module.base_encoder",
            "none",
            {"projection head": 4, "second copy of the network": 122},
        ),
    ],
)
def test_every_form_gives_the_same_network(resnet, tmp_path, form, under_what, classifier, left_out):
    torch.save(form(resnet.state_dict()), tmp_path / "weights.pt")
    network = open_model(f"checkpoint:resnet18@{tmp_path / 'weights.pt'}", image_size=32)
    about = network.describe()
    assert (about["found_under"], about["classifier"], about["left_out"]) == (
        under_what,
        classifier,
        left_out,
    )
    assert about["name"] == "checkpoint:torchvision/resnet18"
    assert str(tmp_path) not in repr(about)
    expected = {name: t for name, t in resnet.state_dict().items() if not name.startswith("fc.")}
    given = network.module.state_dict()
    assert all(torch.equal(given[name], tensor) for name, tensor in expected.items())
    assert network.layers()["penultimate"].shape == (512,)
    assert network.layers()["output"].shape == ((7,) if classifier == "in the file" else (512,))


def test_the_formats_agree(resnet, tmp_path):
    state = resnet.state_dict()
    torch.save(state, tmp_path / "zip.pt")
    torch.save(state, tmp_path / "legacy.pth", _use_new_zipfile_serialization=False)
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, tmp_path / "w.safetensors")
    found = [
        layer_of(open_model(f"checkpoint:torchvision/resnet18@{tmp_path / name}", image_size=64), images(2))
        for name in ("zip.pt", "legacy.pth", "w.safetensors")
    ]
    with torch.inference_mode():
        network = open_model(f"checkpoint:resnet18@{tmp_path / 'zip.pt'}", image_size=64)
        batch, _, _ = network.inputs.batch([network.prepare(image) for image in images(2)], "cpu")
        resnet.fc, head = torch.nn.Identity(), resnet.fc
        expected = resnet(*batch).numpy()
        resnet.fc = head
    for each in found:
        np.testing.assert_allclose(each, expected, rtol=1e-4, atol=1e-5)


def test_a_file_with_its_own_normaliser_brings_its_transform(resnet, tmp_path):
    torch.save(robustness(resnet.state_dict()), tmp_path / "robust.ckpt")
    network = open_model(f"checkpoint:resnet18@{tmp_path / 'robust.ckpt'}")
    assert network.inputs.transform.mean == (0.4, 0.5, 0.6)
    assert network.inputs.transform.std == (0.25, 0.25, 0.25)


def test_self_supervised_transformers_open_without_what_trained_them(vit, tmp_path):
    state = headless(vit.state_dict(), "head")
    dino = {"backbone." + name: tensor for name, tensor in state.items()}
    dino |= {"head.mlp.0.weight": torch.zeros(8, 192), "head.last_layer.weight_g": torch.zeros(8, 1)}
    student = {f"module.{name}": torch.zeros_like(tensor) for name, tensor in dino.items()}
    args = argparse.Namespace(arch="vit_tiny", lr=5e-4)
    torch.save({"student": student, "teacher": dino, "args": args, "epoch": 300}, tmp_path / "dino.pth")
    mae = {**state, "mask_token": torch.zeros(1, 1, 8), "decoder_pos_embed": torch.zeros(1, 197, 8)}
    mae |= {"decoder_embed.weight": torch.zeros(8, 192), "decoder_blocks.0.norm1.weight": torch.zeros(8)}
    torch.save({"model": mae, "args": args, "scaler": {"scale": 65536.0}}, tmp_path / "mae.pth")
    networks = [
        open_model(f"checkpoint:timm/vit_tiny_patch16_224@{tmp_path / n}") for n in ("dino.pth", "mae.pth")
    ]
    assert networks[0].describe()["found_under"] == "teacher/backbone"
    assert networks[0].describe()["left_out"] == {"projection head": 2}
    assert networks[1].describe()["left_out"] == {"decoder": 4}
    with torch.inference_mode():
        batch, _, _ = networks[0].inputs.batch([networks[0].prepare(image) for image in images(2)], "cpu")
        expected = vit.forward_head(vit.forward_features(*batch), pre_logits=True).numpy()
    for network in networks:
        np.testing.assert_allclose(layer_of(network, images(2)), expected, rtol=1e-4, atol=1e-5)


def flax_arrays(module):
    """A Vision Transformer's tensors as Flax names them and lays them out."""
    state = {name: tensor.numpy() for name, tensor in module.state_dict().items()}
    arrays = {
        "cls": state["cls_token"],
        "Transformer/posembed_input/pos_embedding": state["pos_embed"],
        "embedding/kernel": state["patch_embed.proj.weight"].transpose(2, 3, 1, 0),
        "embedding/bias": state["patch_embed.proj.bias"],
        "Transformer/encoder_norm/scale": state["norm.weight"],
        "Transformer/encoder_norm/bias": state["norm.bias"],
        "head/kernel": state["head.weight"].T,
        "head/bias": state["head.bias"],
    }
    for i in range(12):
        block, theirs = f"blocks.{i}", f"Transformer/encoderblock_{i}"
        for ours, name in (("norm1", "LayerNorm_0"), ("norm2", "LayerNorm_2")):
            arrays[f"{theirs}/{name}/scale"] = state[f"{block}.{ours}.weight"]
            arrays[f"{theirs}/{name}/bias"] = state[f"{block}.{ours}.bias"]
        for ours, name in (("fc1", "Dense_0"), ("fc2", "Dense_1")):
            arrays[f"{theirs}/MlpBlock_3/{name}/kernel"] = state[f"{block}.mlp.{ours}.weight"].T
            arrays[f"{theirs}/MlpBlock_3/{name}/bias"] = state[f"{block}.mlp.{ours}.bias"]
        attention = f"{theirs}/MultiHeadDotProductAttention_1"
        weights, biases = (
            np.split(state[f"{block}.attn.qkv.weight"], 3),
            np.split(state[f"{block}.attn.qkv.bias"], 3),
        )
        for part, weight, bias in zip(("query", "key", "value"), weights, biases, strict=True):
            arrays[f"{attention}/{part}/kernel"] = weight.T.reshape(192, 3, 64)
            arrays[f"{attention}/{part}/bias"] = bias.reshape(3, 64)
        arrays[f"{attention}/out/kernel"] = state[f"{block}.attn.proj.weight"].T.reshape(3, 64, 192)
        arrays[f"{attention}/out/bias"] = state[f"{block}.attn.proj.bias"]
    return arrays


def test_flax_vision_transformers_are_laid_out_as_in_timm(vit, tmp_path):
    arrays, path = flax_arrays(vit), tmp_path / "vit.npz"
    narrow = {"head/kernel": arrays["head/kernel"][:, :7], "head/bias": arrays["head/bias"][:7]}
    headless_arrays = {name: array for name, array in arrays.items() if not name.startswith("head/")}
    logits = {"pre_logits/kernel": np.zeros((192, 192)), "pre_logits/bias": np.zeros(192)}
    for found, width in ((arrays, 1000), ({**arrays, **narrow}, 7), ({**headless_arrays, **logits}, 192)):
        np.savez(path, **found)
        network = open_model(f"checkpoint:timm/vit_tiny_patch16_224@{path}")
        given = network.module.state_dict()
        for name, tensor in vit.state_dict().items():
            if not name.startswith("head."):
                assert torch.equal(given[name], tensor), name
        assert network.layers()["output"].shape == (width,)
        if width != 192:
            assert torch.equal(given["head.weight"], vit.head.weight[:width])
            assert torch.equal(given["head.bias"], vit.head.bias[:width])
    samples = images(2)
    np.savez(path, **arrays)
    network = open_model(f"checkpoint:timm/vit_tiny_patch16_224@{path}")
    batch, _, _ = network.inputs.batch([network.prepare(image) for image in samples], "cpu")
    with torch.inference_mode():
        expected = vit(*batch).numpy()
    np.testing.assert_allclose(layer_of(network, samples, "output"), expected, rtol=1e-4, atol=1e-5)


def test_flax_files_that_are_not_of_the_architecture_are_refused(vit, tmp_path):
    arrays, path = flax_arrays(vit), tmp_path / "vit.npz"
    without = {name: array for name, array in arrays.items() if "encoderblock_11" not in name}
    scale = "Transformer/encoderblock_3/LayerNorm_0/scale"
    for found, message in (
        (without, "encoderblock_11"),
        ({**arrays, "Transformer/encoderblock_12/LayerNorm_0/scale": np.ones(192)}, "numbers where the arch"),
        ({**arrays, scale: np.ones(1)}, "numbers where the architecture has"),
        ({**arrays, scale: np.full(192, np.nan)}, "nothing for blocks.3.norm1.weight"),
        ({**arrays, "Transformer/posembed_input/pos_embedding": np.zeros((1, 145, 192))}, "numbers where"),
        ({"a": np.zeros(3)}, "vit.npz: found"),
    ):
        np.savez(path, **found)
        with pytest.raises(InputError, match=message) as caught:
            open_model(f"checkpoint:timm/vit_tiny_patch16_224@{path}")
        assert str(caught.value).startswith(f"{path}: found")
        assert "\n" not in str(caught.value)
    np.savez(path, **arrays)
    with pytest.raises(
        InputError, match="a .npz file for ResNet; allowed: one of timm's Vision Transformers"
    ):
        open_model(f"checkpoint:resnet18@{path}")


def blurred_reference(state, x):
    """The Matryoshka authors' ResNet50 written as functions of its tensors; returns the pooled features."""

    def normed(y, name):
        return functional.batch_norm(
            y,
            state[f"{name}.running_mean"],
            state[f"{name}.running_var"],
            state[f"{name}.weight"],
            state[f"{name}.bias"],
        )

    def strided(y, name):
        kernel = torch.tensor([[1.0, 2, 1], [2, 4, 2], [1, 2, 1]]).expand(y.shape[1], 1, 3, 3) / 16
        y = functional.conv2d(y, kernel, padding=1, groups=y.shape[1])
        weight = state[f"{name}.conv.weight"]
        return functional.conv2d(y, weight, stride=2, padding=weight.shape[2] // 2)

    x = functional.relu(normed(functional.conv2d(x, state["conv1.weight"], stride=2, padding=3), "bn1"))
    x = functional.max_pool2d(x, 3, 2, 1)
    for layer, blocks in enumerate((3, 4, 6, 3), start=1):
        for index in range(blocks):
            name, halves = f"layer{layer}.{index}", layer > 1 and index == 0
            y = functional.relu(normed(functional.conv2d(x, state[f"{name}.conv1.weight"]), f"{name}.bn1"))
            if halves:
                y = strided(y, f"{name}.conv2")
            else:
                y = functional.conv2d(y, state[f"{name}.conv2.weight"], padding=1)
            y = functional.relu(normed(y, f"{name}.bn2"))
            y = normed(functional.conv2d(y, state[f"{name}.conv3.weight"]), f"{name}.bn3")
            if index == 0:
                x = (
                    strided(x, f"{name}.downsample.0")
                    if halves
                    else functional.conv2d(x, state[f"{name}.downsample.0.weight"])
                )
                x = normed(x, f"{name}.downsample.1")
            x = functional.relu(x + y)
    return x.mean((2, 3))


def test_the_matryoshka_networks_blur_before_they_stride(tmp_path):
    state = randomised(torchvision.models.resnet50()).state_dict()
    for name in [name for name in state if name.endswith("0.conv2.weight") or "downsample.0" in name]:
        if not name.startswith("layer1"):
            tensor = state.pop(name)
            state[name.replace(".weight", ".conv.weight")] = tensor
            kernel = torch.tensor([[1.0, 2, 1], [2, 4, 2], [1, 2, 1]]) / 16
            state[name.replace(".weight", ".blur_filter")] = kernel.repeat(tensor.shape[1], 1, 1, 1)
    state = headless(state)
    nested = {
        f"fc.nesting_classifier_{i}.{part}": torch.rand((5, 2**k) if part == "weight" else (5,))
        for i, k in enumerate(range(3, 12))
        for part in ("weight", "bias")
    }
    wide, narrow = torch.rand(5, 2048), torch.rand(5, 8)
    heads = {
        "mrl-resnet50": (nested, 2048, nested["fc.nesting_classifier_8.weight"]),
        "critmass/mrl-resnet50": ({"fc.weight": wide, "fc.bias": torch.zeros(5)}, 2048, wide),
        "mrl-resnet50-ff8": ({"fc.weight": narrow, "fc.bias": torch.zeros(5)}, 8, narrow),
    }
    for architecture, (head, d, weight) in heads.items():
        torch.save(under({**state, **head}, "module."), tmp_path / "final_weights.pt")
        network = open_model(f"checkpoint:{architecture}@{tmp_path / 'final_weights.pt'}", image_size=64)
        batch, _, _ = network.inputs.batch([network.prepare(image) for image in images(2)], "cpu")
        with torch.inference_mode():
            expected = blurred_reference(state, *batch)[:, :d]
        found = layer_of(network, images(2))
        assert found.shape == (2, d)
        np.testing.assert_allclose(found, expected, rtol=2e-3, atol=1e-4)
        bias = nested["fc.nesting_classifier_8.bias"] if head is nested else torch.zeros(5)
        np.testing.assert_allclose(
            layer_of(network, images(2), "output"), expected @ weight.T + bias, rtol=2e-3, atol=1e-3
        )
        assert network.describe()["left_out"] == ({"nested heads": 16} if head is nested else {})
    with pytest.raises(InputError, match=r"1 misshapen tensors.*fc\.weight"):
        open_model(f"checkpoint:mrl-resnet50-ff16@{tmp_path / 'final_weights.pt'}")


@pytest.mark.parametrize(("name", "d"), [("wide_resnet50_4", 2048), ("torchvision/vgg16_bn", 4096)])
def test_the_robust_architectures(name, d):
    from critmass.sources.models.architectures import architecture

    network = architecture(name, image_size=32)
    assert network.layers()["penultimate"].shape == (d,)
    if name == "wide_resnet50_4":
        # 223.44 million parameters, as Salman et al. 2020 count them.
        assert round(sum(tensor.numel() for tensor in network.module.parameters()) / 1e4) == 22_344


def test_whose_architecture_a_name_is():
    from critmass.sources.models.architectures import architecture

    assert architecture("resnet18").name == "torchvision/resnet18"
    assert architecture("timm/resnet18").name == "timm/resnet18"
    assert architecture("vit_tiny_patch16_224").name == "timm/vit_tiny_patch16_224"
    assert architecture("resnet20-cifar").name == "critmass/resnet20-cifar"
    for name, near in (
        ("torchvision/resnet81", "resnet18"),
        ("resnet20-cifra", "resnet20-cifar"),
        ("no/x", ""),
    ):
        with pytest.raises(InputError, match=f"architecture: found {name!r}.*{near}"):
            architecture(name)


def test_every_architecture_can_be_listed():
    from critmass.sources.models.architectures import architecture

    known = list_architectures()
    assert list(known) == ["critmass", "torchvision", "timm"]
    assert set(known["torchvision"]) == set(torchvision.models.list_models(module=torchvision.models))
    assert set(known["timm"]) == set(timm.list_models())
    assert {"resnet20-cifar", "mrl-resnet50-ff8", "wide_resnet50_4"} <= set(known["critmass"])
    for owner, name in (("critmass", "resnet20-cifar"), ("torchvision", "resnet18"), ("timm", "resnet18")):
        assert name in known[owner]
        assert architecture(f"{owner}/{name}").name == f"{owner}/{name}"


def test_weights_that_do_not_fit_are_named(resnet, tmp_path):
    state, path = resnet.state_dict(), tmp_path / "w.pt"
    broken = dict(state)
    del broken["layer4.1.bn2.weight"], broken["conv1.weight"]
    broken["layer1.0.conv1.weight"] = torch.zeros(3, 3)
    broken["adapter.weight"] = torch.zeros(2)
    torch.save(broken, path)
    with pytest.raises(InputError) as caught:
        open_model(f"checkpoint:resnet18@{path}")
    text = str(caught.value)
    assert "2 missing, 1 misshapen, 1 unexpected tensors" in text
    assert "missing: conv1.weight, layer4.1.bn2.weight; misshapen: layer1.0.conv1.weight" in text
    assert "unexpected: adapter.weight" in text
    assert "\n" not in text
    torch.save({"state_dict": {}, "epoch": 3}, path)
    with pytest.raises(InputError, match=r"an empty dictionary under 'state_dict'"):
        open_model(f"checkpoint:resnet18@{path}")
    torch.save([1, 2], path)
    with pytest.raises(InputError, match="list"):
        open_model(f"checkpoint:resnet18@{path}")
    torch.save({**state, "fc.weight": torch.zeros(7, 99)}, path)
    with pytest.raises(InputError, match=r"1 misshapen tensors.*fc\.weight"):
        open_model(f"checkpoint:resnet18@{path}")


class Payload:
    """Makes a file where it is unpickled."""

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize("zipped", [True, False])
def test_pickled_code_never_runs(resnet, tmp_path, zipped):
    target, path = tmp_path / "ran", tmp_path / "w.pt"
    torch.save(
        {"state_dict": resnet.state_dict(), "extra": Payload(target)},
        path,
        _use_new_zipfile_serialization=zipped,
    )
    with pytest.raises(InputError, match=r"pickled code, posix\.mkdir.*nothing of it was run.*save_file"):
        open_model(f"checkpoint:resnet18@{path}")
    assert not target.exists()
    torch.load(path, weights_only=False)
    assert target.exists()


class Forged:
    """A NumPy scalar of a record that holds an object, its bytes an address."""

    def __reduce__(self):
        record = np.dtype([("x", object)])
        return np.float64(0).__reduce__()[0], (record, b"A" * record.itemsize)


def test_what_is_no_plain_data_is_refused(tmp_path):
    path = tmp_path / "w.pt"
    for thing, found in (
        (torch.nn.Linear(2, 2), r"pickled code, torch\.nn\.modules\.linear\.Linear"),
        ({"f": np.dot}, r"pickled code, numpy\.dot"),
        ({"x": Forged()}, "w.pt: found "),
        ({"x": np.array([{}], dtype=object)}, "w.pt: found "),
    ):
        torch.save(thing, path)
        with pytest.raises(InputError, match=found) as caught:
            open_model(f"checkpoint:resnet18@{path}")
        assert "PyTorch 2.6" not in str(caught.value)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("program/constants.pkl", b"")
    with pytest.raises(InputError, match="a TorchScript program.*state_dict"):
        open_model(f"checkpoint:resnet18@{path}")


def test_arrays_of_objects_in_npz_are_refused(vit, tmp_path):
    target = tmp_path / "ran"
    np.savez(tmp_path / "w.npz", **{**flax_arrays(vit), "cls": np.array([Payload(target)], dtype=object)})
    with pytest.raises(InputError, match="allow_pickle"):
        open_model(f"checkpoint:timm/vit_tiny_patch16_224@{tmp_path / 'w.npz'}")
    assert not target.exists()


def damaged_files(folder, state):
    torch.save(state, folder / "whole.pt")
    whole = (folder / "whole.pt").read_bytes()
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, folder / "whole.safetensors")
    safe = (folder / "whole.safetensors").read_bytes()
    old = io.BytesIO()
    torch.save(state, old, _use_new_zipfile_serialization=False)
    header = b'{"x":{"dtype":"F32","shape":[1000000000000],"data_offsets":[0,4000000000000]}}'
    deflated = io.BytesIO()
    with zipfile.ZipFile(deflated, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data/0", bytes(50_000_000))
    return {
        "empty.pt": b"",
        "half.pt": whole[: len(whole) // 2],
        "half.pth": old.getvalue()[: len(old.getvalue()) // 2],
        "text.pt": b"epoch 1: loss 0.3\n" * 50,
        "page.pt": b"<!DOCTYPE html><html></html>",
        "half.safetensors": safe[: len(safe) // 2],
        "text.safetensors": b"not a header at all",
        "claim.safetensors": struct.pack("<Q", len(header)) + header,
        "deflated.pt": deflated.getvalue(),
        "half.npz": whole[:1000],
        "empty.npz": b"",
    }


def test_damaged_files_are_one_clear_line(resnet, tmp_path):
    for name, data in damaged_files(tmp_path, resnet.state_dict()).items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(InputError, match=f"{name}: found ") as caught:
            open_model(f"checkpoint:resnet18@{tmp_path / name}")
        assert "\n" not in str(caught.value), name
    with pytest.raises(InputError, match="a file that exists"):
        open_model("checkpoint:resnet18@nowhere.pt")
    with pytest.raises(InputError, match="checkpoint:ARCH@PATH"):
        open_model("checkpoint:resnet18")


def test_a_legacy_file_that_claims_a_huge_tensor_is_refused(tmp_path):
    path = tmp_path / "huge.pth"
    torch.save({"conv1.weight": torch.arange(7.0)}, path, _use_new_zipfile_serialization=False)
    data = path.read_bytes()
    # The number of elements is pickled as one byte (K 7); claim 2**62 as a pickled long of 8 bytes.
    assert data.count(b"K\x07") >= 1
    path.write_bytes(data.replace(b"K\x07", b"\x8a\x08" + (2**62).to_bytes(8, "little")))
    with pytest.raises(InputError, match=r"huge\.pth"):
        open_model(f"checkpoint:resnet18@{path}")


def cifar_reference(state, x):
    """akamaster's ResNet-20 as functions of its tensors; returns the pooled features and the logits."""

    def normed(y, name):
        mean, var = state[f"{name}.running_mean"], state[f"{name}.running_var"]
        return functional.batch_norm(y, mean, var, state[f"{name}.weight"], state[f"{name}.bias"])

    x = functional.relu(normed(functional.conv2d(x, state["conv1.weight"], padding=1), "bn1"))
    for layer in (1, 2, 3):
        for index in range(3):
            name, step = f"layer{layer}.{index}", 2 if layer > 1 and index == 0 else 1
            y = functional.conv2d(x, state[f"{name}.conv1.weight"], stride=step, padding=1)
            y = functional.conv2d(
                functional.relu(normed(y, f"{name}.bn1")), state[f"{name}.conv2.weight"], padding=1
            )
            if step == 2:
                padded = x.new_zeros(y.shape)
                quarter = y.shape[1] // 4
                padded[:, quarter:-quarter] = x[:, :, ::2, ::2]
                x = padded
            x = functional.relu(normed(y, f"{name}.bn2") + x)
    features = functional.avg_pool2d(x, 8).flatten(1)
    return features, features @ state["linear.weight"].T + state["linear.bias"]


@pytest.mark.realdata
def test_resnet20_classifies_cifar10():
    path, archive = REAL / "resnet20-12fca82f.th", REAL / "cifar10.zip"
    if not (path.exists() and archive.exists()):
        pytest.skip("resnet20-12fca82f.th or cifar10.zip is missing")
    classes = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    with zipfile.ZipFile(archive) as opened:
        names = sorted(
            name for name in opened.namelist() if name.startswith("test/") and name.endswith(".jpg")
        )
        names = names[::5]
        samples = [decode(opened.read(name), name) for name in names]
    labels = np.array([classes.index(name.split("/")[1]) for name in names])
    network = open_model(f"checkpoint:resnet20-cifar@{path}")
    found = network.start(
        [network.prepare(sample) for sample in samples], ["penultimate", "output"], "auto"
    )()
    accuracy = (found["output"].argmax(axis=1) == labels).mean()
    print(f"accuracy on {len(labels)} images: {accuracy:.3f}")
    assert accuracy > 0.8
    state = torch.load(path, weights_only=True, map_location="cpu")["state_dict"]
    state = {name.removeprefix("module."): tensor for name, tensor in state.items()}
    pixels = (
        torch.from_numpy(np.stack([np.asarray(sample) for sample in samples[:64]])).permute(0, 3, 1, 2) / 255
    )
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    features, logits = cifar_reference(state, (pixels - mean) / std)
    np.testing.assert_allclose(found["penultimate"][:64], features, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(found["output"][:64], logits, rtol=1e-3, atol=1e-3)
