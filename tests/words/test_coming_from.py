"""`docs/coming-from.md`: each new line runs, and each old line whose package is here."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

PAGE = (Path(__file__).parents[2] / "docs" / "coming-from.md").read_text(encoding="utf-8")
Session = Callable[..., dict[str, Any]]


def rows(section: str) -> list[tuple[str, str]]:
    """Old and new line of each row of a section's table that has both."""
    text = PAGE.split(f"\n## {section}\n", 1)[1].split("\n## ", 1)[0]
    found = re.findall(r"^\| `([^`]+)` \| `([^`]+)` \|$", text, flags=re.MULTILINE)
    assert len(found) >= 6
    return found


def test_lines_of_captum(session: Session) -> None:
    captum = pytest.importorskip("captum.attr")
    mask = (torch.arange(24 * 24) // 96).view(1, 1, 24, 24)
    picture = torch.rand(24, 24, 3).numpy()
    session("plain", *(new for _, new in rows("Captum")), mask=mask)
    theirs = {name: getattr(captum, name) for name in captum.__all__}
    session("plain", *(old for old, _ in rows("Captum")), **theirs, mask=mask, picture=picture)


def test_lines_of_shap(session: Session) -> None:
    import interp_plugins as ip

    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1))
    names = {"net": net, "rows": torch.rand(5, 4), "background": torch.rand(20, 4)}
    found = ip.explain(net, names["rows"], "ig", target=0)
    session("plain", *(new for _, new in rows("SHAP")), **names, found=found)


def test_lines_of_pytorch_grad_cam(session: Session) -> None:
    cams = pytest.importorskip("pytorch_grad_cam")
    from pytorch_grad_cam.utils.image import show_cam_on_image
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputSoftmaxTarget, ClassifierOutputTarget

    table = rows("pytorch-grad-cam")
    session("plain", *(new for _, new in table))
    theirs = {name: value for name, value in vars(cams).items() if name.endswith(("CAM", "PlusPlus"))}
    session(
        "plain",
        *(old for old, _ in table),
        **theirs,
        ClassifierOutputTarget=ClassifierOutputTarget,
        ClassifierOutputSoftmaxTarget=ClassifierOutputSoftmaxTarget,
        show_cam_on_image=show_cam_on_image,
        picture=torch.rand(24, 24, 3).numpy(),
        cam=torch.rand(24, 24).numpy(),
    )


def test_lines_of_fastai(session: Session) -> None:
    session("fastai", *(new for _, new in rows("fastai's class")))
