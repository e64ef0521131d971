"""Drawing scanned digits into a scene."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

#: Ink of at least this much covers a pixel: boxes and overlaps are measured there.
_INK = 0.3


@dataclass(frozen=True)
class SceneSettings:
    """What a set of scenes is made of; equal settings give equal pictures.

    Args:
        train: Number of training scenes.
        val: Number of validation scenes, whose digits no training scene shows.
        size: Height and width of a scene, in pixels.
        digits: Fewest and most digits in a scene; 0 makes some scenes empty.
            Where no room is left for one more, a scene gets fewer.
        side: Smallest and largest height of a digit, in pixels.
        overlap: How much of a digit's box another's may cover, from 0 to 1.
        clutter: Most strokes, and most pieces of other digits, behind a scene.
        noise: Deviation of the camera's noise, in grey levels.
        seed: Seed of everything. Scene ``i`` depends on no other one, so that a
            larger set begins with the smaller one.
    """

    train: int = 600
    val: int = 200
    size: int = 128
    digits: tuple[int, int] = (1, 6)
    side: tuple[int, int] = (16, 48)
    overlap: float = 0.25
    clutter: int = 6
    noise: float = 8.0
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what no scene can be made of.

        Raises:
            ValueError: Naming the setting.
        """
        for name, value, holds, right in (
            ('train', self.train, self.train > 0, 'a number of scenes, at least 1'),
            ('val', self.val, self.val > 0, 'a number of scenes, at least 1'),
            ('digits', self.digits, 0 <= self.digits[0] <= self.digits[1], '0 <= fewest <= most'),
            ('side', self.side, 8 <= self.side[0] <= self.side[1], '8 <= smallest <= largest'),
            ('size', self.size, self.size > self.side[1], f'more than side={self.side}'),
            ('overlap', self.overlap, 0 <= self.overlap <= 1, 'a share from 0 to 1'),
            ('clutter', self.clutter, self.clutter >= 0, '0 or more'),
            ('noise', self.noise, self.noise >= 0, '0 or more'),
        ):
            if not holds:
                raise ValueError(f'scenes with {name}={value!r} cannot be made: give {right}.')


@dataclass(frozen=True)
class Scene:
    """A picture, uint8 (H, W, 3) in BGR, with boxes (n, 4) as x, y, w, h, and labels (n,)."""

    picture: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray


def draw_scene(
    scans: np.ndarray, labels: np.ndarray, settings: SceneSettings, random: np.random.Generator
) -> Scene:
    """Draw digits of random sizes, colours and places over a cluttered background.

    Args:
        scans: uint8 (N, 8, 8), ink 255.
        labels: (N,), the scans' digits.
        settings: As in :class:`SceneSettings`; numbers of scenes and seed are not read.
        random: Where chance comes from.

    Boxes are those of a digit's own ink, also where a later digit covers some of it.
    """
    canvas = _background(scans, settings, random)
    boxes: list[tuple[int, int, int, int]] = []
    found: list[int] = []
    for _ in range(random.integers(settings.digits[0], settings.digits[1] + 1)):
        chosen = int(random.integers(len(scans)))
        ink = _write(scans[chosen], _height(settings, random), random)
        placed = _place(ink, boxes, settings, random)
        if placed is None:
            continue
        boxes.append(placed)
        found.append(int(labels[chosen]))
        _blend(canvas, ink, placed[:2], _ink_colour(canvas, placed, random))
    canvas += random.normal(0, settings.noise, canvas.shape)
    return Scene(
        picture=np.clip(np.round(canvas), 0, 255).astype(np.uint8),
        boxes=np.array(boxes, dtype=np.int64).reshape(-1, 4),
        labels=np.array(found, dtype=np.int64),
    )


def _height(settings: SceneSettings, random: np.random.Generator) -> int:
    # Evenly in the logarithm: as many small digits as large ones.
    low, high = np.log(settings.side)
    return int(round(np.exp(random.uniform(low, high))))


def _write(scan: np.ndarray, height: int, random: np.random.Generator) -> np.ndarray:
    """Ink from 0 to 1 of a scan enlarged to this height, tilted, and cut to its own box."""
    scale = height / scan.shape[0]
    angle, shear = random.uniform(-12, 12), random.uniform(-0.15, 0.15)
    side = int(np.ceil(1.6 * height))
    turn = cv2.getRotationMatrix2D((0, 0), angle, scale) @ np.array(
        [[1, shear, 0], [0, 1, 0], [0, 0, 1]]
    )
    turn[:, 2] = side / 2 - turn[:, :2] @ [3.5, 3.5]
    ink = cv2.warpAffine(scan.astype(np.float32) / 255, turn, (side, side), flags=cv2.INTER_CUBIC)
    # A stroke has an edge, however far the scan is enlarged.
    ink = np.clip((ink - 0.15) / 0.5, 0, 1)
    rows, columns = (np.flatnonzero((ink > _INK).any(axis=axis)) for axis in (1, 0))
    return ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _place(
    ink: np.ndarray,
    boxes: list[tuple[int, int, int, int]],
    settings: SceneSettings,
    random: np.random.Generator,
) -> tuple[int, int, int, int] | None:
    """Find room for a digit, x, y, w, h; None after twenty tries."""
    height, width = ink.shape
    if max(height, width) > settings.size:
        return None
    for _ in range(20):
        x = int(random.integers(settings.size - width + 1))
        y = int(random.integers(settings.size - height + 1))
        shares = [_covered((x, y, width, height), box) for box in boxes]
        if not shares or max(shares) <= settings.overlap:
            return x, y, width, height
    return None


def _covered(a: tuple[int, int, int, int], b: tuple[int, int, int, int]) -> float:
    """Share of the smaller box that lies in the other."""
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    return max(width, 0) * max(height, 0) / min(a[2] * a[3], b[2] * b[3])


def _background(
    scans: np.ndarray, settings: SceneSettings, random: np.random.Generator
) -> np.ndarray:
    """Colours that change slowly, strokes, and pieces of digits that are none."""
    size = settings.size
    coarse = random.uniform(40, 215, (1, 1, 3)) + random.uniform(-40, 40, (4, 4, 3))
    canvas = cv2.resize(coarse.astype(np.float32), (size, size), interpolation=cv2.INTER_CUBIC)
    for _ in range(random.integers(settings.clutter + 1)):
        start, end = random.integers(0, size, (2, 2)).tolist()
        colour = random.uniform(0, 255, 3).tolist()
        cv2.line(canvas, start, end, colour, int(random.integers(1, 4)), cv2.LINE_AA)
    for _ in range(random.integers(settings.clutter + 1)):
        ink = _write(scans[random.integers(len(scans))], _height(settings, random), random)
        # A third of a digit is none; the lower half of a 6 would be a 0.
        third = len(ink) // 3
        piece = ink[:third] if random.random() < 0.5 else ink[-third:]
        height, width = piece.shape
        if width <= size:
            x, y = int(random.integers(size - width + 1)), int(random.integers(size - height + 1))
            _blend(canvas, piece, (x, y), random.uniform(0, 255, 3))
    return canvas


def _ink_colour(
    canvas: np.ndarray, box: tuple[int, int, int, int], random: np.random.Generator
) -> np.ndarray:
    """A colour that can be told from what it is written on."""
    x, y, width, height = box
    behind = canvas[y : y + height, x : x + width].mean(axis=(0, 1))
    while True:
        colour = random.uniform(0, 255, 3)
        if abs((colour - behind).mean()) > 50:
            return colour


def _blend(
    canvas: np.ndarray, ink: np.ndarray, corner: tuple[int, int], colour: np.ndarray
) -> None:
    x, y = corner
    patch = canvas[y : y + ink.shape[0], x : x + ink.shape[1]]
    patch += ink[..., None] * (colour - patch)
