"""Tables: what their columns are, what is refused of them, and which rows are tested on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dimat.data import Dataset, SourceOptions, load_dataset
from dimat.errors import DataError
from dimat.tasks import TASKS
from dimat.testing import check_source

pyarrow = pytest.importorskip("pyarrow")

PATIENTS = """age,color,weight,sick
10,red,1.5,yes
20,blue,2.5,no
30,red,3.5,yes
40,green,4.5,no
50,red,-0.5,maybe
"""


# Hundreds of different decimals, of which one has a letter for a digit.
DECIMALS = "".join(f"{'12O' if i == 250 else i / 8},{i % 2}\n" for i in range(300))
COMMAS = "".join(f"{i / 8};{i % 2}\n".replace(".", ",") for i in range(300))


def write(folder: Path, content: str | bytes = PATIENTS, name: str = "t.csv") -> str:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return f"{path.suffix[1:]}:{path}"


def load(source: str, *target: str, task: str = "classification", **options: Any) -> Dataset:
    chosen = SourceOptions(target=target or ("sick",), test_share=0.0, **options)
    return load_dataset(source, task=TASKS[task], needs=("train",), options=chosen)


def refused(source: str, *target: str, task: str = "classification", **options: Any) -> str:
    with pytest.raises(DataError) as error:
        load(source, *target, task=task, **options)
    message = str(error.value)
    assert message.startswith(source)
    return message.removeprefix(source).removeprefix(": ")


def test_numbers_stay_as_they_are_and_text_becomes_categories(tmp_path: Path) -> None:
    data = load(write(tmp_path))
    assert data.columns == ("age", "color=blue|green|red", "weight")
    assert data.classes == ("maybe", "no", "yes")
    assert data.train_y.tolist() == [2, 1, 2, 1, 0]
    assert data.train_x.tolist()[1] == [20.0, 1.0, 0.0, 0.0, 2.5]
    assert data.train_x.tolist()[4] == [50.0, 0.0, 0.0, 1.0, -0.5]
    assert (data.images, data.input_shape) == (False, (5,))


def by_pandas(folder: Path, save: Callable[[Any], Any]) -> str:
    pandas = pytest.importorskip("pandas")
    return str(save(pandas.read_csv(folder / "t.csv")))


@pytest.mark.parametrize("kind", ["parquet", "jsonl", "category"])
def test_a_table_is_the_same_in_every_format(tmp_path: Path, kind: str) -> None:
    pandas = pytest.importorskip("pandas")
    expected = load(write(tmp_path))
    frame = pandas.read_csv(tmp_path / "t.csv")
    if kind == "category":
        frame = frame.astype({"color": "category", "sick": "category"})
    suffix = "jsonl" if kind == "jsonl" else "parquet"
    path = tmp_path / f"t.{suffix}"
    if suffix == "jsonl":
        frame.to_json(path, orient="records", lines=True)
    else:
        frame.to_parquet(path)
    data = load(f"{suffix}:{path}")
    assert (data.columns, data.classes) == (expected.columns, expected.classes)
    for part in ("train_x", "train_y"):
        torch.testing.assert_close(getattr(data, part), getattr(expected, part), rtol=0, atol=0)


@pytest.mark.parametrize(
    "content",
    [
        b"\xef\xbb\xbf" + PATIENTS.encode(),  # the mark of Excel
        PATIENTS.replace("\n", "\r\n").encode(),
        PATIENTS.replace(",", ";").encode(),
        PATIENTS.replace(",", "\t").encode(),
        PATIENTS.replace("red", '"red"').rstrip("\n").encode(),
    ],
    ids=["mark", "windows", "semicolons", "tabs", "quotes"],
)
def test_a_csv_file_is_the_same_however_it_was_written(tmp_path: Path, content: bytes) -> None:
    expected = load(write(tmp_path))
    data = load(write(tmp_path, content, "other.csv"))
    assert (data.columns, data.classes) == (expected.columns, expected.classes)
    torch.testing.assert_close(data.train_x, expected.train_x, rtol=0, atol=0)


def test_quoted_fields_may_have_commas_quotes_and_lines(tmp_path: Path) -> None:
    rows = 'what,size,sick\n"a, ""b""\nc",1,yes\n"a, ""b""\nc",2,no\nother,3,no\n'
    data = load(write(tmp_path, rows))
    assert data.columns == ('what=a, "b"\nc|other', "size")
    assert data.train_x[:, 2].tolist() == [1, 2, 3]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "not a CSV file (Empty CSV file)"),
        ("\n\n", "not a CSV file"),
        ("age,sick\n", "has a header (age, sick), and no row"),
        ("a,b,sick\n1,2,3,yes\n", "Expected 3 columns, got 4"),
        ("a,b,sick\n1,2,yes\n1,2\n", "Expected 3 columns, got 2"),
        ("a,a,sick\n1,2,yes\n", "has 2 columns 'a'"),
        ('a,sick\n"1,yes\n2,no\n', "not a CSV file"),
        ("a,sick\n1,yes\n,no\n3,no\n,no\n", "column 'a' is empty in row 2 and 1 more: fill it in"),
        ("a,sick\n1,yes\n2,\n", "column 'sick' is empty in row 2: a target must be there"),
        ("a,sick\nx,yes\n,no\n", "column 'a' is empty in row 2"),
        ("a,sick\n1,yes\ninf,no\n", "column 'a' has inf in row 2"),
        ("a,sick\n1,yes\n1e300,no\n", "column 'a' has 1e+300 in row 2"),
        ("a,sick\n1,yes\n2,yes\n?,no\n", "column 'a' has numbers, but '?' in row 3: mend it"),
        ("a,sick\n2020-01-02,yes\n2020-01-03,no\n", "column 'a' is date32[day]: inputs are num"),
        ("a=b,sick\n1,yes\n2,no\n", "column 'a=b' has a '=' in its name"),
        ("a,sick\nx|y,yes\nz,no\n", "has the category 'x|y', with a '|'"),
        ("a,sick\n1,0.5\n2,no\n", ""),
        ("a,sick\n1,0.5\n2,1.5\n", "column 'sick' has fractions"),
        ("sick\nyes\nno\n", "no column is left to learn from"),
        ("a,sick\n1,yes\n2,yes\n", "all samples are of class 'yes': name all classes"),
        ("a,Sick\n1,yes\n2,no\n", "has no column 'sick', which data.target names"),
        ("a,sick\n\xe9,yes\n2,no\n".encode("latin1"), "column 'a' is not UTF-8"),
        (PATIENTS.encode("utf-16"), "not a CSV file"),
        (
            "a,sick\n" + "".join(f"n{i},{i % 2}\n" for i in range(101)),
            ", as 'n0' in row 1, and 101 different ones, too many",
        ),
        (f"a,sick\n{DECIMALS}", "column 'a' has numbers, but '12O' in row 251: mend it"),
        (f"a,sick\nNA,1\n{DECIMALS}", "column 'a' has numbers, but '12O' in row 252: mend it"),
        (f"a,sick\n{DECIMALS}?,1\n", "but '12O' in row 251 (1 more such texts): mend it"),
        ("a,sick\n" + "0,no\n" * 9 + "O,yes\n", "column 'a' has numbers, but 'O' in row 10"),
        ("a,sick\n1,no\n2,no\n3,no\n" + "x,yes\n" * 5, "has numbers, but 'x' in row 4: mend it"),
        (f"a;sick\n{COMMAS}", "too many for categories (at most 100): they are numbers, which are"),
        ("a,sick\n1,no\n1,2,yes\n", "(CSV parse error: row 2: Expected 2 columns, got 3"),
        ("a,sick\n1,1.0\n2,1.5\n", "column 'sick' has fractions, as 1.5 in row 2: classes"),
    ],
)
def test_what_cannot_be_used_is_refused_with_column_row_and_way_out(
    tmp_path: Path, content: str | bytes, message: str
) -> None:
    source = write(tmp_path, content)
    if message:
        assert message in refused(source)
    else:
        assert load(source).classes == ("0.5", "no")  # texts, as one of them is none


def test_a_file_that_is_not_there_or_no_table_is_refused(tmp_path: Path) -> None:
    assert "cannot be read (No such file" in refused(f"csv:{tmp_path}/no.csv")
    assert "cannot be read (no regular file" in refused(f"csv:{tmp_path}")
    for kind in ("parquet", "jsonl"):
        assert "not a" in refused(write(tmp_path, "hello", f"t.{kind}"))


def test_a_damaged_parquet_file_is_refused_or_read(tmp_path: Path) -> None:
    from pyarrow import parquet

    path = tmp_path / "t.parquet"
    table = pyarrow.table({"a": [1.0, 2.0, 3.0], "sick": ["yes", "no", "no"]})
    parquet.write_table(table, path)
    whole, count = path.read_bytes(), 0
    for place in range(0, len(whole), 3):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        try:
            load(f"parquet:{path}")
        except DataError:
            count += 1
    assert count > 100
    for length in range(0, len(whole), 50):
        path.write_bytes(whole[:length])
        assert "not a Parquet file" in refused(f"parquet:{path}")


def test_a_parquet_file_that_grows_too_much_is_refused(tmp_path: Path) -> None:
    from pyarrow import parquet

    path, rows = tmp_path / "t.parquet", 10**6
    zeros = pyarrow.DictionaryArray.from_arrays(np.zeros(rows, np.int8), pyarrow.array([0.0]))
    parquet.write_table(pyarrow.table({f"c{i}": zeros for i in range(150)}), path)
    assert "bytes in memory" in refused(f"parquet:{path}")


def test_columns_are_left_out_and_missing_numbers_filled_where_it_is_said(tmp_path: Path) -> None:
    source = write(tmp_path, "id,a,b,sick\nx,1,u,yes\ny,,v,no\nz,3,,no\n")
    data = load(source, leave_out=("id",), fill=-1.0)
    assert data.columns == ("a", "b=u|v")
    assert data.train_x.tolist() == [[1, 1, 0], [-1, 0, 1], [3, 0, 0]]
    assert "data.leave_out names" in refused(source, leave_out=("idd",))


def test_a_number_among_texts_is_a_category_as_well(tmp_path: Path) -> None:
    data = load(write(tmp_path, "blood,sick\nA,yes\n0,no\nAB,no\n"))
    assert data.columns == ("blood=0|A|AB",)
    assert data.train_x.tolist() == [[0, 1, 0], [1, 0, 0], [0, 0, 1]]


def test_categories_are_those_that_are_listed_in_their_order(tmp_path: Path) -> None:
    source = write(tmp_path)
    data = load(source, categories=("color=red|blue|green|black", "age=50|40|30|20|10"))
    assert data.columns == ("age=50|40|30|20|10", "color=red|blue|green|black", "weight")
    assert data.train_x[0].tolist() == [0, 0, 0, 0, 1, 1, 0, 0, 0, 1.5]
    assert "has 'green' in row 4, which is none of its" in refused(
        source, categories=("color=red|blue",)
    )
    for entry in ("color", "color=", "=a|b", "color=a|a", "color=a||b"):
        assert "must be COLUMN=A|B|C" in refused(source, categories=(entry,))
    assert "has 'size', which is no input" in refused(source, categories=("size=a|b",))


def test_several_targets_are_the_outputs_of_a_regression_or_the_labels_of_multilabel(
    tmp_path: Path,
) -> None:
    source = write(tmp_path, "a,b,p,q\n1,2,0.5,true\n3,4,1.5,false\n")
    data = load(source, "p", "q", task="regression")
    assert data.train_y.tolist() == [[0.5, 1.0], [1.5, 0.0]]
    assert (data.classes, data.columns) == (("p", "q"), ("a", "b"))
    assert load(source, "q", task="multilabel").train_y.tolist() == [[1.0], [0.0]]
    assert "has 0.5: a label is there, 1, or not, 0" in refused(source, "p", task="multilabel")
    assert "names 2 columns (p, q): classes are in one" in refused(source, "p", "q")


def test_columns_of_other_types_are_numbers_or_refused(tmp_path: Path) -> None:
    from decimal import Decimal

    from pyarrow import parquet

    columns: dict[str, Any] = {
        "money": [Decimal("1.25"), Decimal("2.50")],
        "flag": [True, False],
        "empty": pyarrow.nulls(2),
        "small": pyarrow.array([1, None], pyarrow.int8()),
        "sick": ["yes", "no"],
    }
    path = tmp_path / "t.parquet"
    parquet.write_table(pyarrow.table(columns), path)
    data = load(f"parquet:{path}", fill=7.0)
    assert data.train_x.tolist() == [[1.25, 1, 7, 1], [2.5, 0, 7, 7]]
    assert "column 'empty' is empty in row 1 and 1 more" in refused(f"parquet:{path}")
    parquet.write_table(pyarrow.table({**columns, "empty": [[1.0], [2.0]]}), path)
    assert "column 'empty' is list<element: double>: inputs are" in refused(f"parquet:{path}")
    nested = write(
        tmp_path, '{"a": {"b": 1}, "sick": "x"}\n{"a": {"b": 2}, "sick": "y"}', "t.jsonl"
    )
    assert "column 'a' is struct<b: int64>: inputs are" in refused(nested)


def test_a_text_is_no_target_of_a_regression(tmp_path: Path) -> None:
    for cells, said in (
        (["12,5", "13,5"], "column 'price' is text, as '12,5' in row 1: targets"),
        (["12.5", "", "NA", "12O"], "column 'price' is text, as '12O' in row 4: targets"),
        (["12.5", "inf"], "column 'price' has inf in row 2: numbers must be finite"),
        (["12.5", "1e300"], "column 'price' has 1e+300 in row 2: numbers must be finite"),
        (["12.5", "NaN"], "column 'price' is empty in row 2: a target must be there"),
    ):
        rows = "".join(f'{i},"{cell}"\n' for i, cell in enumerate(cells))
        source = write(tmp_path, f"a,price\n{rows}")
        assert said in refused(source, "price", task="regression")


def test_a_column_of_two_kinds_in_lines_of_json_is_named_with_its_row(tmp_path: Path) -> None:
    rows = '{"a": 1.5, "sick": "x"}\n\n{"a": "12O", "sick": "y"}\n'
    message = "column 'a' is number at first, and string in row 2, \"12O\": mend it"
    assert message in refused(write(tmp_path, rows, "t.jsonl"))
    rows = '{"a": {"b": 1}, "sick": "x"}\n{"a": {"b": true}, "sick": "y"}'
    assert "column 'a/b' is number at first, and boolean in row 2: mend it" in refused(
        write(tmp_path, rows, "t.jsonl")
    )
    assert "Invalid value. in row 2)" in refused(write(tmp_path, '{"a": 1}\n{"a": x}\n', "t.jsonl"))


def test_texts_that_say_a_number_is_missing_are_missing_beside_texts_alone(tmp_path: Path) -> None:
    data = load(write(tmp_path, "blood,sick\nA,yes\nNA,no\nNA,no\nB,no\n"))
    assert data.columns == ("blood=A|B|NA",)


@pytest.mark.parametrize(
    ("values", "classes"),
    [
        (["9", "10", "9"], ("9", "10")),  # as numbers, not as texts
        (["1.0", "3.0", "1.0"], ("1", "3")),
        (["true", "false", "true"], ("false", "true")),
        (["b", "a", "NA"], ("NA", "a", "b")),
    ],
)
def test_classes_are_the_sorted_values_of_the_target(
    tmp_path: Path, values: list[str], classes: tuple[str, ...]
) -> None:
    rows = "".join(f"{i},{value}\n" for i, value in enumerate(values))
    assert load(write(tmp_path, f"a,sick\n{rows}")).classes == classes


def test_classes_that_are_named_come_in_that_order(tmp_path: Path) -> None:
    source, options = write(tmp_path), SourceOptions(target=("sick",), test_share=0.0)
    names = ["yes", "no", "maybe", "never"]
    data = load_dataset(source, classes=names, needs=("train",), options=options)
    assert data.train_y.tolist() == [0, 1, 0, 1, 2]
    with pytest.raises(DataError, match="train has class 'maybe', which is none of the 2 classes"):
        load_dataset(source, classes=["yes", "no"], needs=("train",), options=options)


def test_the_test_part_is_a_stratified_share_and_the_same_every_time(tmp_path: Path) -> None:
    rows = "".join(f"{i},{'ab'[i % 10 == 0]}\n" for i in range(200))
    source, options = write(tmp_path, f"x,sick\n{rows}"), SourceOptions(target=("sick",))
    data, again = (load_dataset(source, options=options) for _ in range(2))
    assert torch.bincount(data.test_y).tolist() == [36, 4]
    assert torch.bincount(data.train_y).tolist() == [144, 16]
    both = torch.cat([data.train_x, data.test_x])[:, 0]
    assert both.sort().values.tolist() == list(range(200))
    torch.testing.assert_close(data.test_x, again.test_x, rtol=0, atol=0)


def test_all_rows_are_of_one_part_where_the_share_is_0_or_1(tmp_path: Path) -> None:
    source = write(tmp_path)
    for share, sizes in ((0.0, (5, 0)), (1.0, (0, 5))):
        options = SourceOptions(target=("sick",), test_share=share)
        part = "train" if sizes[0] else "test"
        data = load_dataset(source, needs=(part,), options=options)
        assert (len(data.train_y), len(data.test_y)) == sizes
        with pytest.raises(DataError, match=f"5 samples have no part of data.test_share {share:g}"):
            load_dataset(source, options=options)


def test_a_column_to_learn_must_be_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="say in data.target which column is to be learned"):
        load_dataset(write(tmp_path))


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_they_keep_the_laws_of_sources(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"a": np.arange(20) / 3, "sick": np.arange(20) % 3})
    path = tmp_path / f"t.{kind}"
    if kind == "csv":
        frame.to_csv(path, index=False)
    elif kind == "jsonl":
        frame.to_json(path, orient="records", lines=True)
    else:
        frame.to_parquet(path)

    def source(place: str, tell: Any) -> Dataset:
        return load_dataset(f"{kind}:{place}", tell, options=SourceOptions(target=("sick",)))

    check_source(source, str(path))
