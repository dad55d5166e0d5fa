"""Phantoms: synthetic chest, fundus, skin and brain images whose lesions are known to the pixel."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from antivenom.data.imageset import ImageSet

__all__ = ["phantoms"]


def phantoms(modality: str, *, n: int = 1200, size: int = 64, seed: int = 0, task: str | None = None) -> ImageSet:
    """Draw a set of synthetic medical images, split by patient into train, val and test (70, 10 and 20 %).

    Picture i is a function of (modality, task, seed, size, i): it does not depend on `n` or on which others are drawn. It is
    drawn when asked for.

    Args:
        modality: `chest` or `brain` (grey), `fundus` or `skin` (colour).
        n: number of pictures, at least 20; about two thirds as many patients.
        size: height and width in pixels, from 28 to 1024.
        seed: another seed, other patients.
        task: what is to be told apart; the first one listed where left out.
            chest: `pneumonia` (normal, pneumonia), `findings` (multi-label: consolidation, effusion, nodule);
            fundus: `retinopathy` (none, retinopathy), `grades` (none to proliferative in five steps);
            skin: `melanoma` (benign, malignant);
            brain: `tumour` (control, tumour).

    Returns:
        A set with lesion masks. A mask is empty in a picture without disease, except on skin, where benign lesions are
        outlined as well.

    Raises:
        SettingsError: an unknown modality or task, or a number out of range.

    >>> chest = phantoms("chest", n=40)
    >>> len(chest.split("train")), chest[0].image.shape, chest.task.classes
    (28, torch.Size([1, 64, 64]), ('normal', 'pneumonia'))
    """
    from antivenom.data.phantoms.album import collect

    return collect(modality, n=n, size=size, seed=seed, task=task)
