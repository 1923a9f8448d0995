"""The paper's models by name: where each one's weights are, and how it opens. Data, and its table.

Weights that torchvision or timm carry are opened by their names there. Those of Salman et al. 2020 (arXiv
2007.08489), of Steiner et al. 2021 (arXiv 2106.10270) and of Kusupati et al. 2022 (arXiv 2205.13147) are
files; each address names the version of the file, where its host keeps versions.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from critmass.io.downloads import cache_root

_ROBUST = (
    "https://huggingface.co/madrylab/robust-imagenet-models/resolve/3f04ac96136001cfe402022100728124cbe3fac5"
)
_AUGREG = "https://storage.googleapis.com/vit_models/augreg"
_MRL = "https://huggingface.co/aniketr/mrl-resnet50/resolve/a67b15f03462585843e7e3af3415852ef441b48e"
FIXED_FEATURES = (8, 16, 32, 64, 128, 256, 512, 1024, 2048)


@dataclass(frozen=True)
class Entry:
    """A model of the zoo.

    Attributes
    ----------
    name : str
        Opened as ``zoo:NAME``.
    d : int
        Neurons of the penultimate layer.
    opens : str
        The model's name without the zoo, or the architecture of the file at `url`.
    data, loss : str
        What it was trained on, and how.
    source : str
        Whose weights they are.
    url : str, optional
        Where the file is; None where `opens` is a name of its own.
    file : str
        The file's name in the cache.
    note : str
        What is not certain.
    """

    name: str
    d: int
    opens: str
    data: str
    loss: str
    source: str
    licence: str
    url: str | None = None
    file: str = ""
    note: str = ""

    @property
    def path(self) -> Path:
        """Where its file is kept, or may be put."""
        return cache_root() / "zoo" / self.file


def entries() -> tuple[Entry, ...]:
    """Return every model of the zoo, in the paper's order."""
    return (*_STANDARD, *_ADVERSARIAL, *_TRANSFORMERS, *_MATRYOSHKA)


def table() -> str:
    """Return the zoo as a table in Markdown."""
    rows = [
        "| name | d | upstream data | loss | weights | licence | note |",
        "|---|---|---|---|---|---|---|",
    ]
    for entry in entries():
        weights = f"`{entry.opens}`" if entry.url is None else f"[{entry.file}]({entry.url}), {entry.source}"
        cells = (
            f"`zoo:{entry.name}`",
            str(entry.d),
            entry.data,
            entry.loss,
            weights,
            entry.licence,
            entry.note,
        )
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows) + "\n"


def _robust(name: str, architecture: str, d: int, stem: str, loss: str, note: str = "") -> Entry:
    file = f"{stem}.ckpt"
    return Entry(
        name,
        d,
        architecture,
        "ImageNet-1k",
        loss,
        "Salman et al. 2020",
        "MIT",
        url=f"{_ROBUST}/{file}",
        file=file,
        note=note,
    )


def _matryoshka(name: str, architecture: str, d: int, folder: str, loss: str) -> Entry:
    return Entry(
        name,
        d,
        architecture,
        "ImageNet-1k",
        loss,
        "Kusupati et al. 2022",
        "MIT",
        url=f"{_MRL}/{folder}/final_weights.pt",
        file=f"{architecture}.pt",
    )


def _augreg(name: str, patch: int) -> Entry:
    file = f"S_{patch}-i1k-300ep-lr_0.001-aug_light1-wd_0.03-do_0.0-sd_0.0.npz"
    return Entry(
        name,
        384,
        f"timm/vit_small_patch{patch}_224",
        "ImageNet-1k",
        "standard",
        "Steiner et al. 2021",
        "Apache-2.0",
        url=f"{_AUGREG}/{file}",
        file=file,
        note="the authors' code scales its images as ImageNet's ResNets; here as it was trained, to [-1, 1]",
    )


_STANDARD = (
    Entry(
        "resnet18",
        512,
        "torchvision:resnet18@IMAGENET1K_V1",
        "ImageNet-1k",
        "standard",
        "torchvision",
        "BSD-3-Clause",
        note="inferred: the default weights of the authors' timm; top-1 69.76, the paper's Table 1 has 69.23",
    ),
    Entry(
        "resnet50",
        2048,
        "timm:resnet50.a1_in1k",
        "ImageNet-1k",
        "standard (binary cross-entropy, recipe A1)",
        "timm",
        "Apache-2.0",
        note="inferred: the default weights of the authors' timm, and the only ones near Table 1's 80.07",
    ),
    _robust("wide-resnet50-2", "torchvision/wide_resnet50_2", 2048, "wide_resnet50_2_l2_eps0", "standard"),
    _robust("wide-resnet50-4", "wide_resnet50_4", 2048, "wide_resnet50_4_l2_eps0", "standard"),
    Entry(
        "vgg16",
        4096,
        "torchvision:vgg16_bn@IMAGENET1K_V1",
        "ImageNet-1k",
        "standard",
        "torchvision",
        "BSD-3-Clause",
        note="with batch normalisation; top-1 73.36 as in Table 1",
    ),
)
_ADVERSARIAL = (
    _robust("resnet18-l2-eps3", "torchvision/resnet18", 512, "resnet18_l2_eps3", "adversarial, l2, eps 3"),
    _robust("resnet50-l2-eps3", "torchvision/resnet50", 2048, "resnet50_l2_eps3", "adversarial, l2, eps 3"),
    _robust(
        "resnet50-linf-eps4",
        "torchvision/resnet50",
        2048,
        "resnet50_linf_eps4.0",
        "adversarial, linf, eps 4/255",
    ),
    _robust(
        "wide-resnet50-2-l2-eps3",
        "torchvision/wide_resnet50_2",
        2048,
        "wide_resnet50_2_l2_eps3",
        "adversarial, l2, eps 3",
    ),
    _robust(
        "wide-resnet50-4-l2-eps3",
        "wide_resnet50_4",
        2048,
        "wide_resnet50_4_l2_eps3",
        "adversarial, l2, eps 3",
    ),
    _robust("vgg16-l2-eps3", "torchvision/vgg16_bn", 4096, "vgg16_bn_l2_eps3", "adversarial, l2, eps 3"),
)
_TRANSFORMERS = (
    _augreg("vit-s16", 16),
    _augreg("vit-s32", 32),
    *(
        Entry(
            f"vit-s{patch}-21k",
            384,
            f"timm:vit_small_patch{patch}_224.augreg_in21k",
            "ImageNet-21k",
            "standard",
            "Steiner et al. 2021",
            "Apache-2.0",
        )
        for patch in (16, 32)
    ),
)
_MATRYOSHKA = (
    _matryoshka("resnet50-mrl", "mrl-resnet50", 2048, "mrl/Imagenet1k_R50_mrl", "Matryoshka"),
    *(
        _matryoshka(
            f"resnet50-ff{width}",
            f"mrl-resnet50-ff{width}",
            width,
            f"fixed-feature/Imagenet1k_R50_ff{width}",
            f"standard, on the first {width} features" if width < 2048 else "standard",
        )
        for width in FIXED_FEATURES
    ),
)
