"""Fundus photographs: light comes back from a layered red ground, less where blood or pigment absorbs it.

Coordinates: u from the optic disc's side (-1) towards the temple, where the macula is, v downward; the eye's side mirrors u.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from antivenom.data.phantoms.canvas import Array, Canvas, Frame, Random
from antivenom.data.phantoms.cohort import Chance
from antivenom.data.phantoms.scan import Scan
from antivenom.data.phantoms.vessels import Tree, grow
from antivenom.task import Task

TASKS = {
    "retinopathy": Task(("none", "retinopathy")),
    "grades": Task(("none", "mild", "moderate", "severe", "proliferative")),
}

# What blood takes from red, green and blue light.
_BLOOD = np.array([0.42, 1.15, 0.85], np.float32)[:, None, None]


@dataclass(frozen=True)
class _Retina:
    frame: Frame
    aperture: Array  # share of each pixel that the camera lights
    field: Array  # distance from the middle of the aperture, 1 at its rim
    vessels: Array  # optical depth of blood in the vessels
    disc: Array  # share of each pixel in the optic disc
    macula: tuple[float, float]
    colour: Array  # (3, H, W) reflected light without blood


def draw(canvas: Canvas, task: str, target: Array, chance: Chance) -> Scan:
    """Draw one photograph.

    Args:
        canvas: where to draw.
        task: a key of `TASKS`.
        target: class index.
        chance: the picture's random streams.
    """
    retina = _retina(canvas, chance.body, chance.pose)
    grade = int(target) if task == "grades" else int(target) * int(chance.disease.integers(2, 5))
    blood, deposits = _lesions(canvas, retina, grade, chance.disease)
    mask = (np.maximum(blood, 1.6 * deposits) > 0.25) & (retina.aperture > 0.5)
    return Scan(_photograph(canvas, retina, blood, deposits, chance), mask)


def _retina(canvas: Canvas, body: Random, pose: Random) -> _Retina:
    mirror = 1 if pose.random() < 0.5 else -1
    reach = pose.uniform(0.90, 1.02)
    field = np.hypot(canvas.x, canvas.y) / reach
    aperture = canvas.inside(reach * (1 - field), 0.015)
    if pose.random() < 0.4:  # a sensor wider than high
        aperture = aperture * canvas.inside(pose.uniform(0.78, 0.90) - np.abs(canvas.y), 0.01)
    frame = Frame(pose.normal(0, 5), pose.uniform(0.94, 1.10), pose.normal(0, 0.08), pose.normal(0, 0.06))
    u, v = frame.positions(canvas)
    u = mirror * u

    disc_at, tall = (-0.52, body.normal(-0.02, 0.03)), body.uniform(0.125, 0.155)
    macula = (disc_at[0] + body.uniform(0.60, 0.68), disc_at[1] + body.uniform(0.02, 0.08))
    du, dv = u - disc_at[0], v - disc_at[1]
    away = np.hypot(du / body.uniform(0.85, 0.98), dv) + 0.006 * canvas.texture(body, 10)
    disc, cup_at = canvas.inside(tall - away, 0.035), tall * body.uniform(0.35, 0.62)
    cup = canvas.inside(cup_at - np.hypot(du + 0.12 * tall, dv), 0.05)

    vessels = np.zeros_like(u)
    for wide, dark in ((0.0155, 1.0), (0.0115, 0.62)):  # veins, arteries
        tree = _arcades(body, disc_at, tall, wide)
        vessels += dark * canvas.strokes(frame.place(tree.paths * [mirror, 1]), tree.width, np.ones_like(tree.width))
    # Vessels climb over the rim and thin out in the cup.
    vessels *= body.uniform(0.4, 1.1) * (1 - 0.35 * disc)

    hue = body.uniform(0, 1)
    ground = np.array([0.80, 0.42, 0.20]) * (1 - hue) + np.array([0.70, 0.30, 0.11]) * hue
    ground = ground * np.exp(body.normal(0, [0.08, 0.14, 0.25]))
    choroid = 0.10 * canvas.texture(body, 4, 2) + body.uniform(0.02, 0.14) * canvas.texture(body, 18, 2)
    choroid += _harmless(canvas, body, frame)
    pigment = 0.75 * canvas.bump(u - macula[0], v - macula[1], 0.13) * body.uniform(0.5, 1.1)
    pigment += 0.35 * canvas.bump(u - macula[0], v - macula[1], 0.05)
    pigment -= 0.22 * canvas.bump(du, dv, 0.30, 0.36)  # nerve fibres around the disc shine
    takes = np.array([0.45, 0.85, 0.9], np.float32)[:, None, None]
    colour = ground.astype(np.float32)[:, None, None] * np.exp(-takes * (pigment + choroid))
    pale = np.array([0.98, 0.72, 0.38]) * np.exp(body.normal(0, [0.03, 0.05, 0.05]))
    white = np.array([1.0, 0.88, 0.62])
    rim = canvas.ridge(away - tall - 0.012, 0.02) * canvas.inside(du, 0.2) * body.uniform(0, 0.35)
    colour *= 1 - rim
    colour += disc * (pale.astype(np.float32)[:, None, None] * (1 - 0.12 * canvas.texture(body, 16)) - colour) * 0.9
    colour += cup * (white.astype(np.float32)[:, None, None] - colour) * body.uniform(0.45, 0.8)
    return _Retina(frame, aperture, field, vessels, disc, (mirror * macula[0], macula[1]), colour.astype(np.float32))


def _arcades(body: Random, disc: tuple[float, float], tall: float, wide: float) -> Tree:
    """The vessels of one kind: from the disc along the four arcades, and twigs towards the macula."""
    heading = np.deg2rad(np.array([-62, 62, -128, 128, -20, 22, 180]) + body.normal(0, 9, 7))
    bend = np.array([1.45, -1.45, -0.5, 0.5, -0.3, 0.3, 0.0]) * body.uniform(0.85, 1.2, 7)
    length = np.array([1.75, 1.75, 0.8, 0.8, 0.36, 0.36, 0.45]) * body.uniform(0.85, 1.1, 7)
    width = wide * np.array([1, 1, 0.75, 0.75, 0.4, 0.4, 0.4]) * body.uniform(0.85, 1.15, 7)
    start = np.array(disc) + tall * 0.15 * np.stack([np.cos(heading), np.sin(heading)], -1)
    return grow(body, start, heading, length, width, bend=bend, branches=(4, 2), spread=0.75, wander=0.07)


def _harmless(canvas: Canvas, body: Random, frame: Frame) -> Array:
    """Pigment of healthy eyes: dull pale drusen and blurred dark spots, so that neither brightness nor darkness is disease."""
    many = int(body.choice([0, 0, 4, 12, 25]))
    at = frame.place(body.normal([0.1, 0.0], 0.35, (many, 2)))
    drusen = canvas.dots(at[:, 0], at[:, 1], body.uniform(0.012, 0.03, many), body.uniform(0.1, 0.4, many))
    many = int(body.choice([0, 0, 1, 2, 4]))
    at = frame.place(body.uniform(-0.7, 0.7, (many, 2)))
    spots = canvas.dots(at[:, 0], at[:, 1], body.uniform(0.03, 0.09, many), body.uniform(0.2, 0.6, many))
    pigment: Array = spots - drusen.clip(0, 0.5)
    return pigment


def _lesions(canvas: Canvas, retina: _Retina, grade: int, disease: Random) -> tuple[Array, Array]:
    """Blood outside the vessels and bright deposits, each `(H, W)` in optical depth or share."""
    blood, deposits = np.zeros_like(retina.field), np.zeros_like(retina.field)
    if not grade:
        return blood, deposits

    def scatter(many: int) -> tuple[Array, Array]:
        radius, angle = 0.80 * np.sqrt(disease.random(many)), disease.uniform(0, 2 * np.pi, many)
        return radius * np.cos(angle), radius * np.sin(angle)

    dots = int(disease.integers(2, 4)) * grade + 2
    x, y = scatter(dots)
    blood += canvas.dots(x, y, disease.uniform(0.010, 0.017, dots), disease.uniform(0.7, 1.2, dots))
    if grade < 2:
        return blood, deposits
    blots = int(disease.integers(1, 3)) * (grade - 1) + 1
    x, y = scatter(blots)
    ragged = 0.024 * canvas.texture(disease, 16, 2)
    for i in range(blots):
        along_fibres = math.degrees(math.atan2(y[i], x[i])) + disease.normal(0, 25)
        along, thwart = Frame(along_fibres, right=x[i], down=y[i]).positions(canvas)
        stretch, size = disease.uniform(1, 2.0), disease.uniform(0.045, 0.085)
        shape = canvas.inside(size - np.hypot(along / stretch, thwart) + ragged, 0.025)
        blood = np.maximum(blood, disease.uniform(0.9, 1.3) * shape)
    clusters = 1 + (grade > 2) * int(disease.integers(0, 2))
    for x0, y0 in zip(*scatter(clusters), strict=True):
        grains = int(disease.integers(5, 14))
        ring, angle = disease.uniform(0.05, 0.13) * (1 + 0.25 * disease.standard_normal(grains)), disease.uniform(0, 5, grains)
        x, y = x0 + ring * np.cos(angle), y0 + ring * np.sin(angle)
        deposits += canvas.dots(x, y, disease.uniform(0.014, 0.028, grains), disease.uniform(0.5, 1.0, grains))
    if grade > 2:  # cotton wool spots
        many = int(disease.integers(1, 3))
        x, y = scatter(many)
        deposits += 0.55 * canvas.dots(x, y, disease.uniform(0.03, 0.05, many), np.ones(many))
    if grade > 3:  # blood in front of the retina settles to a level
        x0, y0 = (float(at[0]) for at in scatter(1))
        pool = disease.uniform(0.12, 0.18) - np.hypot(0.8 * (canvas.x - x0), canvas.y - y0) + ragged
        settled = canvas.y - y0 + 0.07 - 1.5 * (canvas.x - x0) ** 2
        blood = np.maximum(blood, 1.0 * canvas.inside(pool, 0.05) * canvas.inside(settled, 0.06))
    return blood, deposits.clip(0, 1)


def _photograph(canvas: Canvas, retina: _Retina, blood: Array, deposits: Array, chance: Chance) -> Array:
    """Light, lens and sensor, with what they leave on healthy and sick alike."""
    pose = chance.pose
    blood = (0.85 * retina.vessels + blood * (1 - retina.disc)).clip(0, 1.6)
    light = retina.colour * np.exp(-_BLOOD * blood)
    exudate = np.array([0.98, 0.84, 0.46], np.float32)[:, None, None]
    light += deposits * (exudate - light) * 0.9

    across, down = canvas.x - pose.normal(0, 0.25), canvas.y - pose.normal(0, 0.2)
    falloff = np.exp(-pose.uniform(0.25, 0.8) * (across**2 + down**2))
    falloff *= 1 + 0.06 * canvas.texture(pose, 3)
    veil = pose.exponential(0.035)
    light = light * falloff + veil * np.array([0.8, 0.65, 0.5], np.float32)[:, None, None]
    if pose.random() < 0.3:  # a crescent of stray light at the rim
        angle, width = pose.uniform(0, 2 * np.pi), pose.uniform(0.06, 0.14)
        towards = canvas.x * math.cos(angle) + canvas.y * math.sin(angle)
        crescent = canvas.ridge(retina.field - 0.97, width) * canvas.inside(towards - 0.5, 0.5)
        light += pose.uniform(0.1, 0.35) * crescent * np.array([0.7, 0.8, 0.9], np.float32)[:, None, None]
    if pose.random() < 0.5:  # the glints of a young retina: white, where deposits are yellow
        many = int(pose.integers(3, 14))
        x, y = pose.uniform(-0.65, 0.65, (2, many))
        glints = canvas.dots(x, y, pose.uniform(0.014, 0.04, many), pose.uniform(0.1, 0.45, many))
        light += glints * np.array([0.55, 0.6, 0.55], np.float32)[:, None, None]
    if pose.random() < 0.35:  # dust on the lens, out of focus
        many = int(pose.integers(1, 5))
        x, y = pose.uniform(-0.8, 0.8, (2, many))
        light *= 1 - canvas.dots(x, y, pose.uniform(0.02, 0.05, many), pose.uniform(0.05, 0.2, many)).clip(0, 0.4)
    light = canvas.blur(light, pose.uniform(0.002, 0.012))
    light = light * np.exp(pose.normal(0, 0.16) + pose.normal(0, [0.03, 0.06, 0.12])).astype(np.float32)[:, None, None]
    shown = 1 - np.exp(-1.35 * light.clip(0, None))
    shown = (1.15 * shown) ** math.exp(pose.normal(0.1, 0.12)) * retina.aperture
    grain = chance.film.standard_normal(shown.shape, dtype=np.float32)
    noisy: Array = (shown + pose.uniform(0.004, 0.028) * grain * (0.15 + retina.aperture)).clip(0, 1).astype(np.float32)
    return noisy
