"""Frontal chest radiographs: brightness is the attenuation along the ray, summed over the parts it meets.

Coordinates: u from the patient's right (-1, left side of the picture) to left, v from the neck (-1) to the belly (1).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from antivenom.data.phantoms.canvas import Array, Canvas, Frame, Random
from antivenom.data.phantoms.cohort import Chance
from antivenom.data.phantoms.scan import Scan
from antivenom.data.phantoms.vessels import grow
from antivenom.task import Task

FINDINGS = ("consolidation", "effusion", "nodule")
TASKS = {
    "pneumonia": Task(("normal", "pneumonia")),
    "findings": Task(FINDINGS, multilabel=True),
}

# Half-width of the trunk from the neck down to the waist.
_TRUNK_AT = np.array([-1.5, -1.0, -0.88, -0.78, -0.66, -0.45, -0.15, 0.2, 0.7, 1.5], np.float32)
_TRUNK = np.array([0.26, 0.29, 0.38, 0.70, 0.98, 1.08, 1.0, 0.95, 0.96, 1.0], np.float32)


@dataclass(frozen=True)
class _Cage:
    """The rib cage, and how far the lungs reach down."""

    widest: float
    apex: float
    level: float

    def wall(self, v: Array) -> Array:
        """Half-width of the cage at a height."""
        above, below = ((0.32 - v) / (0.32 - self.apex)).clip(0, 1), (v - 0.32).clip(0, 1)
        wall: Array = self.widest * np.sqrt((1 - above**2 * np.sqrt(above)).clip(1e-4, 1)) * (1 - 0.1 * below)
        return wall

    def spot(self, disease: Random) -> tuple[float, float]:
        """A place (u, v) in either lung, clear of the heart and of the borders."""
        v = disease.uniform(self.apex + 0.22, self.level - 0.06)
        right = disease.random() < 0.5
        share = disease.uniform(0.36 if right or v < 0 else 0.6, 0.80)
        return float((-1 if right else 1) * share * self.wall(np.array(v))), v


@dataclass(frozen=True)
class _Thorax:
    """The healthy chest: what diseases need to know of it."""

    frame: Frame
    u: Array
    v: Array
    cage: _Cage
    lung: Array  # share of air along the ray, in [0, 1]
    density: Array


def draw(canvas: Canvas, task: str, target: Array, chance: Chance) -> Scan:
    """Draw one radiograph.

    Args:
        canvas: where to draw.
        task: a key of `TASKS`.
        target: class index, or present and absent for each of `FINDINGS`.
        chance: the picture's random streams.
    """
    thorax = _thorax(canvas, chance.body, chance.pose)
    present = target if task == "findings" else (target, 0, 0)
    added, mask = np.zeros_like(thorax.density), np.zeros(thorax.density.shape, dtype=bool)
    for finding, here in zip((_consolidation, _effusion, _nodule), present, strict=True):
        if here:
            opacity = finding(canvas, thorax, chance.disease)
            added, mask = np.maximum(added, opacity), mask | (opacity > 0.5 * opacity.max())
    film = _exposed(canvas, thorax.density + added + _devices(canvas, chance.pose), chance)
    return Scan(film[None], mask)


def _thorax(canvas: Canvas, body: Random, pose: Random) -> _Thorax:
    frame = Frame(pose.normal(0, 4), pose.uniform(0.92, 1.20), pose.normal(0, 0.06), pose.normal(0.0, 0.06))
    u, v = frame.positions(canvas)
    u = u + 0.012 * canvas.texture(body, 5)
    v = v + 0.012 * canvas.texture(body, 5)
    across, left = np.abs(u), (u > 0).astype(np.float32)

    # Rib cage, diaphragm, mediastinum: their common complement is lung.
    level = pose.normal(0.40, 0.06)
    cage = _Cage(body.uniform(0.70, 0.80), body.uniform(-0.74, -0.64), level)
    wall = cage.wall(v)
    depth = (1 - (across / wall) ** 2).clip(0, 1)
    dome = level + body.normal(0.05, 0.02) * left
    bulge = (across - body.uniform(0.30, 0.36)) / 0.40
    floor = dome + body.uniform(0.11, 0.18) * bulge**2 * (1 + 0.6 * bulge)
    above_floor = canvas.inside(floor - v, 0.03)

    knob = 0.05 * np.exp(-(((v + 0.36) / 0.085) ** 2)) + 0.03 * np.exp(-(((v + 0.17) / 0.09) ** 2))
    atrium = 0.09 * np.exp(-(((v - 0.22) / 0.2) ** 2))
    column = body.uniform(0.10, 0.135) + atrium + left * (knob - atrium) + 0.05 * np.exp(-(((v + 0.75) / 0.25) ** 2))
    beside = canvas.inside(across - column, 0.035)
    heart_u, heart_v = u - body.uniform(0.10, 0.15), v - (level - body.uniform(0.09, 0.14))
    tilt, reach = body.uniform(0.45, 0.75), body.uniform(0.30, 0.41)
    along, thwart = heart_u * math.cos(tilt) + heart_v * math.sin(tilt), heart_v * math.cos(tilt) - heart_u * math.sin(tilt)
    within = 0.25 * (1 - np.hypot(along / reach, thwart / (0.74 * reach)))
    heart = canvas.inside(within, 0.03)
    lung = np.sqrt(depth) * above_floor * beside * (1 - 0.88 * heart)

    # Soft tissue.
    trunk = np.interp(v, _TRUNK_AT, _TRUNK * body.uniform(0.96, 1.1)).astype(np.float32)
    flesh = np.sqrt(np.sqrt((1 - (across / trunk) ** 2).clip(0, 1)))
    density = flesh * (0.66 + 0.05 * canvas.texture(body, 4))
    density += 0.10 * canvas.inside(v - floor, 0.05) * depth
    # Rotation and cut-off of the grid whiten one lung, or one end of both, evenly; disease does it in patches.
    uneven = pose.normal(0, 0.14) * u + pose.normal(0, 0.12) * v
    density -= (body.uniform(0.36, 0.54) + uneven) * lung
    density += 0.05 * canvas.inside(within - 0.06, 0.16) * above_floor  # thickest, hence whitest, in its middle
    density += 0.09 * canvas.bump(u, 0 * v, 0.11)
    if body.random() < 0.5:  # breasts: haze over the lower lungs that ends in a soft arc
        size, at, droop = body.uniform(0.26, 0.42), body.uniform(0.40, 0.52), body.uniform(0.12, 0.35)
        ball = (1 - ((across - at) / size) ** 2 - ((v - droop) / (0.9 * size)) ** 2).clip(0, 1)
        density += body.uniform(0.06, 0.20) * np.sqrt(ball)
    if body.random() < 0.6:  # gas in the stomach
        gas = canvas.bump(u - body.uniform(0.28, 0.42), v - level - body.uniform(0.16, 0.24), 0.10, body.uniform(0.04, 0.08))
        density -= 0.16 * gas * (1 - above_floor)

    density += _bones(canvas, body, u, v, across, wall, flesh) * (0.55 + 0.45 * above_floor)
    airway = canvas.inside(0.032 - np.abs(u - 0.01), 0.03) * canvas.inside(-0.24 - v, 0.1)
    density -= 0.10 * airway * flesh
    density += _markings(canvas, body, frame, lung)
    return _Thorax(frame, u, v, cage, lung, density)


def _bones(canvas: Canvas, body: Random, u: Array, v: Array, across: Array, wall: Array, flesh: Array) -> Array:
    share = (across / wall).clip(0, 1.15)
    caged = canvas.inside(1.06 - across / wall, 0.12)
    pitch = body.uniform(0.118, 0.138)
    # Ribs are one rib repeated: the fraction of the phase is the place across the rib.
    shift = np.float32(0.35 * body.random()) * (u > 0)
    rear = (v + 0.10 * share - body.uniform(0.30, 0.42) * share**2 * np.sqrt(share)) / pitch + shift
    front = (v + body.uniform(0.42, 0.58) * share * np.sqrt(share) - 0.1 * share**2) / (1.25 * pitch) + body.random()
    bones = np.zeros_like(u)
    for phase, gap, height, shown in (
        (rear, pitch, 0.058, canvas.inside(across - 0.09, 0.06) * (0.75 + 0.5 * share**2)),
        (front, 1.25 * pitch, 0.036, canvas.inside(share - 0.42, 0.25)),
    ):
        middle = np.abs(phase - np.floor(phase) - 0.5) * gap
        half = 0.26 * gap
        plate = canvas.inside(half - middle, 0.02) + 0.5 * canvas.ridge(middle - half, 0.008)
        bones += height * plate * shown
    bones *= caged * canvas.inside(0.85 - v, 0.3) * canvas.inside(v + 0.72, 0.1)

    # Spine: a column with a darker disc between vertebrae and a spinous process in each.
    beat = v / (0.92 * pitch)
    step = beat - np.floor(beat) - 0.5
    column = canvas.inside(0.072 - across, 0.025)
    bones += 0.05 * column * (1 - 0.6 * canvas.ridge(np.abs(step) - 0.5, 0.09)) * flesh
    bones += 0.05 * np.exp(-((u / 0.014) ** 2)) * np.exp(-((step / 0.22) ** 2)) * flesh

    # Clavicles and the heads of the humeri.
    slope, height = body.uniform(0.10, 0.22), body.uniform(-0.58, -0.50)
    out = ((across - 0.07) / 0.72).clip(0, 1)
    above = v - (height - slope * out + 0.035 * np.sin(2 * np.pi * out))
    clavicle = canvas.inside(0.026 - np.abs(above), 0.015) + 0.5 * canvas.ridge(np.abs(above) - 0.026, 0.008)
    bones += 0.10 * clavicle * canvas.inside(across - 0.075, 0.02) * canvas.inside(0.80 - across, 0.05)
    head = canvas.inside(0.12 - np.hypot(across - body.uniform(0.90, 0.98), v - height + 0.10), 0.03)
    bones += 0.10 * head * flesh
    # Scapulae: a thin blade lateral to the lungs with a denser inner border.
    blade = across - body.uniform(0.66, 0.74) - 0.25 * (v + 0.2) ** 2
    bones += 0.035 * canvas.inside(blade, 0.02) * canvas.inside(0.12 - np.abs(v + 0.22) * 0.3, 0.04) * flesh
    return bones


def _markings(canvas: Canvas, body: Random, frame: Frame, lung: Array) -> Array:
    """Vessels of the lungs, from the hila outward, and the fine texture between them."""
    per_side = 9
    fan = np.linspace(-1.25, 1.25, per_side) + body.normal(0, 0.1, per_side)
    roots = np.stack([np.full(per_side, 0.15), -0.06 + 0.07 * np.linspace(-1, 1, per_side)], -1)
    start = np.concatenate([roots, roots * [-1, 1]])
    heading = np.concatenate([fan + 0.15, np.pi - fan - 0.15])
    length = body.uniform(0.40, 0.62, 2 * per_side)
    width = body.uniform(0.012, 0.018, 2 * per_side)
    tree = grow(body, start, heading, length, width, branches=(3, 1), spread=0.6, wander=0.12, points=9)
    drawn = canvas.strokes(frame.place(tree.paths), tree.width, np.ones_like(tree.width))
    hila = frame.place(np.array([[0.16, -0.03], [0.18, 0.05], [-0.17, -0.01], [-0.18, 0.08], [0.15, -0.1], [-0.14, -0.09]]))
    drawn += canvas.dots(hila[:, 0], hila[:, 1], np.full(6, 0.05), body.uniform(0.5, 1.2, 6))
    vascular: Array = np.sqrt(lung) * (0.085 * drawn.clip(0, 2.5) + 0.022 * canvas.texture(body, 14, 3))
    return vascular


def _consolidation(canvas: Canvas, thorax: _Thorax, disease: Random) -> Array:
    """One or two patches of filled alveoli: cloudy margins, airways still dark within."""
    cloud = 0.55 * canvas.texture(disease, 9, 3)
    patches = np.zeros_like(thorax.u)
    for _ in range(disease.integers(1, 3)):
        u, v = thorax.cage.spot(disease)
        reach = disease.uniform(0.17, 0.26)
        away = np.hypot((thorax.u - u) / disease.uniform(0.8, 1.2), thorax.v - v) / reach
        patches = np.maximum(patches, canvas.inside(0.9 - away + 0.45 * cloud, 0.55) * disease.uniform(0.85, 1))
        angle = disease.uniform(0, 2 * np.pi, 4)
        outward = reach * np.stack([np.cos(angle), np.sin(angle)], -1)
        airway = np.stack([np.array([u, v]) + share * outward for share in (0, 0.4, 0.8)], 1)
        patches *= 1 - 0.35 * canvas.strokes(thorax.frame.place(airway), np.full((4, 3), 0.012), np.ones((4, 3))).clip(0, 1)
    opacity: Array = disease.uniform(0.36, 0.46) * patches * np.sqrt(thorax.lung) * (1 + 0.15 * cloud).clip(0.5, 1.5)
    return opacity


def _effusion(canvas: Canvas, thorax: _Thorax, disease: Random) -> Array:
    """Fluid that blunts one costophrenic angle and climbs the wall."""
    right = disease.random() < 0.5
    across = -thorax.u if right else thorax.u
    surface = thorax.cage.level - disease.uniform(-0.02, 0.22) - 1.1 * (across - 0.42).clip(0, 1)
    filled = canvas.inside(thorax.v - surface, 0.10) * canvas.inside(across, 0.05)
    return disease.uniform(0.30, 0.40) * filled * np.sqrt(thorax.lung)


def _nodule(canvas: Canvas, thorax: _Thorax, disease: Random) -> Array:
    """A round density with a fairly sharp rim."""
    u, v = thorax.cage.spot(disease)
    reach = disease.uniform(0.055, 0.10)
    away = np.hypot(thorax.u - u, thorax.v - v) + 0.008 * canvas.texture(disease, 12)
    return disease.uniform(0.22, 0.30) * canvas.inside(reach - away, 0.05) * np.sqrt(np.sqrt(thorax.lung))


def _devices(canvas: Canvas, pose: Random) -> Array:
    """Leads, electrodes, tubes and the side marker: they lie on healthy and sick alike."""
    drawn = np.zeros((canvas.size, canvas.size), np.float32)
    many = int(pose.integers(0, 4)) if pose.random() < 0.5 else 0
    if many:
        ends = np.stack([pose.uniform(-0.7, 0.7, many), pose.uniform(-0.3, 0.6, many)], -1)
        begin = np.stack([pose.uniform(-0.9, 0.9, many), np.full(many, -1.05)], -1)
        along = np.linspace(0, 1, 16)[None, :, None]
        sag = pose.normal(0, 0.25, (many, 1, 2)) * np.sin(np.pi * along)
        leads = begin[:, None] * (1 - along) + ends[:, None] * along + sag
        drawn += 0.16 * canvas.strokes(leads, np.full((many, 16), 0.007), np.ones((many, 16)))
        drawn += 0.2 * canvas.dots(ends[:, 0], ends[:, 1], np.full(many, 0.022), np.ones(many))
    if pose.random() < 0.15:  # a pacemaker below one clavicle
        side, x, y = (1 if pose.random() < 0.5 else -1), pose.uniform(0.48, 0.62), pose.uniform(-0.36, -0.26)
        drawn += 0.35 * canvas.inside(0.085 - np.hypot(canvas.x - side * x, 1.25 * (canvas.y - y)), 0.01)
    x, y, tall = (1 if pose.random() < 0.5 else -1) * pose.uniform(0.78, 0.9), pose.uniform(-0.92, -0.78), 0.05
    letter = np.array([[[-0.5, -1], [-0.5, 0], [-0.5, 1]], [[-0.5, 1], [0.1, 1], [0.7, 1]]]) * tall + [x, y]
    if pose.random() < 0.6:
        drawn += 0.5 * canvas.strokes(letter, np.full((2, 3), 0.009), np.ones((2, 3)))
    return drawn


def _exposed(canvas: Canvas, density: Array, chance: Chance) -> Array:
    """The film: scatter, unsharpness, window and noise."""
    pose = chance.pose
    density = density + 0.05 * canvas.texture(pose, 2)
    density = 0.85 * density + 0.15 * canvas.blur(density, 0.12)
    density = canvas.blur(density, pose.uniform(0.003, 0.012))
    low, high = pose.normal(0.06, 0.05), pose.normal(0.98, 0.07)
    shown = ((density - low) / (high - low)).clip(0, 1.15)
    shown = shown ** math.exp(pose.normal(0, 0.22))
    shown = np.tanh(1.25 * shown) / math.tanh(1.25 * 1.05)
    if pose.random() < 0.3:  # collimator
        edge = pose.uniform(0.90, 0.99, 4).tolist()
        shown = shown * canvas.inside(np.minimum(edge[0] - canvas.x, edge[1] + canvas.x), 0.02)
        shown = shown * canvas.inside(np.minimum(edge[2] - canvas.y, edge[3] + canvas.y), 0.02)
    grain = chance.film.standard_normal(shown.shape, dtype=np.float32)
    noisy: Array = (shown + pose.uniform(0.005, 0.018) * grain).clip(0, 1).astype(np.float32)
    return noisy
