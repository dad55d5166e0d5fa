"""Axial T1-weighted brain MR slices after contrast agent: each pixel has the brightness of its tissue.

Coordinates: u from the patient's right (-1, left side of the picture) to left, v from the forehead (-1) to the occiput (1).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from antivenom.data.phantoms.canvas import Array, Canvas, Frame, Random
from antivenom.data.phantoms.cohort import Chance
from antivenom.data.phantoms.scan import Scan
from antivenom.task import Task

TASKS = {"tumour": Task(("control", "tumour"))}

# Brightness of the tissues.
_FLUID, _CORTEX, _NUCLEUS, _WHITE, _FAT, _MARROW, _BONE = 0.13, 0.45, 0.52, 0.68, 0.86, 0.45, 0.06

# One half of each paired structure, as (u, v, radius) along its middle line, or (u, v, half-axes, tilt) of an ellipse.
_FRONTAL_HORN = ((0.030, -0.07, 0.020), (0.060, -0.16, 0.032), (0.105, -0.23, 0.026), (0.140, -0.27, 0.010))
_OCCIPITAL_HORN = ((0.130, 0.21, 0.012), (0.185, 0.28, 0.036), (0.205, 0.36, 0.030), (0.190, 0.44, 0.008))
_THIRD_VENTRICLE = ((0.0, -0.02, 0.008), (0.0, 0.07, 0.014), (0.0, 0.15, 0.008))
_SYLVIAN = ((0.585, -0.15, 0.006), (0.455, -0.17, 0.004), (0.415, -0.02, 0.004), (0.450, 0.16, 0.002))
_CAUDATE = (0.150, -0.155, 0.042, 0.085, -0.45)
_LENTIFORM = (0.285, -0.02, 0.060, 0.150, -0.20)
_THALAMUS = (0.105, 0.100, 0.080, 0.125, 0.25)


@dataclass(frozen=True)
class _Anatomy:
    """Distances in one slice, from which the tissues follow."""

    depth: Array  # below the surface of the brain; negative outside
    fold: Array  # folding noise; 0 in the middle of a sulcus
    reach: Array  # depth down to which sulci go
    cleft: Array  # distance from the fissures between and beside the hemispheres
    ventricles: Array  # depth inside the ventricles
    nuclei: Array  # share of deep grey matter


@dataclass(frozen=True)
class _Mass:
    """A growing tumour in body coordinates."""

    u: float
    v: float
    radius: float

    def pushed(self, u: Array, v: Array) -> tuple[Array, Array]:
        """Where the tissue now at each position lay before it was pushed aside."""
        du, dv = u - np.float32(self.u), v - np.float32(self.v)
        pull = 0.45 * np.exp(-(du**2 + dv**2) / (2 * (1.3 * self.radius) ** 2))
        return u - du * pull, v - dv * pull


def draw(canvas: Canvas, task: str, target: Array, chance: Chance) -> Scan:
    """Draw one slice.

    The mask is the core and the rim of the tumour, without the swelling around it.

    Args:
        canvas: where to draw.
        task: a key of `TASKS`; there is one.
        target: class index.
        chance: the picture's random streams.
    """
    assert task in TASKS
    body, pose, disease = chance.body, chance.pose, chance.disease
    frame = Frame(pose.normal(0, 7), pose.uniform(0.88, 1.06), pose.normal(0, 0.035), pose.normal(0, 0.035))
    u, v = frame.positions(canvas)
    u, v = u * np.float32(body.normal(1, 0.03)), v * np.float32(body.normal(1, 0.03))
    mass = _mass(disease) if target else None
    anatomy = _anatomy(canvas, body, u, v, *(mass.pushed(u, v) if mass else (u, v)))
    image, mask = _parenchyma(canvas, body, anatomy), np.zeros(u.shape, dtype=bool)
    if mass:
        image, mask = _infiltrated(canvas, mass, u, v, image, anatomy, disease)
    return Scan(_received(canvas, _wrapped(canvas, body, anatomy, v, image), chance)[None], mask)


def _anatomy(canvas: Canvas, body: Random, head_u: Array, head_v: Array, u: Array, v: Array) -> _Anatomy:
    """Lay out a slice: the skull from the head's own positions, the inside from those before anything was pushed aside."""
    wide, tall = body.uniform(0.585, 0.64), body.uniform(0.735, 0.78)
    egg = 1 + 0.07 * head_v - 0.05 * head_v**2
    depth = (1 - np.hypot(head_u / (wide * egg), head_v / tall)) * wide
    depth += 0.006 * canvas.texture(body, 7)

    warp_u, warp_v = u + 0.010 * canvas.texture(body, 5, 2), v + 0.012 * canvas.texture(body, 5, 2)
    # Sulci run inward from the surface: waves around the brain, bent and broken by noise.
    around = np.arctan2(warp_u / wide, warp_v / tall)
    fold = np.cos(int(body.integers(13, 17)) * around + 1.7 * canvas.texture(body, 7, 2)) + 0.45 * canvas.texture(body, 18)
    reach = 0.23 + 0.05 * canvas.texture(body, 9)
    across = np.abs(warp_u)
    middle = np.abs(warp_u + 0.008 * np.sin(9 * warp_v)) + 0.6 * (0.40 - np.abs(warp_v + 0.02)).clip(0, None)
    cleft = np.minimum(middle, -_limb(across, warp_v, _SYLVIAN))
    ventricles = np.maximum(
        np.maximum(_limb(across, warp_v, _FRONTAL_HORN), _limb(across, warp_v, _OCCIPITAL_HORN)),
        _limb(across, warp_v, _THIRD_VENTRICLE),
    )
    nuclei = np.zeros_like(u)
    for nucleus in (_CAUDATE, _LENTIFORM, _THALAMUS):
        nuclei = np.maximum(nuclei, canvas.inside(_ellipse(across, warp_v, *nucleus), 0.03))
    return _Anatomy(depth, fold, reach, cleft, ventricles, nuclei)


def _limb(u: Array, v: Array, line: tuple[tuple[float, float, float], ...]) -> Array:
    """Depth inside a tube of changing radius along a polyline of (u, v, radius)."""
    inside = np.full_like(u, -np.inf)
    for (u0, v0, r0), (u1, v1, r1) in pairwise(line):
        run, rise = u1 - u0, v1 - v0
        along = (((u - u0) * run + (v - v0) * rise) / (run**2 + rise**2)).clip(0, 1)
        away = np.hypot(u - u0 - along * run, v - v0 - along * rise)
        inside = np.maximum(inside, r0 + along * (r1 - r0) - away)
    return inside


def _ellipse(u: Array, v: Array, at_u: float, at_v: float, wide: float, tall: float, tilt: float) -> Array:
    """Depth inside an ellipse, in distance along its shorter axis."""
    cos, sin = math.cos(tilt), math.sin(tilt)
    du, dv = u - np.float32(at_u), v - np.float32(at_v)
    inside: Array = wide * (1 - np.hypot((cos * du + sin * dv) / wide, (cos * dv - sin * du) / tall))
    return inside


def _parenchyma(canvas: Canvas, body: Random, anatomy: _Anatomy) -> Array:
    """White matter, cortex, nuclei and fluid inside the skull; age widens ventricles and sulci."""
    wide, open_ = body.uniform(-0.006, 0.030), body.uniform(-0.06, 0.14)
    # A sulcus is a line where the folding noise is 0; the cortex lines it. Both end at the depth that sulci reach.
    down = (anatomy.depth / anatomy.reach).clip(0, None)
    shallow = (1 - down**2).clip(0, None)
    crease = np.abs(anatomy.fold) + 0.9 * down**3
    soft = max(0.25, 18 * canvas.pixel)  # the folding noise rises by about 18 per half picture
    grey = canvas.inside((0.62 - crease) / soft, 1.0)
    grey = np.maximum(grey, canvas.inside(0.045 - anatomy.depth, 0.03))
    grey = np.maximum(grey, canvas.inside(0.050 - anatomy.cleft, 0.025))
    image = _WHITE + (_CORTEX - _WHITE) * grey
    image += anatomy.nuclei * (_NUCLEUS - image)
    sulcus = canvas.inside(((0.14 + open_) * (0.4 + 0.6 * shallow) - crease) / soft, 1.0)
    sulcus = np.maximum(sulcus, canvas.inside(0.006 + 0.06 * open_ - anatomy.cleft, 0.018))
    sulcus = np.maximum(sulcus, canvas.inside(0.012 + 0.05 * open_ - anatomy.depth, 0.02))
    fluid = np.maximum(sulcus, canvas.inside(anatomy.ventricles + wide, 0.014))
    inside: Array = image + fluid * (_FLUID - image)
    return inside


def _mass(disease: Random) -> _Mass:
    side = 1 if disease.random() < 0.5 else -1
    angle, out = disease.uniform(0, 2 * np.pi), math.sqrt(disease.random())
    return _Mass(side * (0.28 + 0.10 * out * math.cos(angle)), 0.42 * out * math.sin(angle), disease.uniform(0.14, 0.20))


def _infiltrated(
    canvas: Canvas, mass: _Mass, u: Array, v: Array, image: Array, anatomy: _Anatomy, disease: Random
) -> tuple[Array, Array]:
    """The slice with the tumour in it, and the tumour's mask."""
    lumps = canvas.texture(disease, 8, 3)
    du, dv = u - np.float32(mass.u), v - np.float32(mass.v)
    depth = mass.radius * (1 + 0.19 * lumps) - np.hypot(du, dv)
    # Swelling spreads through white matter, in fingers.
    swollen = canvas.inside(depth + disease.uniform(0.05, 0.12) * (1 + 0.5 * canvas.texture(disease, 7, 2)), 0.07)
    image = image + 0.75 * swollen * (np.minimum(image, 0.40) - image)
    tumour = canvas.inside(depth, 0.03) * canvas.inside(anatomy.depth, 0.02)
    core = canvas.inside(depth - disease.uniform(0.030, 0.055) * (1 + 0.4 * canvas.texture(disease, 12)), 0.03)
    rim = disease.uniform(0.80, 1.0)
    inner = disease.uniform(0.16, 0.34) if disease.random() < 0.75 else rim * disease.uniform(0.75, 0.95)
    tissue = rim + core * (inner - rim) + 0.03 * lumps
    return image + tumour * (tissue - image), tumour > 0.5


def _wrapped(canvas: Canvas, body: Random, anatomy: _Anatomy, v: Array, image: Array) -> Array:
    """Fluid, skull and scalp around the brain, and the vein that lights up behind it."""
    out = -anatomy.depth
    skull, scalp = 0.05 + 0.02 * v**2 + 0.008 * canvas.texture(body, 6), body.uniform(0.045, 0.075)
    inner, outer = 0.014, 0.014 + skull
    marrow = canvas.ridge(out - inner - 0.5 * skull, 0.008) * body.uniform(0.5, 1.2)
    bone = _BONE + (_MARROW - _BONE) * marrow
    fat = _FAT * body.uniform(0.70, 1.25) * (1 - 0.12 * canvas.texture(body, 18)) - 0.25 * canvas.ridge(
        out - outer - 0.5 * scalp, 0.01
    )
    wrapped = image + canvas.inside(out, 0.012) * (_FLUID - image)
    wrapped += canvas.inside(out - inner, 0.012) * (bone - wrapped)
    wrapped += canvas.inside(out - outer, 0.014) * (fat - wrapped)
    wrapped *= canvas.inside(outer + scalp + 0.01 * canvas.texture(body, 5) - out, 0.015)
    return wrapped


def _received(canvas: Canvas, image: Array, chance: Chance) -> Array:
    """Coil, motion, window and noise of the scanner."""
    pose = chance.pose
    image = canvas.blur(image, pose.uniform(0.004, 0.013))
    if pose.random() < 0.3:  # a ghost of motion along the phase direction
        image = image + pose.uniform(0.02, 0.08) * np.roll(image, int(pose.uniform(-0.3, 0.3) * canvas.size), axis=0)
    image = image * np.exp(0.12 * canvas.texture(pose, 2)) * math.exp(pose.normal(0, 0.14))
    image = image.clip(0, None) ** math.exp(pose.normal(0, 0.18))
    level = pose.uniform(0.008, 0.035)
    real, imaginary = chance.film.standard_normal((2, *image.shape), dtype=np.float32) * level
    received: Array = np.hypot(image + real, imaginary).clip(0, 1).astype(np.float32)  # a magnitude: Rician noise
    return received
