"""Chunks: halved when memory runs out, on any device, with the same result."""

from __future__ import annotations

import time
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from interp_plugins import acceleration
from interp_plugins.attr import DeepLift, IntegratedGradients, Occlusion
from interp_plugins.core.batching import auto_chunk, check_chunk, chunks, is_out_of_memory, progress_bar
from interp_plugins.core.errors import InputError, InterpError, OutOfMemoryError

NO_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    MemoryError(),
    RuntimeError("[enforce fail at alloc_cpu.cpp:118] DefaultCPUAllocator: not enough memory: you tried to allocate"),
    RuntimeError("MPS backend out of memory (MPS allocated: 5.00 GB)"),
]


class Small:
    """A linear model on a device that holds `room` rows."""

    def __init__(self, room: int, error: BaseException):
        self.room, self.error, self.seen = room, error, []

    def __call__(self, x: Tensor) -> Tensor:
        self.seen.append(len(x))
        if len(x) > self.room:
            raise self.error
        return (x * torch.arange(1.0, 5.0)).sum(1) ** 2


@pytest.mark.parametrize("error", NO_MEMORY, ids=lambda e: type(e).__name__ + str(e)[:12])
@pytest.mark.parametrize("room", [1, 3, 10])
def test_result_is_the_same_where_memory_runs_out(error: BaseException, room: int) -> None:
    x = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    for cls, arguments in ((IntegratedGradients, {"n_steps": 6}), (Occlusion, {"sliding_window_shapes": (2,)})):
        small, large = Small(room, error), Small(10**6, error)
        result = cls(small).attribute(x, **arguments)
        assert torch.allclose(result, cls(large).attribute(x, **arguments), atol=1e-5)
        assert max(small.seen) > room >= min(small.seen)


@pytest.mark.parametrize("error", NO_MEMORY, ids=lambda e: type(e).__name__ + str(e)[:12])
def test_single_example_that_does_not_fit_is_said(error: BaseException) -> None:
    with pytest.raises(OutOfMemoryError, match="Out of memory with a single example per forward pass") as caught:
        IntegratedGradients(Small(0, error)).attribute(torch.randn(2, 4))
    assert isinstance(caught.value, MemoryError) and isinstance(caught.value, InterpError)
    assert "smaller input" in str(caught.value) and caught.value.__cause__ is error


def test_other_runtime_errors_are_not_retried() -> None:
    small = Small(0, RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        IntegratedGradients(small).attribute(torch.randn(2, 4))
    assert small.seen.count(100) == 1  # beside the few rows that are probed
    assert not is_out_of_memory(ValueError("out of memory")) and not is_out_of_memory(OutOfMemoryError("x"))


def test_chunks_cover_everything_once_and_keep_whole_batches_where_they_can() -> None:
    found = [(a, b) for a, b, _ in chunks(20, 7, lambda a, b: None, step=3)]
    assert found == [(0, 6), (6, 12), (12, 18), (18, 20)]
    assert [(a, b) for a, b, _ in chunks(5, 2, lambda a, b: None, step=3)] == [(0, 2), (2, 4), (4, 5)]
    assert list(chunks(0, 4, lambda a, b: None)) == []


def test_size_stays_small_once_memory_ran_out() -> None:
    sizes: list[int] = []

    def work(start: int, stop: int) -> None:
        sizes.append(stop - start)
        if stop - start > 2:
            raise MemoryError

    list(chunks(8, 8, work))
    assert sizes == [8, 4, 2, 2, 2, 2]


def test_automatic_size_follows_the_elements_of_a_row() -> None:
    assert auto_chunk([torch.empty(1, 3, 224, 224)]) == 7
    assert auto_chunk([torch.empty(1, 4)]) == 1024
    assert auto_chunk([torch.empty(1, 3, 4000, 4000)]) == 1


@pytest.mark.parametrize("size", [0, -1, 2.0, "3", True])
def test_impossible_chunk_sizes_are_refused(size: Any) -> None:
    with pytest.raises(InputError, match=f"batch_size must be a positive int or None .automatic., got {size!r}"):
        check_chunk("batch_size", size)
    assert check_chunk("batch_size", None) is None and check_chunk("batch_size", 3) == 3


def test_progress_counts_all_rows(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar(6, "rows", False) as bar:
        assert sum(b - a for a, b, _ in chunks(6, 4, lambda a, b: None, bar=bar)) == 6
    model = nn.Linear(4, 1)
    IntegratedGradients(model).attribute(torch.randn(2, 4), n_steps=3, progress=True)
    assert "gradients" in capsys.readouterr().err
    IntegratedGradients(model).attribute(torch.randn(2, 4), n_steps=3)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("progress", [None, False])
def test_short_work_makes_no_bar_object(progress: bool | None, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: Any) -> None:
        raise AssertionError("a bar was made")

    monkeypatch.setattr("tqdm.auto.tqdm", refuse)
    DeepLift(nn.Linear(4, 1)).attribute(torch.randn(2, 4), progress=progress)


def test_a_bar_that_comes_late_shows_all_rows_and_their_time(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("interp_plugins.core.progress._LATE", 0.05)
    with progress_bar(9, "rows", None) as bar:
        bar.update(2)
        none_yet = bar.bar
        time.sleep(0.06)
        bar.update(3)
        assert none_yet is None and bar.bar.n == 5 and bar.bar.format_dict["elapsed"] >= 0.06
        bar.update(4)
        assert bar.bar.n == 9
    assert "rows" in capsys.readouterr().err
    with progress_bar(9, "rows", False) as never:
        time.sleep(0.06)
        never.update(9)
        assert never.bar is None


class Roomy(nn.Module):
    """A model on a device that holds four rows."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.seen = nn.Linear(4, 1), []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(len(x))
        if len(x) > 4:
            raise MemoryError
        return self.fc(x)[:, 0] ** 2


def test_a_size_that_did_not_fit_is_not_tried_again_by_the_next_method_or_call() -> None:
    x = torch.randn(1, 4)
    model, other = Roomy(), Roomy()
    with acceleration(False):
        IntegratedGradients(model).attribute(x)
        assert max(model.seen) == 50
        model.seen.clear()
        IntegratedGradients(model).attribute(x)
        assert max(model.seen) <= 4
        IntegratedGradients(model).attribute(x, internal_batch_size=10)  # what the user asks for is tried
        assert max(model.seen) == 10
        IntegratedGradients(other).attribute(x)
        assert max(other.seen) == 50


@pytest.mark.filterwarnings("ignore:The model raised an error for more rows")
@pytest.mark.parametrize(
    ("error", "times"), [(MemoryError(), 1), (TypeError("one row, please"), 0)], ids=["memory", "model"]
)
def test_only_want_of_memory_makes_the_collector_walk_through_the_process(
    error: BaseException, times: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    walks: list[int] = []
    monkeypatch.setattr("gc.collect", lambda *a: walks.append(1))
    IntegratedGradients(Small(2, error)).attribute(torch.randn(2, 4), n_steps=2)
    assert len(walks) == times


def test_a_grey_picture_counts_as_one_of_colours_on_cpus() -> None:
    """A net makes as many channels of it: 1,024 rows of 28 x 28 took 1.8 times as long per row as 512."""
    grey, colour, table = (torch.zeros(1, *shape) for shape in ((1, 28, 28), (3, 28, 28), (784,)))
    assert auto_chunk([grey]) == auto_chunk([colour]) == 448 and auto_chunk([table]) == 1024
    assert auto_chunk([torch.zeros(1, 3, 224, 224)]) == 7


def test_networks_of_tokens_take_more_rows_of_a_picture() -> None:
    picture, maps = [torch.zeros(1, 3, 224, 224)], [nn.Conv2d(3, 8, 3), *(nn.Conv2d(8, 8, 3) for _ in range(7))]
    tokens = nn.Sequential(nn.Conv2d(3, 8, 16, 16), *(nn.Linear(8, 8) for _ in range(8)))
    assert auto_chunk(picture, tokens) == 14 and auto_chunk(picture, nn.Sequential(*maps, *tokens)) == 7
    assert auto_chunk(picture, nn.Sequential(nn.Flatten(), nn.Linear(4, 4))) == 7
    assert auto_chunk([torch.zeros(1, 3)], tokens) == 1024
