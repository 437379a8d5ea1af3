from __future__ import annotations

import json
import os
import subprocess
import sys
import time

import pytest
import tiny
import torch
from typer.testing import CliRunner

from secateur import cli, console
from secateur.report import RunRecord
from secateur.run import run

TINY = ["--data", "digits", "--epochs", "1", "--fine-tune", "1", "--set", "data.limit=256", "--set", "measures.runs=2",
        "--set", "batch_norm.batches=2"]  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    """Networks this small are slower on several threads, many times so on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def call(monkeypatch):
    """Run the command line in this process: its exit code, standard output and standard error."""

    def invoke(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(cli.guard, "debug", False)
        result = CliRunner(env={"COLUMNS": "160", "TERM": "dumb"}).invoke(cli.app, [str(a) for a in arguments])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result.exit_code, result.stdout, result.stderr

    class Direct:
        """A console that writes to whatever stream stands there now, as wide as needed."""

        def __init__(self, stderr: bool) -> None:
            self.stderr = stderr
            self.is_terminal = False

        def print(self, *items, **options):
            from rich.console import Console

            Console(stderr=self.stderr, width=160, highlight=False).print(*items, **options)

    monkeypatch.setattr(console, "out", Direct(stderr=False))
    monkeypatch.setattr(console, "err", Direct(stderr=True))
    return invoke


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("cli") / "out"
    return out, run(tiny.recipe(out))


ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    """A fresh interpreter on this checkout."""
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, env=ENVIRONMENT, timeout=180, check=False
    )


def test_help_does_not_wait_for_torch():
    code = (
        "import sys; sys.argv = ['secateur', '--help']\n"
        "from secateur.cli import main\n"
        "try: main()\n"
        "except SystemExit as end: assert end.code == 0\n"
        "assert 'torch' not in sys.modules"
    )
    times = []
    for _ in range(3):
        started = time.perf_counter()
        done = python("-c", code)
        times.append(time.perf_counter() - started)
        assert done.returncode == 0, done.stderr
    assert all(
        verb in done.stdout for verb in ("quickstart", "inspect", "prune", "run", "recipe", "evaluate", "report")
    )
    assert min(times) < 2


def test_version_names_what_numbers_depend_on(call):
    code, out, _ = call("version")
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()] == ["secateur", "torch", "python"]


def test_inspect_shows_groups_and_what_is_frozen(call):
    code, out, _ = call("inspect", "zoo:resnet20")
    assert code == 0
    assert "layer1.0.conv1" in out
    assert "Not prunable" in out
    assert "aten.convolution" in out


def test_inspect_gives_pure_json_with_what_each_group_frees(call):
    code, out, _ = call("inspect", "zoo:resnet8", "--json")
    found = json.loads(out)
    assert code == 0
    assert found["kind"] == "slices"
    for group in found["groups"]:
        one, whole = group["frees"]["one unit"], group["frees"]["all units"]
        assert 0 < one["params"] <= whole["params"] <= found["params"]
        assert 0 < one["macs"] <= whole["macs"] <= found["macs"]
        assert group["modules"]
        assert {m["role"] for m in group["members"]} <= {"producer", "consumer"}
    inner = next(g for g in found["groups"] if g["name"] == "layer1.0.conv1")
    weights = {m["tensor"]: m["shape"] for m in inner["members"]}
    produced = weights["layer1.0.conv1.weight"]
    consumed = weights["layer1.0.conv2.weight"]
    unit = produced[1] * 9 + consumed[0] * 9 + 2  # a row, a column, and the scale and shift of the norm between
    assert inner["frees"]["one unit"]["params"] == unit
    assert inner["frees"]["all units"]["params"] == unit * inner["units"]
    assert all(row["reason"] for row in found["frozen"])


def test_inspect_counts_on_the_example_it_is_told(call):
    one = json.loads(call("inspect", "zoo:resnet8", "--json", "--example", "1x3x16x16")[1])
    two = json.loads(call("inspect", "zoo:resnet8", "--json", "--example", "1x3x16x16", "--batch", "2")[1])
    assert two["macs"] == 2 * one["macs"]
    assert two["params"] == one["params"]


def test_inspect_reads_a_function_in_a_file(call, tmp_path):
    (tmp_path / "net.py").write_text(
        "import torch\nfrom torch import nn\n"
        "def build():\n"
        "    return nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 3)), torch.randn(1, 6)\n"
    )
    code, out, _ = call("inspect", f"{tmp_path / 'net.py'}:build", "--json")
    assert code == 0
    assert [(g["name"], g["units"]) for g in json.loads(out)["groups"]] == [("0", 12)]


def test_a_reader_that_has_seen_enough_is_no_error():
    command = [sys.executable, "-m", "secateur.cli", "inspect", "zoo:resnet56", "--json"]
    started = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT)
    started.stdout.readline()
    started.stdout.close()
    assert "Error" not in started.stderr.read()
    started.stderr.close()
    started.wait(60)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["inspect", "zoo:resnet9"], "no network named 'resnet9'"),
        (["inspect", "resnet20"], "Did you mean 'zoo:resnet20'?"),
        (["inspect", "nowhere.py:build"], "nowhere.py"),
        (["inspect", "zoo:resnet20", "--example", "big"], "such as 1x3x224x224. Got 'big' instead."),
        (["prune", "--data", "digits", "--out", "x"], "The 'MODEL' argument of prune must be given"),
        (["prune", "zoo:resnet8", "--out", "x"], "The '--data' option of prune must be given"),
        (["prune", "zoo:resnet8", "--data", "digits"], "The '--out' option of prune must be given"),
        (["prune", "zoo:resnet8", "--data", "digits", "--out", "x"], "must say where the model's weights come from"),
        (["prune", "zoo:resnet8", *TINY, "--out", "x", "--budget", "lots"], "(given as an option) must read like"),
        (["prune", "zoo:resnet8", *TINY, "--out", "x", "--mean", "a,b"], "numbers, one a channel"),
        (["prune", "zoo:resnet8", *TINY, "--out", "x", "--set", "seed"], "must read KEY=VALUE"),
        (["prune", "zoo:resnet8", *TINY, "--out", "x", "--set", "prunning.keep=a"], "Did you mean 'pruning'?"),
        (["prune", "zoo:resnet8", *TINY, "--out", "x", "--criterion", "size"], "must be one of magnitude"),
        (["prune", "--recipe", "none.yaml", "--out", "x"], "none.yaml cannot be read"),
        (["run", "none.yaml", "--out", "x"], "none.yaml cannot be read"),
        (["run", "dens", "--out", "x"], "There is no recipe named 'dens', and no such file. Did you mean 'dense'?"),
        (["run", "dense"], "The '--out' option of run must be given"),
        (["run", "dense", "--out", "x", "--set", "training.lr=-1"], "(--set training.lr=-1) must be greater than 0"),
        (["recipe", "show", "dense", "--set", "data.nam=digits"], "(--set data.nam=digits) has no key 'data.nam'. Did"),
        (["recipe", "validate", "none.yaml"], "none.yaml cannot be read"),
        (["recipe", "copy", "nothing", "x"], "The package has dense, prune-pretrained"),
        (["evaluate", "nowhere"], "There is no record of a run at nowhere"),
        (["report", "nowhere"], "There is no record of a run at nowhere"),
    ],
)
def test_errors_are_one_line_on_standard_error(call, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    code, out, err = call(*arguments)
    assert code == 2
    assert out == ""
    lines = [line for line in err.splitlines() if line.startswith("Error: ")]
    assert len(lines) == 1
    assert message in lines[0]
    assert "Traceback" not in err
    assert not (tmp_path / "x").exists()


def test_debug_shows_the_traceback(tmp_path):
    done = python("-c", "import sys; sys.argv = ['secateur', 'report', 'nowhere', '--debug']\n"
                        "from secateur.cli import main; main()")  # fmt: skip
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "CheckpointError" in done.stderr


def test_an_interrupt_says_how_to_go_on(call, monkeypatch):
    def stopped(_values):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "carry_out", stopped)
    code, _, err = call("quickstart")
    assert code == cli.INTERRUPTED
    assert "The same command goes on from here." in err


def test_prune_does_the_whole_job(call, tmp_path):
    code, out, err = call(
        "prune", "zoo:resnet8", *TINY, "--out", tmp_path / "out", "--budget", "60% macs", "--round-to", "4",
        "--keep", "layer1.*", "--lr", "0.02", "--mean", "0.3", "--std", "0.4", "--seed", "5", "--precision", "fp32",
    )  # fmt: skip
    assert code == 0
    record = RunRecord.load(tmp_path / "out" / "result.json")
    assert record.recipe["data"]["mean"] == [0.3]
    assert record.recipe["fine_tuning"]["lr"] == 0.02
    assert record.recipe["training"]["precision"] == record.recipe["fine_tuning"]["precision"] == "fp32"
    assert (record.seeds, record.plan.asked, record.plan.round_to) == ((5,), "60% macs", 4)
    assert all(g.after % 4 == 0 for g in record.groups)
    assert "The cut is proven." in out
    assert str(tmp_path / "out" / "report.html") in out
    assert "plan and cut: " in err
    assert "  epoch 1/1: loss" in err


FADING = ["prune", "zoo:resnet8", "--data", "digits", "--epochs", "1", "--fine-tune", "2", "--set", "data.limit=256",
          "--set", "measures.latency=false"]  # fmt: skip


def test_prune_lets_units_leave_while_it_trains(call, tmp_path):
    code, _, err = call(
        *FADING, "--out", tmp_path, "--method", "iterative", "--removal", "decay", "--steps", "2", "--rectify",
        "--round-to", "4", "--set", "pruning.method.options.rounds=1", "--set", "data.batch_size=32",
    )  # fmt: skip
    assert code == 0, err
    record = RunRecord.load(tmp_path / "result.json")
    removal = record.recipe["pruning"]["method"]["removal"]
    assert (removal["name"], removal["steps"], removal["rectify"]["rate"]) == ("decay", 2, 0.1)
    assert {row.what for row in record.leavings} >= {"leaving", "gone"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--removal", "decay"], "must have the key 'pruning.method.name'"),
        (["--method", "heso"], "Did you mean 'hesso'?"),
        (["--method", "hesso", "--removal", "decay"], "must have the key 'steps'"),
        (["--method", "hesso", "--removal", "decay", "--steps", "9999"], "'removal' of HESSO takes 9999 steps"),
    ],
)
def test_a_method_that_cannot_be_is_told_before_the_training(call, tmp_path, options, message):
    code, _, err = call(*FADING, "--out", tmp_path, *options)
    assert code == 2
    assert message in err
    assert "epoch" not in err


def test_run_carries_out_a_recipe_once(call, tmp_path):
    tiny.recipe(training__epochs=2).save(tmp_path / "recipe.yaml")
    command = ("run", tmp_path / "recipe.yaml", "--set", "fine_tuning.epochs=0", "--set", "seed=4",
               "--out", tmp_path / "out")  # fmt: skip
    code, out, err = call(*command)
    assert code == 0
    assert RunRecord.load(tmp_path / "out" / "result.json").seeds == (4,)
    assert " left" in next(line for line in err.splitlines() if "epoch 1/2" in line)
    code, again, err = call(*command)
    assert (code, again, err) == (0, out, "")


def test_several_seeds_have_a_folder_each(call, tmp_path):
    (tmp_path / "recipe.yaml").write_text(
        "model: {spec: zoo:resnet8}\ndata: {name: digits, limit: 256}\ntraining: {epochs: 1}\npruning: null\n"
        "measures: {latency: false}\nseed: [1, 2]\n"
    )
    code, out, _ = call("run", tmp_path / "recipe.yaml", "--out", tmp_path / "out")
    assert code == 0
    found = [RunRecord.load(tmp_path / "out" / f"seed{seed}" / "result.json") for seed in (1, 2)]
    assert [record.seeds for record in found] == [(1,), (2,)]
    mean = sum(record.final.accuracy.value for record in found) / 2
    assert f"Test accuracy over seeds 1, 2: {100 * mean:.2f} ±" in out


def test_recipes_are_listed_shown_validated_and_copied(call, tmp_path):
    code, out, _ = call("recipe", "list")
    assert code == 0
    assert "train-and-prune" in out
    assert call("recipe", "copy", "train-and-prune", tmp_path / "mine.yaml")[0] == 0
    code, out, _ = call("recipe", "validate", tmp_path / "mine.yaml", "--set", "pruning.rounds=2")
    assert code == 0
    assert "prune channels to 3x macs in 2 rounds, fine-tune for 10 epochs each" in out
    code, shown, _ = call("recipe", "show", tmp_path / "mine.yaml", "--set", "seed=[0, 1]")
    assert code == 0
    assert "temperature: 4.0" in shown
    (tmp_path / "shown.yaml").write_text(shown)
    assert call("recipe", "show", tmp_path / "shown.yaml")[1] == shown


def test_a_recipe_file_is_changed_by_options(call, tmp_path):
    tiny.recipe(seed=3).save(tmp_path / "recipe.yaml")
    code, _, _ = call("prune", "--recipe", tmp_path / "recipe.yaml", "--out", tmp_path / "out", "--fine-tune", "0")
    assert code == 0
    record = RunRecord.load(tmp_path / "out" / "result.json")
    assert record.seeds == (3,)
    assert record.final.stage == "batch norm re-estimated"


def test_evaluate_compares_with_the_record(call, finished):
    out, record = finished
    code, printed, _ = call("evaluate", out)
    assert code == 0
    line = next(line for line in printed.splitlines() if line.startswith("Test accuracy"))
    assert line.count(f"{100 * record.final.accuracy.value:.2f}") == 2
    found = json.loads(call("evaluate", out, "--json")[1])
    assert found["now"]["params"] == found["recorded"]["params"] == record.final.params


def test_report_writes_the_page_anew(call, finished):
    out, _ = finished
    before = (out / "report.html").read_text(encoding="utf-8")
    (out / "report.html").unlink()
    code, printed, _ = call("report", out)
    assert code == 0
    assert str(out / "report.html") in printed
    assert (out / "report.html").read_text(encoding="utf-8") == before


def test_a_small_quickstart_tells_what_it_made_and_what_is_next(call, tmp_path):
    code, out, _ = call("quickstart", "--out", tmp_path / "q", "--epochs", "1", "--fine-tune", "1")
    assert code == 0
    assert "2.0" in next(line for line in out.splitlines() if line.startswith("MACs"))
    for made in ("report.html", "result.json", "model.safetensors", "What next?", "secateur evaluate"):
        assert made in out
    assert (tmp_path / "q" / "plan.json").exists()


@pytest.mark.slow
def test_a_run_that_is_killed_outright_goes_on(tmp_path):
    tiny.recipe(tmp_path / "out", fine_tuning__epochs=200).save(tmp_path / "recipe.yaml")
    command = [sys.executable, "-m", "secateur.cli", "prune", "--recipe", str(tmp_path / "recipe.yaml"), "--out"]
    started = subprocess.Popen([*command, str(tmp_path / "out")], stderr=subprocess.PIPE, text=True, env=ENVIRONMENT)
    try:
        for line in started.stderr:
            if line.startswith("fine-tune ..."):
                break
        assert "epoch 1/200" in started.stderr.readline()
    finally:
        started.kill()
        started.wait()
    again = subprocess.run(
        [*command, str(tmp_path / "out")], capture_output=True, text=True, env=ENVIRONMENT, timeout=600, check=True
    )
    assert "plan and cut" not in again.stderr
    assert "epoch 1/" not in again.stderr
    assert len(RunRecord.load(tmp_path / "out" / "result.json").curves[-1].epochs) == 200


@pytest.mark.slow
def test_quickstart_loses_little_within_two_minutes(tmp_path):
    started = time.perf_counter()
    done = python("-c", f"import sys; sys.argv = ['secateur', 'quickstart', '--out', {str(tmp_path / 'q')!r}]\n"
                        "from secateur.cli import main; main()")  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert time.perf_counter() - started < 120
    record = RunRecord.load(tmp_path / "q" / "result.json")
    assert record.final.accuracy.value > record.dense.accuracy.value - 0.02
    assert record.ratio("macs") == pytest.approx(2, rel=0.03)
