"""The command list: what there is."""

from __future__ import annotations

from typing import Any, Literal

from critmass.cli.options import Json
from critmass.cli.printing import emit, shown
from critmass.errors import InputError, verbatim

Kind = Literal["models", "architectures", "layers", "datasets", "scores", "parts", "figures"]


def list_(what: Kind, name: str | None = None, *, json: Json = False) -> None:
    """Show what there is: models, architectures, layers MODEL, datasets, scores, parts or figures.

    Example: critmass list layers lite0:

    Example: critmass list scores ridge

    Parameters
    ----------
    what
        models, architectures (of checkpoint:ARCH@PATH), layers, datasets, scores, parts or figures.
    name
        For layers: the model whose layers to show. For scores: the score whose settings to explain.
    json
        Print one JSON object.
    """
    if (what == "layers") != (name is not None) and what != "scores":
        found = verbatim("nothing") if name is None else name
        allowed = (
            "a model after 'layers' (lite0:), a score or nothing after 'scores', nothing after the others"
        )
        raise InputError("model or score", found, allowed)
    if what == "layers" and name is not None:
        records, texts = _layers(name)
    elif what == "scores":
        records, texts = _scores() if name is None else _settings(name)
    else:
        records = texts = _named(what)
    width = max(map(len, texts), default=0)
    lines = [f"{key:<{width}}  {text}" for key, text in texts.items()] or ["no settings"]
    key = "settings" if what == "scores" and name is not None else what
    emit({key: records}, json=json, text="\n".join(lines))


def _named(what: Kind) -> dict[str, Any]:
    """Return names and descriptions."""
    from critmass.parts import making
    from critmass.report import study_figures
    from critmass.sources import DATASETS, MODELS, list_architectures, zoo

    if what == "architectures":
        return {
            name if owner == "critmass" else f"{owner}/{name}": f"{owner}'s"
            for owner, names in list_architectures().items()
            for name in names
        }
    if what == "figures":
        figures = {name: drawn.description for name, drawn in study_figures.FIGURES.items()}
        return figures | study_figures.TABLES
    if what == "parts":
        return dict(making.registered())
    sources = MODELS if what == "models" else DATASETS
    found = {s.form: f"{s.description}; extra: {s.extra}" for s in sources.values()}
    if what == "models":
        found |= {
            f"zoo:{entry.name}": f"d = {entry.d}, {entry.data}, {entry.loss}; {entry.source}"
            for entry in zoo.entries()
        }
    return found


def _layers(model: str) -> tuple[dict[str, Any], dict[str, str]]:
    from critmass.sources import open_model

    with shown() as progress:
        layers = open_model(model, progress=progress).layers()
    records = {name: {"shape": list(shape), "n_neurons": d} for name, (shape, d) in layers.items()}
    texts = {name: f"{' x '.join(map(str, shape)):<16}  {d} neurons" for name, (shape, d) in layers.items()}
    return records, texts


def _scores() -> tuple[dict[str, Any], dict[str, str]]:
    """Return every score, with the names of its settings; packages of others are not loaded for theirs."""
    from critmass.scores import SCORES, registered
    from critmass.scores.described import settings

    records = {
        name: {"description": text, "settings": list(settings(name)) if name in SCORES else None}
        for name, text in registered().items()
    }
    texts = {}
    for name, record in records.items():
        known = ", ".join(record["settings"] or ())
        texts[name] = f"{record['description']}{f'; settings: {known}' if known else ''}"
    return records, texts


def _settings(score: str) -> tuple[dict[str, Any], dict[str, str]]:
    from dataclasses import asdict

    from critmass.scores.described import settings

    found = settings(score)
    texts = {
        name: f"{setting.type}, by default {setting.default!r}. {setting.description}".rstrip()
        for name, setting in found.items()
    }
    return {name: asdict(setting) for name, setting in found.items()}, texts
