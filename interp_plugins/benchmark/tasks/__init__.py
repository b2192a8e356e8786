"""The tasks of this package, a file for each family; importing it registers them."""

from interp_plugins.benchmark.tasks import (
    disconnected,
    functions,
    grid,
    object_scene,
    parts,
    real,
    series,
    tables,
    tetris,
    text,
    text_minilm,
    transparent,
    vqa,
    watermark,
)

__all__ = [
    "disconnected",
    "functions",
    "grid",
    "object_scene",
    "parts",
    "real",
    "series",
    "tables",
    "tetris",
    "text",
    "text_minilm",
    "transparent",
    "vqa",
    "watermark",
]
