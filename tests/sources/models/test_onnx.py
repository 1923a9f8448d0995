"""ONNX files: the same numbers as the network they were exported from, and no file outside their folder."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import timm
import torch
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from torch import nn

from critmass.errors import InputError
from critmass.sources import open_dataset, open_model


class Small(nn.Module):
    """A network with a place, a token and a classifier."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.conv, self.fc = nn.Conv2d(3, 6, 3, stride=4), nn.Linear(6, 4)

    def forward(self, x):
        return torch.softmax(self.fc(torch.relu(self.conv(x)).mean(dim=(2, 3))), dim=1)


def export(module, path, side, *, batch=2, fixed=False):
    """Export a module with torch's own exporter."""
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    example = torch.zeros(batch, 3, side, side)
    dynamic = None if fixed else ({0: torch.export.Dim("n", min=1, max=512)},)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(module.eval(), (example,), path, dynamo=True, dynamic_shapes=dynamic, verbose=False)
    return path


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return export(Small(), tmp_path_factory.mktemp("onnx") / "small.onnx", 32)


def images(n, side=40):
    rng = np.random.default_rng(1)
    return [Image.fromarray(rng.integers(0, 256, (side, side, 3), dtype=np.uint8)) for _ in range(n)]


def layers_of(network, samples, *layers, pooling="auto"):
    return network.start([network.prepare(image) for image in samples], layers, pooling)()


def pixels_of(network, samples):
    prepared = np.stack([network.prepare(image) for image in samples]) / np.float32(255)
    normal = (prepared - np.float32(network.transform.mean)) / np.float32(network.transform.std)
    return torch.from_numpy(normal.transpose(0, 3, 1, 2).astype(np.float32))


def built(path, *, nodes=None, batch="n", side=8, channels=3, weights=None, dtype=TensorProto.FLOAT):
    """Write a graph by hand: the mean over places, then a linear classifier."""
    rng = np.random.default_rng(0)
    weights = {"w": rng.normal(size=(3, 5)), "b": rng.normal(size=5)} if weights is None else weights
    nodes = nodes or [
        helper.make_node("GlobalAveragePool", ["x"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("MatMul", ["flat", "w"], ["product"]),
        helper.make_node("Add", ["product", "b"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", dtype, [batch, channels, side, side])],
        [helper.make_tensor_value_info("y", dtype, None)],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save_model(model, path)
    return path


def test_layers_are_those_of_the_module(small):
    network = open_model(f"onnx:{small}")
    module = Small().eval()
    x = pixels_of(network, images(5))
    with torch.inference_mode():
        places = torch.relu(module.conv(x))
        expected = {"penultimate": places.mean(dim=(2, 3)), "output": module(x)}
    assert network.layers()["penultimate"].shape == (6,)
    layers = network.layers().items()
    inner = next(name for name, layer in layers if layer.shape == (6, 8, 8) and "relu" in name)
    found = layers_of(network, images(5), "penultimate", "output", inner)
    for layer, tensor in expected.items():
        np.testing.assert_allclose(found[layer], tensor, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found[inner], expected["penultimate"], rtol=1e-4, atol=1e-5)
    widest = layers_of(network, images(2), inner, pooling="max")[inner]
    np.testing.assert_allclose(widest, places[:2].amax(dim=(2, 3)), rtol=1e-4, atol=1e-5)
    whole = layers_of(network, images(2), inner, pooling="flatten")[inner]
    np.testing.assert_allclose(whole, places[:2].flatten(1), rtol=1e-4, atol=1e-5)
    assert sorted(path.name for path in small.parent.iterdir()) == sorted(
        {small.name, f"{small.name}.data"} & {path.name for path in small.parent.iterdir()}
    )


def test_a_fixed_batch_is_filled_and_cut(tmp_path):
    path = export(Small(), tmp_path / "fixed.onnx", 32, batch=4, fixed=True)
    fixed, free = (
        open_model(f"onnx:{path}"),
        open_model(f"onnx:{export(Small(), tmp_path / 'free.onnx', 32)}"),
    )
    for n in (1, 4, 7):
        found, expected = (layers_of(each, images(n), "penultimate") for each in (fixed, free))
        assert found["penultimate"].shape == (n, 6)
        np.testing.assert_allclose(found["penultimate"], expected["penultimate"], rtol=1e-5, atol=1e-6)


def test_the_penultimate_layer_by_hand(tmp_path):
    network = open_model(f"onnx:{built(tmp_path / 'a.onnx')}")
    x = pixels_of(network, images(3))
    np.testing.assert_allclose(
        layers_of(network, images(3), "penultimate")["penultimate"], x.mean(dim=(2, 3)), rtol=1e-4, atol=1e-5
    )
    assert set(network.layers()) == {"penultimate", "output", "y", "pooled", "flat", "product"}
    # Without a classifier: the output itself, as here, where the weights depend on the image.
    nodes = [
        helper.make_node("GlobalAveragePool", ["x"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["y"]),
    ]
    network = open_model(f"onnx:{built(tmp_path / 'b.onnx', nodes=nodes, weights={})}")
    assert network.describe()["penultimate"] == "y"


def test_the_transform_in_the_metadata(tmp_path):
    path = built(tmp_path / "a.onnx", side=32)
    plain = open_model(f"onnx:{path}").describe()
    assert plain["transform"]["crop"] == [32, 32]
    assert plain["transform"]["resize"] == 37
    model = onnx.load_model(path)

    def stated(value):
        del model.metadata_props[:]
        model.metadata_props.add(key="critmass.transform", value=value)
        onnx.save_model(model, path)
        return open_model(f"onnx:{path}")

    wanted = {"crop": [32, 32], "resize": None, "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.25, 0.5]}
    found = stated(json.dumps(wanted)).describe()
    assert {name: found["transform"][name] for name in wanted} == wanted
    assert found["weights"] != plain["weights"]
    for wrong in (
        "no json",
        "[]",
        '{"crops": 3}',
        '{"std": [1, 1, 0]}',
        '{"interpolation": "magic"}',
        '{"mean": 1}',
    ):
        with pytest.raises(InputError, match=r"critmass\.transform: found .* an ImageTransform in JSON"):
            stated(wrong)
    with pytest.raises(InputError, match=r"\(32, 32\), to which the graph is fixed"):
        stated(json.dumps({"crop": [64, 64]}))


def test_sizes(tmp_path, small):
    assert open_model(f"onnx:{built(tmp_path / 'free.onnx', side='s')}").transform.crop == (224, 224)
    free = open_model(f"onnx:{tmp_path / 'free.onnx'}", image_size=48)
    assert (free.transform.crop, free.transform.resize) == ((48, 48), 55)
    with pytest.raises(InputError, match=r"image_size: found \(64, 64\).*\(32, 32\)"):
        open_model(f"onnx:{small}", image_size=64)


def test_identity_is_the_file_and_its_data(tmp_path):
    path = built(tmp_path / "a.onnx")
    model = onnx.load_model(path)
    onnx.save_model(model, path, save_as_external_data=True, location="a.bin", size_threshold=0)
    first = open_model(f"onnx:{path}")
    assert str(tmp_path) not in repr(first.describe())
    expected = layers_of(open_model(f"onnx:{built(tmp_path / 'b.onnx')}"), images(2), "output", "product")
    found = layers_of(first, images(2), "output", "product")
    for layer, values in expected.items():
        np.testing.assert_allclose(found[layer], values, rtol=1e-6)
    data = bytearray((tmp_path / "a.bin").read_bytes())
    data[0] ^= 1
    (tmp_path / "a.bin").write_bytes(data)
    assert open_model(f"onnx:{path}").describe()["weights"] != first.describe()["weights"]
    (tmp_path / "a.bin").unlink()
    with pytest.raises(InputError, match=r"no a\.bin beside it"):
        open_model(f"onnx:{path}")


@pytest.mark.parametrize("where", ["graph", "attribute", "link"])
def test_weights_outside_the_folder_are_refused(tmp_path, where):
    secret = tmp_path / "secret.bin"
    secret.write_bytes(bytes(64))
    folder = tmp_path / "model"
    folder.mkdir()
    path = built(folder / "a.onnx")
    model = onnx.load_model(path)
    locations = ["../secret.bin", str(secret)]
    tensor = model.graph.initializer[0]
    if where == "link":
        (folder / "linked.bin").symlink_to(secret)
        locations = ["linked.bin"]
    if where == "attribute":
        constant = helper.make_node(
            "Constant", [], ["c"], value=numpy_helper.from_array(np.ones(3, np.float32))
        )
        branch = helper.make_graph([constant], "inner", [], [helper.make_tensor_value_info("c", 1, [3])])
        node = helper.make_node("If", ["w"], ["z"], then_branch=branch, else_branch=branch)
        model.graph.node.append(node)
        tensor = model.graph.node[-1].attribute[0].g.node[0].attribute[0].t
    for location in locations:
        tensor.ClearField("raw_data")
        del tensor.external_data[:]
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=location)
        path.write_bytes(model.SerializeToString())
        with pytest.raises(InputError, match="weights in the folder of the model"):
            open_model(f"onnx:{path}")


def test_what_is_no_model_of_images_is_one_clear_line(tmp_path, small):
    whole = small.read_bytes()
    files = {
        "empty": b"",
        "text": b"hello\n" * 40,
        "half": whole[: len(whole) // 2],
        "noise": bytes(range(256)) * 9,
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(InputError, match=f"{name}: found ") as caught:
            open_model(f"onnx:{tmp_path / name}")
        assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="a file that exists"):
        open_model(f"onnx:{tmp_path / 'none.onnx'}")
    for settings in ({"channels": 1}, {"dtype": TensorProto.INT64}):
        with pytest.raises(InputError, match="one input: float images"):
            open_model(f"onnx:{built(tmp_path / 'a.onnx', **settings)}")
    nodes = [helper.make_node("NoSuchOperator", ["x"], ["y"])]
    with pytest.raises(InputError, match=r"a\.onnx: found "):
        open_model(f"onnx:{built(tmp_path / 'a.onnx', nodes=nodes)}")


def test_places_and_layers_that_are_not_there(small):
    network = open_model(f"onnx:{small}")
    assert network.place("cpu", "float32").describe() == network.describe()
    with pytest.raises(InputError, match="device: found 'cuda:0'; allowed: cpu"):
        network.place("cuda:0", "float32")
    with pytest.raises(InputError, match="precision: found 'bfloat16'; allowed: float32"):
        network.place("cpu", "bfloat16")
    with pytest.raises(InputError, match="layer: found 'penultimte'.*did you mean 'penultimate'"):
        layers_of(network, images(1), "penultimte")


def test_efficientnet_lite0_three_ways(tmp_path):
    """The package's module, timm's architecture with its weights by position, and its export agree."""
    first = open_model("lite0:")
    ours, theirs = first.module.state_dict(), timm.create_model("tf_efficientnet_lite0").state_dict()
    pairs = zip(ours.values(), theirs.items(), strict=True)
    converted = {name: tensor for tensor, (name, like) in pairs if tensor.shape == like.shape}
    assert len(converted) == 296
    torch.save(converted, tmp_path / "lite0.pt")
    second = open_model(f"checkpoint:timm/tf_efficientnet_lite0@{tmp_path / 'lite0.pt'}")
    path = export(first.module, tmp_path / "lite0.onnx", 224)
    model = onnx.load_model(path, load_external_data=False)
    model.metadata_props.add(key="critmass.transform", value=json.dumps(first.describe()["transform"]))
    path.write_bytes(model.SerializeToString())
    third = open_model(f"onnx:{path}")
    train = open_dataset("mnist5k:").splits()["train"]
    samples = [train.read(index) for index in range(0, 40, 5)]
    # timm's transform crops, and scales by 127.5; the same pixels go through all of them.
    second = replace(second, inputs=first.inputs)
    prepared = [first.prepare(sample) for sample in samples]
    found = [
        each.start(prepared, ["penultimate"], "auto")()["penultimate"] for each in (first, second, third)
    ]
    assert found[0].shape == (8, 1280)
    for other in found[1:]:
        print(f"largest difference {abs(other - found[0]).max():.2e} of {abs(found[0]).max():.2f}")
        np.testing.assert_allclose(other, found[0], rtol=0, atol=1e-4)


def test_nothing_about_the_user_is_kept_or_sent(small, tmp_path):
    """onnxruntime makes a device id and a queue of telemetry in the user's cache unless it is told not to."""
    places = {name: str(tmp_path / name) for name in ("HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME", "TMPDIR")}
    for place in places.values():
        Path(place).mkdir()
    code = (
        "import sys, time; from critmass.sources import open_model; open_model(sys.argv[1]); time.sleep(0.5)"
    )
    quiet = {name: value for name, value in os.environ.items() if "TELEMETRY" not in name and name != "CI"}
    subprocess.run([sys.executable, "-c", code, f"onnx:{small}"], env=quiet | places, check=True)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
