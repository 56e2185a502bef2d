"""The files of examples/ are run as their page says, and print what they are there to show."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shlex
import sys
from pathlib import Path

import pytest
from tests import fork_server

FOLDER = fork_server.ROOT / "examples"
TEXT = (FOLDER / "README.md").read_text("utf-8")
COMMANDS = re.findall(r"`((?:python|torchrun) [^`\n]+)`", TEXT)
PERCENT = r"(\d+\.\d) %"


def needs(*packages: str) -> None:
    for package in packages:
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"needs {package}")


def printed(name: str, folder: Path) -> str:
    """What an example prints, run as its page says, in an empty folder."""
    [command] = [x for x in COMMANDS if f"/{name}" in x]
    assert f"\n{command}\n" in (FOLDER / name).read_text("utf-8"), "its docstring says the same"
    program, *rest = shlex.split(command.replace("examples/", f"{FOLDER}/"))
    start = {
        "python": ["python"],
        # processes without the seconds of their imports
        "torchrun": [
            *(sys.executable, "-m", "torch.distributed.run"),
            *("--run-path", "--start-method", "fork"),
        ],
    }
    done = fork_server.run([*start[program], *rest], cwd=folder)
    assert done.returncode == 0, done.stderr
    assert not any(folder.iterdir())
    return done.stdout


def accuracies(text: str) -> list[float]:
    return [float(own) for own in re.findall(PERCENT, text)]


def test_checkpoints_that_are_matched_merge_better_than_as_they_are(tmp_path: Path) -> None:
    plain, matched, fitted, *parents = accuracies(printed("merge_checkpoints.py", tmp_path))
    assert len(parents) == 2
    assert min(matched, fitted) > plain + 1
    assert max(matched, fitted) > min(parents) - 1


def test_agents_in_a_loop_of_ones_own_merge_with_each_other(tmp_path: Path) -> None:
    out = printed("own_loop.py", tmp_path)
    said = re.findall(r"agent (\d): (\d+) merges, (\d+) states heard", out)
    assert sorted(said) == [("0", "4", "4"), ("1", "4", "4")]
    assert min(accuracies(out)) > 85


def test_a_method_of_ones_own_is_compared_with_others(tmp_path: Path) -> None:
    out = printed("own_method.py", tmp_path)
    sent = {name: float(mb) for name, mb in re.findall(r"^(\w+): .*, (\S+) MB", out, re.MULTILINE)}
    assert list(sent) == ["half", "wa", "local"]
    assert sent["local"] == 0 < sent["half"] < 0.6 * sent["wa"]
    half, wa, local = accuracies(out)
    assert min(half, wa) > local


def test_hospitals_know_more_of_each_others_patients_once_they_merged(tmp_path: Path) -> None:
    needs("pyarrow")
    out = printed("hospital_tables.py", tmp_path)
    assert [int(share) for share in re.findall(r"(\d+) in 100", out)] == [53, 77, 24]
    found = accuracies(out)
    alone, merged = found[::2], found[1::2]
    assert len(alone) == 3
    assert min(merged) > sum(alone) / 3 + 2
    assert max(merged) - min(merged) < 3


def test_agents_of_one_shape_each_segment_all_shapes_once_they_merged(tmp_path: Path) -> None:
    before, alone, merged = accuracies(printed("segmentation.py", tmp_path))
    assert max(before, alone) < 50  # one shape of three, and what is beside it
    assert merged > alone + 20


@pytest.mark.slow
def test_a_transformer_knows_the_words_of_all_topics_once_it_is_merged(tmp_path: Path) -> None:
    needs("transformers", "pyarrow")
    dimat, wa, local = accuracies(printed("text_classification.py", tmp_path))
    assert dimat > max(wa, local) + 15


@pytest.mark.slow
def test_folders_of_hugging_face_merge_into_folders_like_them(tmp_path: Path) -> None:
    needs("transformers")
    out = printed("merge_hf_checkpoints.py", tmp_path)
    plain, matched, *parents = accuracies(out)
    assert len(parents) == 2
    assert matched > plain + 10
    assert matched > min(parents) - 3
    assert out.count("in 4 files") == 2


@pytest.mark.slow
def test_agents_in_lightning_merge_with_each_other(tmp_path: Path) -> None:
    needs("lightning")
    out = printed("lightning_agents.py", tmp_path)
    said = re.findall(r"agent (\d): (\d+) merges, (\d+) states heard", out)
    assert sorted(said) == [("0", "4", "4"), ("1", "4", "4")]
    assert min(accuracies(out)) > 85


def test_the_notebook_runs_from_its_first_cell_to_its_last(tmp_path: Path) -> None:
    book = json.loads((FOLDER / "own_data.ipynb").read_text("utf-8"))
    cells = [cell for cell in book["cells"] if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells)
    texts = ["".join(cell["source"]) for cell in cells]
    code = "\n".join(in_python(text) for text in texts)
    assert code.count("tempfile.mkdtemp()") == 1
    empty, temporary = tmp_path / "empty", tmp_path / "temporary"
    empty.mkdir()
    temporary.mkdir()
    code = code.replace("tempfile.mkdtemp()", repr(str(temporary)))
    done = fork_server.run(["python", "-c", code], cwd=empty, env={**os.environ, "COLUMNS": "80"})
    assert done.returncode == 0, done.stderr
    assert not any(empty.iterdir())
    assert "</html>" in (temporary / "page.html").read_text("utf-8")
    assert (temporary / "merged" / "model.safetensors").exists()
    [means] = re.findall(r"mean +(\d+\.\d) +(\d+\.\d) +(\d+\.\d)", done.stdout)
    _, merged, alone = map(float, means)
    assert alone < 70 < 90 < merged
    average, gram = accuracies(done.stdout)[-2:]
    assert gram > average + 5


def in_python(cell: str) -> str:
    """A cell of a notebook; a name alone is shown."""
    return f"print({cell})" if cell.isidentifier() else cell


@pytest.mark.slow
def test_the_torchrun_line_of_the_page_runs(tmp_path: Path) -> None:
    [line] = re.findall(r"```sh\n(.*)\n```", TEXT)
    words = [sys.executable, "-m", "torch.distributed.run", *shlex.split(line)[1:]]
    done = fork_server.run(words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "run folder: runs/" in done.stdout


def test_no_example_takes_a_port_that_others_may_have() -> None:
    for file in (*FOLDER.glob("*.py"), *FOLDER.glob("*.ipynb")):
        assert not re.search(r":[1-9]\d{3,4}\b", file.read_text("utf-8")), file


def test_every_example_is_on_the_page_and_short() -> None:
    files = sorted(FOLDER.glob("*.py"))
    assert len(files) == len(COMMANDS) >= 3
    for file in files:
        assert f"]({file.name})" in TEXT
        assert len(file.read_text("utf-8").splitlines()) < 75, file


def test_the_loop_of_the_readme_is_that_of_the_example() -> None:
    readme = (fork_server.ROOT / "README.md").read_text("utf-8")
    [loop] = re.findall(r"```py\n(.*?)```", readme, re.DOTALL)
    assert loop in (FOLDER / "own_loop.py").read_text("utf-8")
