"""`Visualization`: pictures that units are most active for, and what is known of each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from interp_plugins.core import files
from interp_plugins.core.errors import SampleError
from interp_plugins.core.spec import InputSpec
from interp_plugins.optim import saved
from interp_plugins.optim.found import Examples

if TYPE_CHECKING:
    import pandas as pd

NO_DATA = "without data: the picture may mislead"


@dataclass(frozen=True, eq=False, repr=False)
class Visualization:
    """Pictures of N rows; unit u's rows stand together.

    Attributes:
        images: (N, C, H, W) in raw units, on the CPU.
        inputs: the same as the model takes them, normalised and at its size.
        names: of the rows, "layer4:3".
        unit: the unit that each row belongs to.
        objective: what each row climbed, in words.
        activation: (N,) the objective on the picture as it is, without any transform.
        history: (N, steps) the objective on the way, under the transforms; NaN after the end.
        steps: (N,) that were made.
        state: per row "converged", "steps" (all were made, and the score still rose), "woken" (the unit gave no
            gradient at first), "dead" (it never did), "nan", or "interrupted".
        spec: kind of data, normalisation, range, class names.
        params: how the pictures were made.
        seconds: that it took.
        alpha: (N, H, W) how much each place mattered, of "maco"; else None.
        films: pictures on the way, by step.
        examples: of the data, one unit each; None without data.
        reference: (N, 101) quantiles of the objective over the data; None without data.
        scores: (N,) each: "ratio", "robust", and with data "spectrum" and "path".
        engine: rows that went through the network.
    """

    images: Tensor
    inputs: Tensor
    names: tuple[str, ...]
    unit: tuple[int, ...]
    objective: tuple[str, ...]
    activation: Tensor
    history: Tensor
    steps: Tensor
    state: tuple[str, ...]
    spec: InputSpec
    params: Mapping[str, Any]
    seconds: float = 0.0
    alpha: Tensor | None = None
    films: Mapping[int, Tensor] = field(default_factory=dict)
    examples: Examples | None = None
    reference: Tensor | None = None
    scores: Mapping[str, Tensor] = field(default_factory=dict)
    engine: int = 0

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, i: int) -> Visualization:
        """The result of row i alone."""
        n = len(self)
        if not isinstance(i, int) or not -n <= i < n:
            raise SampleError(f"There are {n} pictures, 0 to {n - 1}; got {i!r}.")
        return self.rows([i % n])

    def __iter__(self) -> Iterator[Visualization]:
        return (self[i] for i in range(len(self)))

    def rows(self, chosen: list[int]) -> Visualization:
        """Some rows, in the order given."""
        units = list(dict.fromkeys(self.unit[i] for i in chosen))
        tensors = {k: getattr(self, k) for k in ("images", "inputs", "activation", "history", "steps", "alpha")}
        cut: dict[str, Any] = {k: None if t is None else t[chosen] for k, t in tensors.items()}
        return replace(
            self,
            **cut,
            names=tuple(self.names[i] for i in chosen),
            unit=tuple(units.index(self.unit[i]) for i in chosen),
            objective=tuple(self.objective[i] for i in chosen),
            state=tuple(self.state[i] for i in chosen),
            films={s: t[chosen] for s, t in self.films.items()},
            examples=None if self.examples is None else self.examples.rows(units),
            reference=None if self.reference is None else self.reference[chosen],
            scores={k: t[chosen] for k, t in self.scores.items()},
        )

    def __repr__(self) -> str:
        shown = ", ".join(self.names[:3]) + (f", ... {len(self)} in all" if len(self) > 3 else "")
        told = {"steps": "ran all steps"}
        counts = ", ".join(f"{self.state.count(s)} {told.get(s, s)}" for s in dict.fromkeys(self.state))
        if "ratio" in self.scores:
            ratios = self.scores["ratio"]
            evidence = f"{float(ratios.nanmedian()):.1f} times the most active of the data"
        else:
            evidence = NO_DATA
        size = " x ".join(str(s) for s in self.images.shape[2:])
        return f"Visualization({shown}: {counts}; {size}, {self.params.get('param')}; {evidence})"

    def to_df(self) -> pd.DataFrame:
        """A row per picture: name, objective, activation, state, steps, scores.

        Example:
            from interp_plugins import visualize

            visualize(model, "0", channel=1, like=x, steps=4).to_df()["state"][0]  # -> steps...
        """
        import pandas as pd

        columns: dict[str, Any] = {"name": self.names, "objective": self.objective, "state": self.state}
        columns |= {"activation": self.activation.tolist(), "steps": self.steps.tolist()}
        return pd.DataFrame(columns | {name: values.tolist() for name, values in self.scores.items()})

    def show(self, max_n: int = 8) -> Any:
        """Draw each picture with the examples of the data and the values of all items beside it.

        Args:
            max_n: pictures at most.

        Returns:
            A `Plot`: the figure and its axes. Without data it says so; dead units are called dead.
        """
        from interp_plugins.optim.picture import features_figure

        return features_figure(self, max_n)

    def plot(self, max_n: int = 8) -> Any:
        """(figure, axes) of `show`, to go on drawing."""
        return self.show(max_n)

    def to_html(self, path: str | Path, title: str = "What these units look for") -> files.Page:
        """Write a page of all pictures that opens without a network, sortable by each score. Returns the path."""
        from interp_plugins.optim.page import features_page

        return files.Page(files.write(path, features_page(self, title).html()))

    def transfer(
        self, other: Any, classes: Any = None, *, input_spec: InputSpec | None = None, size: Any = None
    ) -> Tensor:
        """The probability that another network gives each picture's class, (N,): does it see the class as well?

        Args:
            other: a classifier; it is left as it was. Its output counts as probabilities where it is some.
            classes: of the pictures in its output, by index or name: one each, or one for all; None: those of
                `visualize(target=...)`, by name.
            input_spec: its normalisation and class names; None: those of these pictures.
            size: of its input; None: that of the pictures.

        Raises:
            InputError: pictures that are of no class; an output without these classes.

        Example:
            from interp_plugins import visualize

            visualize(model, target=[0, 2], like=x, steps=4).transfer(model).shape  # -> (2,)
        """
        from interp_plugins.optim.requested import transfer

        return transfer(self, other, classes, input_spec, size)

    def plausibility(
        self, features: Any, layer: Any = None, *, input_spec: InputSpec | None = None, size: Any = None
    ) -> dict[str, Any]:
        """How near the pictures are to the data's most active crops, as a network of the user's sees both.

        Args:
            features: the network; it is left as it was. An independent one says more than the visualised one.
            layer: of it, averaged over space; None: its output.
            input_spec: its normalisation; None: that of these pictures.
            size: of its input; None: that of the pictures.

        Returns:
            "plausibility": (N,) float64, 1 minus the kernel distance (KID) of each unit's pictures to its crops; an
            unbiased estimate, so for equal sets it lies about 1, on either side. "frechet": the Frechet distance (FID)
            of all pictures to all crops; for few pictures it is too large.

        Raises:
            InputError: no crops of data.
            SampleError: one picture of a unit: a distance of sets needs `n=` of two at least.

        Example:
            from interp_plugins import visualize

            found = visualize(model, "0", channel=1, n=2, data=x, steps=4)
            found.plausibility(model, "0")["plausibility"].shape  # -> (2,)
        """
        from interp_plugins.optim.requested import plausibility

        return plausibility(self, features, layer, input_spec, size)

    def save(self, path: str | Path) -> Path:
        """Write all of it to a safetensors file. Returns the path."""
        return saved.save(self, path)

    @classmethod
    def load(cls, path: str | Path) -> Visualization:
        """Read what `save` wrote.

        Raises:
            MissingFileError: there is no such file.
            InputError: it is none of these, or damaged.
        """
        return saved.load(path, cls, {"Examples": Examples})

    def _repr_html_(self) -> str:
        from interp_plugins.optim.page import in_cell

        return in_cell(self)
