"""The page and the command: one file without a network, with what the run holds; exit codes that a gate can read."""

import base64
import json
import re
import struct
import sys

import numpy as np
import pytest

from interp_plugins import benchmark
from interp_plugins.benchmark import Benchmark
from interp_plugins.benchmark.page import to_html
from interp_plugins.benchmark.pictures import joined, sheet
from interp_plugins.cli.benchmarks import app, seeds_of
from interp_plugins.core.errors import InputError

pytest.importorskip("pyarrow")
pytest.importorskip("matplotlib")
testing = pytest.importorskip("typer.testing")
FEW = ["run", "functions.product", "functions.linear", "--size", "tiny", "--method", "ig", "--method", "saliency"]
FEW += ["--methods", "input_x_gradient"]  # as pages that were written before show it


def call(*words):
    return testing.CliRunner().invoke(app, [str(w) for w in words])


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "run"
    answer = call(*FEW, "--out", out)
    assert answer.exit_code == 0, answer.output
    return out


def test_report_writes_three_files(done):
    assert call("report", done).exit_code == 0
    found = json.loads((done / "report" / "leaderboard.json").read_text())
    page = (done / "report" / "index.html").read_text()
    assert set(found["tasks"]) == {"functions.product", "functions.linear"}
    assert "1 tasks" not in page and "truth_<wbr>error" in page  # names of columns do not widen a card
    page = page.replace("<wbr>", "")
    assert not re.search(r'(src|href)="(?!data:)', page) and "<script" not in page
    for text in ("Ranks: truth", "critical difference", "integrated_gradients", "Error against passes", "Failures"):
        assert text in page, text
    assert "benchmark run functions.product functions.linear --method ig" in page
    assert (done / "report" / "leaderboard.csv").read_text().count("\n") > 50


def test_the_page_is_of_the_rows_alone(done):
    run = benchmark.read(done)
    assert to_html(run, benchmark.leaderboard(run)) == to_html(run, benchmark.leaderboard(benchmark.read(done)))


def test_compare_ends_with_status_1_where_something_got_worse(done, tmp_path, monkeypatch):
    assert call("compare", done, done).output.strip() == "0 worse, 0 better."
    import sys

    entrants = sys.modules["interp_plugins.benchmark.entrants"]
    plain = entrants.over_input
    monkeypatch.setattr(entrants, "over_input", lambda exp: -plain(exp) if exp.method == "saliency" else plain(exp))
    call(*FEW, "--out", tmp_path / "spoiled")
    answer = call("compare", done, tmp_path / "spoiled")
    assert answer.exit_code == 1 and "saliency" in answer.output and "integrated" not in answer.output


def test_wrong_words_end_with_status_2(tmp_path):
    for words in (("run", "nothing"), ("report", tmp_path), ("run", "functions", "--seeds", "x"), ("list", "nothing")):
        answer = call(*words)
        assert answer.exit_code == 2, words
    assert "functions.max" in call("list", "functions").output
    assert seeds_of("0-2,7") == (0, 1, 2, 7)
    with pytest.raises(InputError, match="Seeds are written"):
        seeds_of("a-b")


def test_mine_judges_a_model_of_ones_own(tmp_path, monkeypatch):
    (tmp_path / "my_model.py").write_text(
        "import torch\n"
        "from torch import nn\n"
        "torch.manual_seed(0)\n"
        "net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2))\n"
        "def batches():\n"
        "    return [torch.randn(16, 6, generator=torch.Generator().manual_seed(0))]\n"
    )
    monkeypatch.setattr("sys.path", [*sys.path])
    monkeypatch.chdir(tmp_path)  # modules are looked for where the command is typed
    answer = call("mine", "my_model:net", "my_model:batches", "--method", "ig", "--method", "saliency", "--samples", 16)
    assert answer.exit_code == 0, answer.output
    assert "recommended for this model" in answer.output
    (tmp_path / "lacking.py").write_text("import no_such_package")
    for words, said in (
        (("mine", "my_model:nett", "my_model:batches"), "my_model has no 'nett'. Did you mean 'net'?"),
        (("mine", "my_modle:net", "my_model:batches"), f"no module 'my_modle', neither in {tmp_path} nor installed"),
        (("mine", "lacking:net", "my_model:batches"), "No module named 'no_such_package'"),
        (("mine", ":net", "my_model:batches"), "Write module:name"),
        (("list", "--import", "my_modle"), "no module 'my_modle'"),
    ):
        answer = call(*words)
        assert answer.exit_code == 2 and said in answer.output, answer.output


def test_bars_join_what_is_not_told_apart():
    assert joined([1.0, 1.5, 2.2, 4.0], 1.0) == [(0, 1), (1, 2)]
    assert joined([1.0, 3.0], 1.0) == [] and joined([1.0, 1.1, 1.2], 1.0) == [(0, 2)]


def test_a_benchmark_of_one_method_has_a_page(tmp_path):
    plan = Benchmark(("functions.max",), methods=("saliency",), size="tiny")
    run = benchmark.read(benchmark.run(plan, tmp_path / "run", progress=False))
    assert "functions.max" in to_html(run, benchmark.leaderboard(run))


def test_many_methods_take_several_bands_of_a_sheet():
    def row(metric, method, sample):
        kept = np.arange(12, dtype="<f2").reshape(3, 2, 2)
        return {"metric": metric, "method": method, "sample": sample, "map": kept.tobytes(), "shape": "[3, 2, 2]"}

    names = [f"method_{i}" for i in range(40)]
    rows = [row("map", name, s) for name in names for s in (0, 4)]
    rows += [row("input", "control.random", s) for s in (0, 4)]

    def size(columns):
        picture = sheet(rows, {"best": 0, "worst": 4}, columns, "image")
        return struct.unpack(">II", base64.b64decode(picture.partition(",")[2])[16:24])

    (one, low), (many, high) = size(names[:11]), size(names)
    assert many == one < 1000 and high == pytest.approx(4 * low, abs=4)
    assert size(names[:3])[0] < one / 2
