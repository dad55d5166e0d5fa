"""What lies on a scan or is burned into it: pins, dust, hair, rulers, markers, text, collimators, bubbles, flare, tubes.

Each is a pure function of images `(B, C, H, W)` in [0, 1], a strength and the images' own luck, and gives a `Drawn`: the
images, and where something was drawn, so that attention on it can be measured. What is drawn, where and how it is turned
follows from the luck alone; strength says how large it is, how many there are or, of flare, how bright it is, so that two
strengths with one luck show the same pin.

Lengths are shares of the shorter side at every size: an object is as large as the patient beside it. Colour images get an
object's colour, grey ones its luminance.

Wasserman, "Adversarially Robust Medical Classification via Attentive Convolutional Neural Networks", 2022,
https://arxiv.org/abs/2210.14405, names an orthopaedic pin and a speck of dust as natural artefacts.
Winkler, Fink, Toberer et al., "Association Between Surgical Skin Markings in Dermoscopic Images and Diagnostic Performance of a
Deep Learning Convolutional Neural Network for Melanoma Recognition", JAMA Dermatology 2019,
https://doi.org/10.1001/jamadermatol.2019.1735
Zech, Badgeley, Liu et al., "Variable generalization performance of a deep learning model to detect pneumonia in chest
radiographs", PLOS Medicine 2018, https://doi.org/10.1371/journal.pmed.1002683: laterality markers give the hospital away.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from antivenom.corruptions.canvas import Canvas, Point, curve
from antivenom.corruptions.grey import ink
from antivenom.randomness import Draws

Luck = list[list[float]]  # for each thing that may be drawn, numbers from [0, 1)
Sketch = Callable[[Canvas, Luck], None]
MOST = 64  # things of one kind on one image
TURNS = 14  # of a screw's thread

WHITE, BLACK = (0.97, 0.97, 0.97), (0.03, 0.03, 0.03)
BROWN = (0.17, 0.11, 0.08)  # hair
LAMP = (1.0, 0.97, 0.88)  # the camera's own light


@dataclass(frozen=True)
class Drawn:
    """Images with something on them.

    Attributes:
        images: `(B, C, H, W)` in [0, 1].
        mask: `(B, 1, H, W)` in [0, 1], how much of a pixel the thing or its shadow covers; where it is 0 nothing changed.
    """

    images: Tensor
    mask: Tensor


def pin(images: Tensor, length: float, draws: Draws) -> Drawn:
    """Lay an orthopaedic screw or wire of a length over a radiograph: white, with a soft edge and the dark rim around metal.

    The rim is what edge enhancement leaves beside metal. Where the pin lies, its angle, and whether it is a screw with head and
    thread or a smooth wire, is drawn.
    """
    metal = _covers(images, draws, lambda sheet, luck: _pin(sheet, length, luck[0]), soft=0.0015)
    glow = _covers(images, draws, lambda sheet, luck: _pin(sheet, length, luck[0]), soft=0.003 + 0.02 * length)
    rim = glow * (1 - metal)
    dimmed = images * (1 - 0.5 * rim)
    thick = metal * (0.75 + 0.22 * glow)  # a round rod stops most in its middle
    return Drawn(_painted(dimmed, thick, ink(images, WHITE)), metal.maximum(glow))


def plate_dust(images: Tensor, count: float, draws: Draws) -> Drawn:
    """Strew sharp white specks and lint over a radiograph, as dust on an imaging plate leaves them."""
    cover = _covers(images, draws, lambda sheet, luck: _specks(sheet, luck[: round(count)], 0.002, 0.006))
    return Drawn(_painted(images, 0.85 * cover, ink(images, WHITE)), cover)


def lens_dust(images: Tensor, count: float, draws: Draws) -> Drawn:
    """Strew dark, soft spots over a photograph, as dust near the lens leaves them: out of focus."""
    cover = _covers(images, draws, lambda sheet, luck: _specks(sheet, luck[: round(count)], 0.008, 0.018), soft=0.006)
    return Drawn(_painted(images, 0.6 * cover, ink(images, BLACK)), cover)


def hair(images: Tensor, count: float, draws: Draws) -> Drawn:
    """Lay dark hairs over a lesion, roughly along one direction and slightly bent."""
    cover = _covers(images, draws, lambda sheet, luck: _hairs(sheet, luck, round(count)))
    return Drawn(_painted(images, 0.85 * cover, ink(images, BROWN)), cover)


def ruler(images: Tensor, length: float, draws: Draws) -> Drawn:
    """Draw the dark marks of a ruler along one side, every fifth longer; `length` is that of a long mark."""
    cover = _covers(images, draws, lambda sheet, luck: _ruler(sheet, length, luck[0]))
    return Drawn(_painted(images, 0.8 * cover, ink(images, BLACK)), cover)


def laterality_marker(images: Tensor, height: float, draws: Draws) -> Drawn:
    """Set a white R at the upper left or an L at the upper right, as lead letters on a cassette show; the patient faces us."""
    cover = _covers(images, draws, lambda sheet, luck: _letter(sheet, height, luck[0]), soft=0.001)
    return Drawn(_painted(images, 0.95 * cover, ink(images, WHITE)), cover)


def burned_in_text(images: Tensor, height: float, draws: Draws) -> Drawn:
    """Burn three lines of white text into a corner, as a viewer or a secondary capture does; it names nobody."""
    cover = _covers(images, draws, lambda sheet, luck: _text(sheet, height, luck[0]))
    return Drawn(_painted(images, cover, ink(images, WHITE)), cover)


def collimation(images: Tensor, share: float, draws: Draws) -> Drawn:
    """Close the collimator over up to a share of the field on each side: black, slightly turned, with a penumbra."""
    cover = _covers(images, draws, lambda sheet, luck: _shutters(sheet, share, luck[0]), soft=0.003)
    return Drawn(_painted(images, cover, ink(images, BLACK)), cover)


def gel_bubbles(images: Tensor, radius: float, draws: Draws) -> Drawn:
    """Leave bubbles in the gel between skin and lens, the largest of a radius: dark rim, bright arc, a glint of the lamp."""
    dark = _covers(images, draws, lambda sheet, luck: _bubbles(sheet, radius, luck, _rim), soft=0.002)
    light = _covers(images, draws, lambda sheet, luck: _bubbles(sheet, radius, luck, _glint), soft=0.003)
    shaded = _painted(images, 0.4 * dark, ink(images, BROWN))
    return Drawn(_painted(shaded, 0.6 * light, ink(images, LAMP)), dark.maximum(light))


def lens_flare(images: Tensor, opacity: float, draws: Draws) -> Drawn:
    """Let stray light of the lamp fall on a part of a photograph: a bright haze from one side and a spot.

    The black surround of a fundus photograph is a mask behind the lens and stays black.
    """
    haze = _covers(images, draws, lambda sheet, luck: _haze(sheet, luck[0]), soft=0.09)
    lit = haze * ((images.amax(1, keepdim=True) - 0.05) / 0.1).clamp(0, 1)
    return Drawn(_painted(images, opacity * lit, ink(images, LAMP)), lit)


def tubes(images: Tensor, count: float, draws: Draws) -> Drawn:
    """Lay tubes and leads over a chest: a faint wall with a stripe, down from the neck; leads from a side to an electrode."""
    wall = _covers(images, draws, lambda sheet, luck: _tubes(sheet, luck[: round(count)], _wall), soft=0.0015)
    bright = _covers(images, draws, lambda sheet, luck: _tubes(sheet, luck[: round(count)], _stripe), soft=0.0015)
    seen = _painted(images, 0.25 * wall, ink(images, WHITE))
    return Drawn(_painted(seen, 0.6 * bright, ink(images, WHITE)), wall.maximum(bright))


def _covers(images: Tensor, draws: Draws, sketch: Sketch, soft: float = 0.0) -> Tensor:
    """What a sketch covers on each image, `(B, 1, H, W)`; always as many numbers are drawn, however many things are shown."""
    found = []
    for luck in draws.uniform(MOST, 8).tolist():
        sheet = Canvas(*images.shape[-2:])
        sketch(sheet, luck)
        found.append(sheet.cover(soft))
    return torch.stack(found)[:, None].to(images)


def _painted(images: Tensor, cover: Tensor, colour: Tensor) -> Tensor:
    return (images + cover * (colour - images)).clamp(0, 1)


def _between(low: float, high: float, luck: float) -> float:
    return low + (high - low) * luck


def _turned(points: Sequence[Point], middle: Point, angle: float) -> list[Point]:
    """Points around an origin, turned and moved to a place."""
    cos, sin = math.cos(angle), math.sin(angle)
    return [(middle[0] + cos * x - sin * y, middle[1] + sin * x + cos * y) for x, y in points]


def _pin(sheet: Canvas, length: float, luck: list[float]) -> None:
    middle = sheet.right * _between(0.3, 0.7, luck[0]), sheet.bottom * _between(0.3, 0.7, luck[1])
    angle, end = 2 * math.pi * luck[2], length / 2
    if luck[3] < 1 / 3:  # a Kirschner wire: thin, smooth, pointed
        half = 0.012 * length + 0.001
        outline = [(-end, -half), (end - 3 * half, -half), (end, 0.0), (end - 3 * half, half), (-end, half)]
    else:
        half = 0.035 * length
        first, last = -0.2 * length, end - 3 * half
        # The thread's edges are a zigzag, half a turn apart on the two sides.
        steps = [first + (last - first) * k / TURNS / 2 for k in range(2 * TURNS + 1)]
        above = [(t, -half * (1.4 if k % 2 else 0.9)) for k, t in enumerate(steps)]
        below = [(t, half * (0.9 if k % 2 else 1.4)) for k, t in enumerate(steps)]
        head = [(-end, 2.2 * half), (-end + 2 * half, 2.2 * half), (-end + 3 * half, half)]
        outline = [*((x, -y) for x, y in head), *above, (end, 0.0), *reversed(below), *reversed(head)]
    sheet.area(_turned(outline, middle, angle))


def _specks(sheet: Canvas, luck: Luck, least: float, most: float) -> None:
    for across, down, size, aspect, angle, bent, lint, _ in luck:
        at, radius = (sheet.right * across, sheet.bottom * down), _between(least, most, size**2)
        if lint < 0.15:
            ends = [(-5 * radius, 0.0), (0.0, 5 * radius * (2 * bent - 1)), (5 * radius, 0.0)]
            sheet.line(_turned(curve(ends, 16), at, 2 * math.pi * angle), 0.5 * radius)
            continue
        # Seven corners at distances that are not alike make it no disc.
        corners = [(2 * math.pi * k / 7, radius * (0.7 + 0.5 * math.modf(9.7 * k * (bent + 0.1))[0])) for k in range(7)]
        outline = [(far * math.cos(turn), far * math.sin(turn) * _between(0.5, 1, aspect)) for turn, far in corners]
        sheet.area(_turned(outline, at, 2 * math.pi * angle))


def _hairs(sheet: Canvas, luck: Luck, count: int) -> None:
    along = math.pi * luck[-1][0]
    for across, down, turn, length, bend, thick, sway, _ in luck[:count]:
        half = _between(0.25, 0.65, length)
        bends = half * 0.5 * (2 * bend - 1), half * 0.5 * (2 * sway - 1)
        ends = [(-half, 0.0), (-half / 3, bends[0]), (half / 3, bends[1]), (half, 0.0)]
        middle = sheet.right * across, sheet.bottom * down
        sheet.line(_turned(curve(ends), middle, along + 1.2 * (turn - 0.5)), _between(0.003, 0.007, thick))


def _ruler(sheet: Canvas, length: float, luck: list[float]) -> None:
    pitch, thick = _between(0.03, 0.045, luck[1]), 0.0025 + 0.02 * length
    margin, side = 0.02, int(4 * luck[0])
    longest = sheet.right if side < 2 else sheet.bottom
    for k in range(math.floor((longest - 2 * margin) / pitch) + 1):
        place, reach = margin + k * pitch, margin + length * (1.0 if k % 5 == 0 else 0.55)
        ends = {
            0: [(place, margin), (place, reach)],
            1: [(place, sheet.bottom - margin), (place, sheet.bottom - reach)],
            2: [(margin, place), (reach, place)],
            3: [(sheet.right - margin, place), (sheet.right - reach, place)],
        }[side]
        sheet.line(ends, thick)


def _letter(sheet: Canvas, height: float, luck: list[float]) -> None:
    inset, top = _between(0.03, 0.12, luck[1]), _between(0.03, 0.12, luck[2])
    if luck[0] < 0.5:
        sheet.write("R", (inset, top), height, "la", bold=0.05)
    else:
        sheet.write("L", (sheet.right - inset, top), height, "ra", bold=0.05)


def _text(sheet: Canvas, height: float, luck: list[float]) -> None:
    year, month, day = 2005 + int(20 * luck[4]), 1 + int(12 * luck[5]), 1 + int(28 * luck[6])
    hour, minute = int(24 * luck[2]), int(60 * luck[3])
    lines = f"{day:02}.{month:02}.{year}\n{hour:02}:{minute:02}\nIm: {1 + int(40 * luck[1])}/40"
    left, top = luck[0] < 0.5, luck[7] < 0.5
    at = 0.02 if left else sheet.right - 0.02, 0.02 if top else sheet.bottom - 0.02
    sheet.write(lines, at, height, ("l" if left else "r") + ("a" if top else "d"))


def _shutters(sheet: Canvas, share: float, luck: list[float]) -> None:
    left, right, top, bottom = (share * _between(0.4, 1, number) for number in luck[:4])
    far = sheet.right + sheet.bottom
    sheet.area([(-far, -far), (far, -far), (far, far), (-far, far)])
    middle, angle = (sheet.right / 2, sheet.bottom / 2), 0.4 * share * (2 * luck[4] - 1)
    x0, x1 = sheet.right * (left - 0.5), sheet.right * (0.5 - right)
    y0, y1 = sheet.bottom * (top - 0.5), sheet.bottom * (0.5 - bottom)
    sheet.area(_turned([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], middle, angle), clear=True)


def _bubbles(sheet: Canvas, radius: float, luck: Luck, part: Callable[[Canvas, Point, float, float], None]) -> None:
    for k, (across, down, size, turn, *_) in enumerate(luck[:6]):
        share = 1.0 if k == 0 else _between(0.12, 0.6, size)
        part(sheet, (sheet.right * across, sheet.bottom * down), radius * share, 2 * math.pi * turn)


def _rim(sheet: Canvas, at: Point, radius: float, turn: float) -> None:  # noqa: ARG001 - the same all around
    sheet.disc(at, radius)
    sheet.disc(at, 0.88 * radius, clear=True)


def _glint(sheet: Canvas, at: Point, radius: float, turn: float) -> None:
    arc = [(0.78 * radius * math.cos(k / 16), 0.78 * radius * math.sin(k / 16)) for k in range(-16, 17)]
    sheet.line(_turned(arc, at, turn), 0.1 * radius)
    sheet.disc(_turned([(-0.45 * radius, 0.0)], at, turn)[0], 0.1 * radius)


def _haze(sheet: Canvas, luck: list[float]) -> None:
    turn, near = 2 * math.pi * luck[0], _between(0.55, 0.75, luck[1])
    middle = sheet.right / 2, sheet.bottom / 2
    sheet.disc(_turned([(near, 0.0)], middle, turn)[0], _between(0.25, 0.4, luck[2]))
    sheet.disc(_turned([(-_between(0.05, 0.3, luck[3]), 0.0)], middle, turn)[0], _between(0.05, 0.09, luck[4]))


def _tubes(sheet: Canvas, luck: Luck, part: Callable[[Canvas, list[Point], bool], None]) -> None:
    for start, end, deep, bend, sway, kind, _, _ in luck:
        lead = kind < 0.5
        if lead:
            first = sheet.right * round(start), sheet.bottom * _between(0.05, 0.95, bend)
            last = sheet.right * _between(0.15, 0.85, end), sheet.bottom * _between(0.15, 0.85, deep)
            bends = [(sheet.right * _between(0.3, 0.7, sway), first[1]), (first[0], last[1])]
        else:
            first = sheet.right * _between(0.42, 0.58, start), -0.02
            last = sheet.right * _between(0.35, 0.65, end), sheet.bottom * _between(0.35, 0.95, deep)
            bends = [(first[0] + 0.15 * (bend - 0.5), 0.4 * last[1]), (last[0] + 0.4 * (sway - 0.5), 0.75 * last[1])]
        part(sheet, curve([first, *bends, last]), lead)


def _wall(sheet: Canvas, way: list[Point], lead: bool) -> None:
    sheet.line(way, 0.005 if lead else 0.02)
    if lead:
        sheet.disc(way[-1], 0.028)


def _stripe(sheet: Canvas, way: list[Point], lead: bool) -> None:
    sheet.line(way, 0.003 if lead else 0.004)
    if lead:
        sheet.disc(way[-1], 0.012)
