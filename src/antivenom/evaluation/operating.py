"""Operating points: chosen once, on clean validation images, and kept beside the records."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from antivenom.data.imageset import ImageSet, batches
from antivenom.errors import SettingsError
from antivenom.metrics.classification import class_scores, one_hot, operating_points
from antivenom.models.classifier import AT_ONCE, Classifier
from antivenom.records.store import Store

RULE = "largest sensitivity + specificity on clean validation images"


def thresholds(store: Store, model: Classifier, vals: ImageSet | None) -> Tensor:
    """Logits `(A,)` above which each class counts as present; from the store where it has them, else chosen and stored.

    Raises:
        SettingsError: they are not chosen yet, and there are no validation images.
    """
    if not store.has_document("operating"):
        if vals is None:
            raise SettingsError("findings have thresholds that are chosen on validation images, and there are none")
        values = [None if np.isnan(p) else float(p) for p in chosen(model, vals)]
        document = {"rule": RULE, "n": len(vals), "thresholds": values, "classes": list(model.task.classes)}
        store.write_document("operating", document)
    found = store.document("operating")["thresholds"]
    # A finding that no validation image shows has no operating point: it is attacked at even odds.
    return torch.tensor([0.0 if value is None else value for value in found], dtype=torch.float32)


def chosen(model: Classifier, vals: ImageSet) -> np.ndarray[Any, Any]:
    """Logits `(A,)` above which each class counts as present, by the rule; NaN where no image shows it, or every one does."""
    logits = np.concatenate([model.answers(batch.images).numpy() for batch in batches(vals, AT_ONCE)])
    multilabel, classes = model.task.multilabel, len(model.task.classes)
    truth = one_hot(vals.targets.numpy(), classes, multilabel=multilabel).astype(bool)
    return operating_points(class_scores(logits, multilabel=multilabel), truth)
