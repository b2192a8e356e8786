"""Photographs of known content (CC0 or public domain) that ship with scikit-image."""

from __future__ import annotations

from pathlib import Path

# What the picture shows, by scikit-image's name, as an ImageNet class.
PHOTOGRAPHS = {"chelsea": "tiger cat", "coffee": "espresso", "camera": "tripod", "motorcycle": "moped"}


def save_photographs(folder: str | Path, names: tuple[str, ...] = tuple(PHOTOGRAPHS)) -> list[Path]:
    """Write photographs as PNG files (those that are missing) and return their paths, in the order of `names`."""
    from PIL import Image
    from skimage import data

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name in names:
        path = folder / f"{name}.png"
        if not path.exists():
            pixels = data.stereo_motorcycle()[0] if name == "motorcycle" else getattr(data, name)()
            Image.fromarray(pixels).convert("RGB").save(path)
        paths.append(path)
    return paths
