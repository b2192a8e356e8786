"""DeepFool: to the nearest face of the region where a model says one class, as if all faces were flat.

Moosavi-Dezfooli et al. 2016, arXiv:1511.04599, algorithm 2: of each other class j, f = z_j - z_t is taken for linear
with gradient w, so that its face lies |f| / |w|* away (|.|* the dual norm); the nearest is stepped over. For a linear
model one step is exact. Elements that stand at a bound and would be pushed beyond it do not count.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from interp_plugins.core.batching import chunks, progress_bar
from interp_plugins.core.differentiate import differentiate, keeping_values
from interp_plugins.core.forward import Forward
from interp_plugins.robust.loss import Loss, own_and_others
from interp_plugins.robust.norms import dual_sizes, steepest
from interp_plugins.robust.shortened import Shortened

_CANDIDATES = 10  # classes whose faces are looked at: the likeliest
_OVERSHOOT = 0.02  # of a step, so that it lands behind the face


class DeepFoolSearch(Shortened):
    """Steps to the nearest face, sample by sample."""

    def run(self, skipped: Tensor, progress: bool | None) -> None:
        """Search for changes of all rows but those that are skipped, bool (N,)."""
        wanted, together = ~skipped, self.together()
        rows = self.everyone if together else wanted.nonzero().flatten()
        change = torch.zeros_like(self.free)
        with progress_bar(self.plan.steps + 1, "attack", progress) as bar:
            for k in range(self.plan.steps + 1):
                if not len(rows):
                    break
                points = self.points(rows, change[rows])
                output, values, up = self._faces(points, None if together else rows)
                now = self.keep(rows, wanted, change, output, values.amax(1), k)
                if k == 0:
                    self.flat[rows] = (up == 0).all(2).all(1)
                if bool((now | ~wanted[rows]).all()) or k == self.plan.steps:
                    break
                if not together:
                    rows, values, up = rows[~now], values[~now], up[~now]
                    points = [p[~now] for p in points]
                step = self._over(values, self.movable(points, up, rows))
                change[rows] = self.within(rows, change[rows] + (1 + _OVERSHOOT) * step)
                bar.update(1)
        self.shorten(wanted)

    def _over(self, values: Tensor, up: Tensor) -> Tensor:
        """The step to the nearest face, (R, D)."""
        many = up.shape[1]
        strength = dual_sizes(up.reshape(-1, up.shape[2]), self.plan.norm).reshape(-1, many)
        distance = torch.where(strength > 0, values.abs() / strength.clamp_min(1e-30), torch.inf)
        nearest = distance.argmin(1)
        rows = torch.arange(len(up), device=up.device)
        reach = torch.where(distance[rows, nearest].isfinite(), distance[rows, nearest], 0.0)
        return reach[:, None] * steepest(up[rows, nearest], self.plan.norm, share=0.0)

    def _faces(self, inputs: Sequence[Tensor], rows: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Outputs (R, ...), how far behind each face the points are (R, C), and the gradients of that (R, C, D)."""
        climb = self.climb
        forward = climb.forward if climb.fast is None else climb.fast
        samples = (self.everyone if rows is None else rows).to(inputs[0].device)
        found: list[tuple[Tensor, Tensor, Tensor]] = []

        def faces(output: Tensor, some: Tensor) -> Tensor:
            classes = climb.loss.classes(output, some) if isinstance(climb.loss, Loss) and climb.sign > 0 else None
            if classes is None:
                return climb.sign * climb.loss(output, some)[:, None]
            own, others = own_and_others(output, classes)
            likeliest = others.detach().topk(min(_CANDIDATES, others.shape[1] - 1), dim=1).indices
            return others.gather(1, likeliest) - own[:, None]

        def work(start: int, stop: int) -> tuple[Tensor, Tensor, Tensor]:
            whole = rows is None and stop - start == len(samples)
            some = samples[start:stop]
            return _looked(forward, [x[start:stop] for x in inputs], None if whole else some, some, faces)

        for _, _, seen in chunks(len(samples), climb.forward.samples_per_pass(inputs, climb.chunk), work):
            found.append(seen)
        output, values, up = (torch.cat(column) for column in zip(*found, strict=True))
        return output, values, up


@keeping_values
def _looked(
    forward: Forward,
    inputs: Sequence[Tensor],
    rows: Tensor | None,
    samples: Tensor,
    faces: Callable[[Tensor, Tensor], Tensor],
) -> tuple[Tensor, Tensor, Tensor]:
    """One pass forward, and one back for each face."""
    leaves = [x.detach().requires_grad_(True) for x in inputs]
    forward.passes["forward"] += len(samples)
    with torch.set_grad_enabled(True):
        output = forward.readable(forward.called(leaves, rows))
        values = faces(output, samples)
    up = []
    for j in range(values.shape[1]):
        forward.passes["backward"] += len(samples)
        grads = differentiate(values[:, j], leaves, "input", retain=j + 1 < values.shape[1])
        up.append(torch.cat([g.reshape(len(g), -1) for g in grads], 1))
    return output.detach(), values.detach(), torch.stack(up, 1)
