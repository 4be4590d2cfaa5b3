"""Pictures for a report: images and maps as PNG, in rows of an artifact that fmjax/report_figures.py lays out."""

import base64
import io
from typing import Any

import numpy as np
from PIL import Image

SMALLEST, LARGEST = 72, 224  # pixels of a picture's longer side
# From black over violet and orange to pale yellow, light growing all the way: readable without colours too.
HEAT = np.array([[0, 0, 4], [87, 16, 110], [188, 55, 84], [249, 142, 9], [252, 255, 164]], np.float64)


def picture(pixels: np.ndarray, caption: str, group: str = "") -> dict[str, str]:
    """One picture of a gallery: the row of an artifact.

    Args:
      pixels: (H, W, 3) uint8.
      caption: what stands below.
      group: pictures of one group stand together, under it.
    """
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", optimize=True)
    return {"group": group, "caption": caption, "picture": base64.b64encode(file.getvalue()).decode()}


def shown(image: np.ndarray) -> np.ndarray:
    """An image (H, W, C), uint8 or floats in [0, 1], as RGB in a size for the eye; small ones by whole multiples."""
    if image.dtype != np.uint8:
        image = np.round(np.clip(np.nan_to_num(image.astype(np.float32)), 0, 1) * 255).astype(np.uint8)
    image = image[..., :3] if image.shape[-1] >= 3 else image[..., :1].repeat(3, axis=-1)
    longer = max(image.shape[:2])
    times = -(-SMALLEST // longer)
    if times > 1:
        return image.repeat(times, 0).repeat(times, 1)
    if longer <= LARGEST:
        return image
    size = tuple(max(1, round(side * LARGEST / longer)) for side in image.shape[1::-1])
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR))


def levels(values: np.ndarray) -> np.ndarray:
    """Numbers of any range as 0 to 1, the least black; all alike give 0, and so does what is not finite."""
    values = np.asarray(values, np.float64)
    finite = np.isfinite(values)
    if not finite.any():
        return np.zeros(values.shape)
    low, high = values[finite].min(), values[finite].max()
    return np.where(finite, (values - low) / (high - low if high > low else 1.0), 0.0)


def grey(values: np.ndarray) -> np.ndarray:
    """A map (H, W) in its own levels of grey, as `shown` would have it."""
    return shown(levels(values)[..., None])


def coloured(values: np.ndarray) -> np.ndarray:
    """Levels from 0 to 1 as colours of HEAT, (..., 3) from 0 to 255."""
    places = np.clip(values, 0, 1) * (len(HEAT) - 1)
    return np.stack([np.interp(places, np.arange(len(HEAT)), HEAT[:, c]) for c in range(3)], -1)


def over(image: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weights (h, w) as heat over a faded image (H, W, C): the more weight, the less of the image."""
    back = shown(image)
    size = (back.shape[1], back.shape[0])
    heat = Image.fromarray(levels(weights).astype(np.float32)).resize(size, Image.Resampling.BILINEAR)
    level = np.clip(np.asarray(heat, np.float64), 0, 1)[..., None]
    share = 0.35 + 0.5 * level
    return np.round(back.mean(-1, keepdims=True) * (1 - share) + coloured(level[..., 0]) * share).astype(np.uint8)


def class_name(number: int, data: Any) -> str:
    """What class `number` of the data is called."""
    classes = getattr(getattr(data, "source", None), "classes", None)
    return str(classes[number]) if classes and 0 <= number < len(classes) else str(number)
