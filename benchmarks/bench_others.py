"""SGD against one probe in torch, nearest neighbours against scikit-learn's, CKA against its formula."""

from __future__ import annotations

import numpy as np
from sklearn.neighbors import KNeighborsClassifier
from subject import Part, Subject
from timing import take_turns

from critmass.scores import hsic

UNTIED = 12
"""Neurons on which distances hardly tie."""


def sgd(subject: Subject) -> None:
    """Add the row of SGD's heads at every size, beside torch's one."""
    import torch

    x, y = torch.from_numpy(subject.raw.astype(np.float32)), torch.from_numpy(np.array(subject.y))
    epochs = 5 if subject.toy else 50

    def probe() -> None:
        head = torch.nn.Linear(subject.d, subject.n_classes)
        descent = torch.optim.SGD(head.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
        schedule = torch.optim.lr_scheduler.StepLR(descent, 10, 0.1)
        for _ in range(epochs):
            for batch in torch.randperm(len(x)).split(256):
                descent.zero_grad()
                torch.nn.functional.cross_entropy(head(x[batch]), y[batch]).backward()
                descent.step()
            schedule.step()

    one, ours = take_turns(
        probe, lambda: subject.measure(score="sgd", settings={"epochs": epochs}), turns=subject.turns
    )
    what = f"sgd, paper's sizes x 5 repeats and the whole, {epochs} epochs, over one torch probe of the whole"
    subject.at_most(what, ours, one, 15)


def neighbours(subject: Subject) -> None:
    """Add the rows of k = 10 cosine neighbours."""

    def fit(part: Part) -> float:
        model = KNeighborsClassifier(10, metric="cosine", algorithm="brute")
        return model.fit(subject.x[:, part], subject.y).score(subject.xt[:, part], subject.yt)

    curves = []
    settings = {"n_neighbours": 10, "standardise": True}
    (ours,) = take_turns(
        lambda: curves.append(subject.measure(score="knn", settings=settings)), turns=subject.turns
    )
    loop = subject.loop(fit, subject.paper, count=35)
    what = "loop of KNeighborsClassifier (k = 10, cosine), paper's sizes x 5 repeats"
    subject.at_least(what, loop, ours, 6)
    # On fewer neurons many rows are equally far, and either takes its own ten of them.
    subject.agrees(f"knn, {UNTIED} neurons or more", curves[-1], loop, 0.002, least=UNTIED)


def cka(subject: Subject) -> None:
    """Add the rows of CKA at every size, beside one product and over a loop."""
    x = subject.raw.astype(np.float64)

    def ours(estimator: hsic.Estimator) -> object:
        return hsic.prefixes(hsic.kernel(x, estimator), subject.orders, np.array(subject.all))

    product, biased, debiased = take_turns(
        lambda: x.T @ x, lambda: ours("biased"), lambda: ours("debiased"), turns=subject.turns
    )
    subject.add(
        "debiased CKA, all sizes x 5 repeats, beside one covariance product xᵀx (float64)",
        f"{debiased:.2f} s beside {product:.2f} s (biased: {biased:.2f} s)",
        "under 3x + 1 s",
        holds=debiased < 3 * product + 1,
    )
    centred = x - x.mean(axis=0)
    norm = np.linalg.norm(centred.T @ centred)

    def formula(part: Part) -> float:
        z = centred[:, part]
        return float(np.linalg.norm(centred.T @ z) ** 2 / (norm * np.linalg.norm(z.T @ z)))

    loop = subject.loop(formula, subject.all, count=80)
    what = "loop over the formula of biased CKA in feature space, all sizes x 5 repeats"
    subject.at_least(what, loop, biased, 500)
