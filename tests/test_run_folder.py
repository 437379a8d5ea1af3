"""The folder of a run belongs to one process at a time."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap

import pytest
import tiny

from secateur.errors import CheckpointError, InputError
from secateur.folder import HOLDER, LOCK, STAGES, Folder, differences, held
from secateur.run import run

HOLDING = textwrap.dedent(
    """
    import sys, time
    from secateur.folder import held
    with held(sys.argv[1]):
        print("held", flush=True)
        time.sleep(120)
    """
)


@pytest.fixture
def other(tmp_path):
    """A process that holds the folder."""
    command = [sys.executable, "-c", HOLDING, str(tmp_path / "out")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_second_run_in_the_same_folder_is_refused(tmp_path, other):
    with pytest.raises(InputError, match=rf"is being written by another run \(process {other.pid} on \S+, since "):
        run(tiny.recipe(tmp_path / "out"))
    assert {path.name for path in (tmp_path / "out").iterdir()} == {LOCK, HOLDER}
    assert json.loads((tmp_path / "out" / HOLDER).read_text())["pid"] == other.pid


def test_the_lock_of_a_dead_process_is_taken_over(tmp_path, other):
    other.send_signal(signal.SIGKILL)
    other.wait()
    assert (tmp_path / "out" / HOLDER).exists()
    with held(tmp_path / "out"):
        assert json.loads((tmp_path / "out" / HOLDER).read_text())["pid"] == os.getpid()
    assert list((tmp_path / "out").iterdir()) == []


def test_a_holder_that_cannot_be_read_is_still_a_holder(tmp_path, other):
    (tmp_path / "out" / HOLDER).write_text("{")
    with pytest.raises(InputError, match=r"is being written by another run\. Wait for it"), held(tmp_path / "out"):
        pass


def test_an_error_gives_the_folder_back(tmp_path):
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt), held(tmp_path):
            raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_an_older_version_belongs_to_the_same_recipe(tmp_path):
    recipe = tiny.recipe()
    Folder(tmp_path, recipe)
    stored = tmp_path / "recipe.yaml"
    older = [line for line in stored.read_text().splitlines() if "compile" not in line and "version" not in line]
    stored.write_text("\n".join(older))
    Folder(tmp_path, recipe)
    with pytest.raises(InputError, match=r"data\.limit \(256 there, 100 here\)"):
        Folder(tmp_path, tiny.recipe(data__limit=100))


@pytest.mark.parametrize("content", ["", "[]", '{"started": "now"}'])
def test_a_damaged_clock_is_named(tmp_path, content):
    Folder(tmp_path, tiny.recipe()).spent("load", 1.0)
    (tmp_path / STAGES / "clock.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"clock\.json is damaged\. Remove .* and start the run anew"):
        Folder(tmp_path, tiny.recipe())


def test_differences_name_both_values():
    stored, present = {"a": {"b": 1, "c": None}, "d": [1]}, {"a": {"b": 2, "c": {"x": 1}}, "d": [1]}
    assert differences(stored, present) == ["a.b (1 there, 2 here)", "a.c (null there, {x} here)"]
    assert differences(stored, stored) == []
