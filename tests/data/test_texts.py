"""Texts as ids of tokens: from files and through `datasets`, by a tokenizer that is made here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from dimat.data import Dataset, SourceOptions, load_dataset
from dimat.errors import DataError
from dimat.tasks import TASKS

pytest.importorskip("pyarrow")
transformers = pytest.importorskip("transformers")

WORDS = ("(pad)", "(other)", "good", "bad", "film", "a")
ROWS = [("a good film", "yes"), ("a bad film", "no"), ("good", "yes"), ("bad bad unheard", "no")]


@pytest.fixture(autouse=True)
def _offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.setenv(name, "1")


def tokenizer(folder: Path, *, pad: bool = True) -> str:
    """A folder with a tokenizer of a few words."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace

    made = Tokenizer(WordLevel({word: i for i, word in enumerate(WORDS)}, "(other)"))
    made.pre_tokenizer = Whitespace()  # type: ignore[assignment]
    settings = {"pad_token": "(pad)"} if pad else {}
    whole = transformers.PreTrainedTokenizerFast(tokenizer_object=made, **settings)
    whole.save_pretrained(folder / "words")
    return str(folder / "words")


def write(folder: Path, name: str = "t.csv", rows: Any = ROWS) -> str:
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    if path.suffix == ".csv":
        path.write_text("text,liked\n" + "".join(f"{text},{liked}\n" for text, liked in rows))
    else:
        objects = (json.dumps({"text": text, "liked": liked}) for text, liked in rows)
        path.write_text("\n".join(objects))
    return f"{path.suffix[1:]}:{path}"


def load(source: str, task: str = "classification", **options: Any) -> Dataset:
    settings = {"text": "text", "test_share": 0.0, "max_length": 4, **options}
    needs: Any = ("train",)
    return load_dataset(source, task=TASKS[task], needs=needs, options=SourceOptions(**settings))


@pytest.mark.parametrize("name", ["t.csv", "t.jsonl"])
def test_texts_are_ids_of_one_length_with_padding_behind(tmp_path: Path, name: str) -> None:
    source, words = write(tmp_path, name), tokenizer(tmp_path)
    data = load(source, target=("liked",), tokenizer=words)
    assert data.train_x.tolist() == [[5, 2, 4, 0], [5, 3, 4, 0], [2, 0, 0, 0], [3, 3, 1, 0]]
    assert (data.classes, data.train_y.tolist()) == (("no", "yes"), [1, 0, 1, 0])
    assert (data.num_tokens, data.padding, data.images) == (6, 0, False)
    short = load(source, target=("liked",), tokenizer=words, max_length=2)
    assert short.train_x.tolist() == [[5, 2], [5, 3], [2, 0], [3, 3]]


def test_a_tokenizer_without_padding_gets_a_token_more(tmp_path: Path) -> None:
    words = tokenizer(tmp_path, pad=False)
    data = load(write(tmp_path), target=("liked",), tokenizer=words)
    assert data.train_x[2].tolist() == [2, 6, 6, 6]
    assert (data.num_tokens, data.padding) == (7, 6)


def test_without_a_target_tokens_are_the_targets_of_language_modeling(tmp_path: Path) -> None:
    source, words, task = write(tmp_path), tokenizer(tmp_path), TASKS["language-modeling"]
    data = load(source, "language-modeling", tokenizer=words)
    assert data.train_y.tolist()[2] == [2, -100, -100, -100]
    assert data.num_outputs(task) == 6
    assert data.classes == WORDS
    for other in ("classification", "regression", "multilabel"):
        with pytest.raises(DataError, match="say in data.target which column is to be learned"):
            load(source, other, tokenizer=words)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "data.text needs data.tokenizer: a name on the Hugging Face Hub, or a folder"),
        (
            {"tokenizer": "/nowhere/at/all"},
            "data.tokenizer '/nowhere/at/all': there is no",
        ),
        ({"text": "texts"}, "has no column 'texts', which data.text names; did you mean 'text'"),
        ({"text": "number"}, "column 'number' of data.text is int64, not text"),
        ({"text": "gap"}, "column 'gap' is empty in row 2"),
    ],
)
def test_what_is_no_text_is_refused(tmp_path: Path, settings: Any, message: str) -> None:
    path = tmp_path / "t.csv"
    path.write_text("text,number,gap,liked\na,1,b,yes\nb,2,,no\n")
    words = {} if not settings else {"tokenizer": tokenizer(tmp_path)}
    with pytest.raises(DataError, match=message):
        load(f"csv:{path}", target=("liked",), **{**words, **settings})


def hub(folder: Path, monkeypatch: pytest.MonkeyPatch, **splits: Any) -> str:
    """A data set that `datasets` reads from a folder, with labels of type ClassLabel."""
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", folder / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    features = datasets.Features(
        text=datasets.Value("string"), liked=datasets.ClassLabel(names=["yes", "no"])
    )
    (folder / "set").mkdir()
    for name, rows in splits.items():
        content = {"text": [own[0] for own in rows], "liked": [own[1] for own in rows]}
        made = datasets.Dataset.from_dict(content, features)
        made.to_parquet(folder / "set" / f"{name}.parquet")
    return f"hf:{folder / 'set'}"


def test_texts_of_the_hub_have_classes_by_name_and_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [(text, int(liked == "no")) for text, liked in ROWS]
    hidden = [(text, -1) for text, _ in ROWS]
    source = hub(tmp_path, monkeypatch, train=rows, test=hidden, validation=rows[:2])
    data = load(source, tokenizer=tokenizer(tmp_path), test_share=0.5)
    assert data.classes == ("no", "yes")
    assert data.train_y.tolist() == [1, 0, 1, 0]
    torch.testing.assert_close(data.test_x, data.train_x[:2], rtol=0, atol=0)


def test_a_data_set_of_the_hub_that_is_one_split_is_divided(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [(text, int(liked == "no")) for text, liked in ROWS]
    source = hub(tmp_path, monkeypatch, train=rows)
    data = load(source, tokenizer=tokenizer(tmp_path), test_share=0.5)
    assert (len(data.train_y), len(data.test_y)) == (2, 2)
    assert sorted([*data.train_y.tolist(), *data.test_y.tolist()]) == [0, 0, 1, 1]
