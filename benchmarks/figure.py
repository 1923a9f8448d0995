"""The README's figure and its caption, from the demo run anew: `make docs`."""

from __future__ import annotations

import claims

import critmass as cm
from critmass import demo
from critmass.progress import silent

DELTA = 0.9


def caption(features: cm.Features, curve: cm.Curve) -> str:
    """Return what the figure shows, in words."""
    r, d = curve.redundancy(DELTA), features.n_neurons
    images = sum(split.x.shape[0] for split in features.splits.values())
    return (
        f"*EfficientNet-Lite0 (ImageNet-1k, d = {d:,}) on {images:,} MNIST digits: every size from 1 to {d:,}, "
        f"{curve.repeats} random orders.\n{r.headline_mass} random neurons of {d:,} keep {DELTA:.0%} of the whole "
        f"layer's test accuracy: DR({DELTA}) = {r.headline:.2f}\n(95% interval {r.low:.2f} to {r.high:.2f}).*"
    )


def main() -> None:
    with claims.run("make docs", __doc__) as run:
        folder = run.cache / "demo"
        curves, _ = demo.run(folder, limit=200 if run.toy else None, progress=silent)
        (ridge,) = (curve for curve in curves if curve.score == "ridge")
        figure = (folder / "curve.svg").read_bytes()
        features = cm.Features.open(folder / "features")
        run.write({"README.md": caption(features, ridge), "docs/images/curve.svg": figure})


if __name__ == "__main__":
    main()
