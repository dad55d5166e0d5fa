"""Dermoscopy: light comes back from the skin, less where melanin or blood absorbs it.

Benign and malignant lesions share their sizes, darkness and palette. What tells them apart is order: a benign one is round,
evenly bordered and of one hue that changes from the middle outward; a malignant one has a notched border and patches of
several colours that lie anyhow.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from antivenom.data.phantoms.canvas import Array, Canvas, Frame, Random
from antivenom.data.phantoms.cohort import Chance
from antivenom.data.phantoms.scan import Scan
from antivenom.task import Task

TASKS = {"melanoma": Task(("benign", "malignant"))}

# What melanin and blood take from red, green and blue light, and two colours that hide both.
_MELANIN = np.array([0.62, 1.0, 1.12], np.float32)[:, None, None]
_BLOOD = np.array([0.16, 0.72, 0.50], np.float32)[:, None, None]
_VEIL = np.array([0.40, 0.41, 0.51], np.float32)[:, None, None]  # melanin deep in the skin is seen blue
_SCAR = np.array([0.86, 0.77, 0.76], np.float32)[:, None, None]

# Heights of the 2nd to 9th wave along the border, as shares of the radius.
_EVEN = np.array([0.035, 0.02, 0.012, 0.008, 0.006, 0.004, 0.003, 0.003])
_NOTCHED = np.array([0.10, 0.085, 0.065, 0.045, 0.03, 0.022, 0.016, 0.012])


@dataclass(frozen=True)
class _Site:
    """What a benign and a malignant lesion at this place have in common."""

    at: tuple[float, float]
    angle: Array  # seen from the middle of the lesion
    away: Array  # distance from the middle, along the longer axis
    radius: float
    dark: float  # melanin
    red: float  # blood
    blurred: float  # width of the border


@dataclass(frozen=True)
class _Pigment:
    cover: Array  # share of each pixel in the lesion, soft at its border
    melanin: Array
    blood: Array | float
    veil: Array | float
    scar: Array | float
    mask: Array


def draw(canvas: Canvas, task: str, target: Array, chance: Chance) -> Scan:
    """Draw one lesion; its mask is its outline, whether benign or malignant.

    Args:
        canvas: where to draw.
        task: a key of `TASKS`; there is one.
        target: class index.
        chance: the picture's random streams.
    """
    assert task in TASKS
    site = _site(canvas, chance.pose)
    pigment = (_malignant if target else _benign)(canvas, site, chance.disease)
    return Scan(_photograph(canvas, pigment, chance), pigment.mask)


def _site(canvas: Canvas, pose: Random) -> _Site:
    at = (pose.normal(0, 0.12), pose.normal(0, 0.12))
    oval = pose.uniform(0.72, 1.0)
    along, thwart = Frame(pose.uniform(0, 180), right=at[0], down=at[1]).positions(canvas)
    thwart /= oval
    return _Site(
        at,
        np.arctan2(thwart, along).astype(np.float32),
        np.hypot(along, thwart).astype(np.float32),
        radius=pose.uniform(0.36, 0.68),
        dark=pose.uniform(0.35, 1.6),
        red=pose.exponential(0.2),
        blurred=pose.uniform(0.09, 0.30),
    )


def _benign(canvas: Canvas, site: _Site, disease: Random) -> _Pigment:
    border = _border(canvas, site, disease, _EVEN, ragged=0.012)
    cover = canvas.inside(border - site.away, site.blurred)
    share = site.away / border
    melanin = site.dark * (1 + disease.uniform(-1.0, 1.3) * (0.6 - share))
    melanin *= 1 + disease.uniform(0, 0.15) * _network(canvas, disease) + 0.14 * canvas.texture(disease, 6, 3)
    melanin += _globules(canvas, site, disease, turn=2.4, jitter=0.1)  # the golden angle spreads them evenly
    # Some are one even red, blue or pale in the middle: a colour alone must not give the class away.
    kind = disease.integers(8)
    blood = site.red + (disease.uniform(0.5, 1.4) if kind < 2 else 0)
    veil = disease.uniform(0.4, 0.85) if kind == 2 else 0.0
    scar = disease.uniform(0.3, 0.6) * canvas.inside(0.45 - share, 0.4) if kind == 3 else 0.0
    return _Pigment(cover, melanin.clip(0, 2.8), blood, veil, scar, border > site.away)


def _malignant(canvas: Canvas, site: _Site, disease: Random) -> _Pigment:
    border = _border(canvas, site, disease, _NOTCHED, ragged=0.05)
    # Sharp on one side, washed out on the other.
    width = site.blurred * (1 + 0.8 * np.cos(site.angle - disease.uniform(0, 2 * np.pi))) + 1.2 * canvas.pixel
    cover = canvas.inside((border - site.away) / width, 1.0)
    tint = canvas.texture(disease, 5, 4)
    melanin = site.dark * (1.1 + 0.7 * np.tanh(1.3 * tint))
    melanin *= 1 + disease.uniform(0.03, 0.22) * _network(canvas, disease) * canvas.inside(canvas.texture(disease, 3), 0.8)
    melanin += _globules(canvas, site, disease, turn=disease.uniform(-0.05, 0.05), jitter=0.6)

    def patch(cells: int, rarity: float, strength: float) -> Array:
        return strength * canvas.inside(canvas.texture(disease, cells, 3) - rarity, 1.3)

    blood = site.red + patch(3, disease.uniform(0.2, 0.9), disease.uniform(0.5, 1.4))
    veil = patch(3, disease.uniform(0.3, 1.1), disease.uniform(0.4, 0.8))
    scar = patch(4, disease.uniform(0.6, 1.4), disease.uniform(0.3, 0.7))
    return _Pigment(cover, melanin.clip(0, 2.8), blood, veil, scar, border > site.away)


def _border(canvas: Canvas, site: _Site, disease: Random, waves: Array, ragged: float) -> Array:
    """Distance of the border from the middle in the direction of each pixel."""
    order = np.arange(2, 2 + len(waves))
    turn = np.linspace(-np.pi, np.pi, 181)
    height, phase = waves * disease.standard_normal(len(waves)), disease.uniform(0, 2 * np.pi, len(waves))
    outline = 1 + height @ np.cos(order[:, None] * turn + phase[:, None])
    around = site.radius * np.interp(site.angle, turn, outline).astype(np.float32)
    border: Array = (around + ragged * canvas.texture(disease, 14, 2)).clip(0.05, None)
    return border


def _network(canvas: Canvas, disease: Random) -> Array:
    """An irregular mesh of pigment around paler holes: where either of two fine noises crosses zero; mean near 0."""
    cells = int(disease.integers(22, 34))
    fields = [canvas.texture(disease, cells) for _ in range(2)]
    mesh = np.exp(-2.5 * np.minimum(np.abs(fields[0]), np.abs(fields[1])) ** 2)
    return (mesh - 0.72) / 0.25


def _globules(canvas: Canvas, site: _Site, disease: Random, *, turn: float, jitter: float) -> Array:
    """Round specks of pigment along a spiral: evenly spread at the golden angle, bunched to one side at a turn near 0."""
    many = int(disease.integers(2) * disease.integers(8, 32))
    step = np.arange(many)
    share = site.radius * disease.uniform(0.5, 0.9) * np.sqrt((step + 0.5) / max(many, 1))
    angle = disease.uniform(0, 2 * np.pi) + turn * step + jitter * disease.standard_normal(many)
    x, y = site.at[0] + share * np.cos(angle), site.at[1] + share * np.sin(angle)
    return canvas.dots(x, y, disease.uniform(0.012, 0.026, many), disease.uniform(0.3, 1.0, many))


def _photograph(canvas: Canvas, pigment: _Pigment, chance: Chance) -> Array:
    """The skin around, the light of the dermoscope, gel, hairs, and the camera."""
    body, pose = chance.body, chance.pose
    tan = body.uniform(0, 1) ** 1.5
    ground = np.array([0.93, 0.74, 0.66]) * (1 - tan) + np.array([0.78, 0.54, 0.40]) * tan
    ground *= np.exp(body.normal(0, [0.02, 0.03, 0.04]))
    flush = 0.10 * canvas.texture(pose, 4, 2) + body.uniform(0.02, 0.10) * canvas.texture(pose, 12, 2) + 0.15
    freckle = 0.035 * canvas.texture(pose, 9, 3)
    freckle -= body.uniform(0.0, 0.03) * _lines(canvas, pose)
    melanin = freckle + pigment.cover * pigment.melanin
    blood = flush.clip(0, None) + pigment.cover * pigment.blood
    blood = blood + _capillaries(canvas, body, pose)
    light = ground.astype(np.float32)[:, None, None] * np.exp(-_MELANIN * melanin - _BLOOD * blood)
    light += (pigment.cover * pigment.veil) * (_VEIL * (1.15 - 0.15 * pigment.melanin).clip(0.6, 1.15) - light)
    light += (pigment.cover * pigment.scar) * (_SCAR - light)

    light *= 1 - _hairs(canvas, body, pose) * np.array([0.80, 0.86, 0.90], np.float32)[:, None, None]
    if pose.random() < 0.35:  # bubbles in the gel: bright glints
        many = int(pose.integers(2, 9))
        x, y = pose.uniform(-1, 1, (2, many))
        light += canvas.dots(x, y, pose.uniform(0.008, 0.02, many), pose.uniform(0.2, 0.6, many))
    across, down = canvas.x - pose.normal(0, 0.3), canvas.y - pose.normal(0, 0.3)
    light = light * np.exp(-pose.uniform(0.0, 0.28) * (across**2 + down**2))
    if pose.random() < 0.2:  # the tube of the dermoscope
        light = light * canvas.inside(pose.uniform(1.05, 1.3) - np.hypot(canvas.x, canvas.y), 0.06)
    light = canvas.blur(light, pose.uniform(0.002, 0.011))
    light = light * np.exp(pose.normal(0.02, 0.09) + pose.normal(0, [0.02, 0.025, 0.045])).astype(np.float32)[:, None, None]
    grain = chance.film.standard_normal(light.shape, dtype=np.float32)
    noisy: Array = (light + pose.uniform(0.004, 0.014) * grain).clip(0, 1).astype(np.float32)
    return noisy


def _lines(canvas: Canvas, pose: Random) -> Array:
    """The creases of the skin: two fine families of lines that cross; mean near 0."""
    bent = 0.05 * canvas.texture(pose, 5, 2)
    creases = np.zeros_like(canvas.x)
    first = pose.uniform(0, np.pi)
    for turn in (first, first + 1.1):
        wave = 2 * np.pi / pose.uniform(0.07, 0.11)
        faded = math.exp(-0.5 * (0.5 * canvas.pixel * wave) ** 2)
        creases += faded * np.cos(wave * (canvas.x * math.cos(turn) + canvas.y * math.sin(turn) + bent))
    return creases


def _capillaries(canvas: Canvas, body: Random, pose: Random) -> Array:
    many = int(body.choice([0, 3, 8]))
    if not many:
        return np.zeros_like(canvas.x)
    start, heading = pose.uniform(-1, 1, (many, 1, 2)), pose.uniform(0, 2 * np.pi, (many, 1))
    heading = heading + np.cumsum(pose.normal(0, 0.35, (many, 10)), axis=1)
    paths = start + 0.045 * np.cumsum(np.stack([np.cos(heading), np.sin(heading)], -1), axis=1)
    return canvas.strokes(paths, np.full((many, 10), 0.006), np.full((many, 10), 0.35))


def _hairs(canvas: Canvas, body: Random, pose: Random) -> Array:
    """Shadow of the hairs: long arcs that roughly share a direction."""
    many = int(body.choice([0, 0, 2, 6, 14]) * pose.uniform(0.6, 1.4))
    if not many:
        return np.zeros_like(canvas.x)
    start = pose.uniform(-1.2, 1.2, (many, 1, 2))
    turn = pose.uniform(0, 2 * np.pi) + pose.normal(0, 0.5, (many, 1))
    heading = turn + np.linspace(-0.5, 0.5, 12) * pose.normal(0, 1.1, (many, 1))
    step = pose.uniform(0.06, 0.16, (many, 1, 1))
    paths = start + step * np.cumsum(np.stack([np.cos(heading), np.sin(heading)], -1), axis=1)
    width = np.broadcast_to(body.uniform(0.005, 0.010) * np.linspace(1, 0.6, 12), (many, 12))
    return canvas.strokes(paths, width, np.full((many, 12), body.uniform(0.5, 1.0))).clip(0, 1)
