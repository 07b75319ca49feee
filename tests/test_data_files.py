"""A user's data files: each mistake is a sentence with its place and a way out, before JAX."""

import io
import zipfile
from pathlib import Path

import ml_dtypes
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from nanlab.parts.tasks import standardized
from nanlab.problems import raw_data
from nanlab.problems.data_files import read_data_file
from nanlab.problems.parquet_footer import rows_and_bytes
from nanlab.problems.raw_data import DataError, RawData, examples_from, remarks_on
from nanlab.sweep import DONE, WRONG, main

X, Y = np.arange(8.0).reshape(4, 2), np.array([0, 1, 2, 1])


def npz(**arrays):
    np.savez("data.npz", **arrays)
    return Path("data.npz")


def table(**columns):
    pl.DataFrame(columns, strict=False).write_parquet("data.parquet")
    return Path("data.parquet")


def arrow(names, *columns, **options):
    pa.parquet.write_table(pa.table(list(columns), names=names), "data.parquet", **options)
    return Path("data.parquet")


def raw(name, content):
    Path(name).write_bytes(content)
    return Path(name)


def member(shape, descr="<f8", data=b""):
    """An archive whose `x` says that it has this shape, whatever it holds."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        file, {"descr": descr, "fortran_order": False, "shape": shape}
    )
    with zipfile.ZipFile("data.npz", "w") as archive:
        archive.writestr("x.npy", file.getvalue() + data)
        labels = io.BytesIO()
        np.save(labels, Y)
        archive.writestr("y.npy", labels.getvalue())
    return Path("data.npz")


def doubled():
    with pytest.warns(UserWarning, match="Duplicate name"), zipfile.ZipFile("data.npz", "w") as z:
        for name in ("x.npy", "x.npy", "y.npy"):
            file = io.BytesIO()
            np.save(file, X)
            z.writestr(name, file.getvalue())
    return Path("data.npz")


def cut(path, share=0.6):
    content = path.read_bytes()
    return raw(path.name, content[: int(share * len(content))])


def flipped(path):
    """One byte of the compressed numbers is another."""
    np.savez_compressed(path, x=np.random.default_rng(0).random((500, 2)), y=np.arange(500) % 2)
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 255
    return raw(path.name, bytes(content))


def varint(number):
    """A positive number as Thrift's compact protocol has it: zigzag, 7 bits a byte."""
    number, content = 2 * number, bytearray()
    while number > 127:
        content.append(number & 127 | 128)
        number >>= 7
    return bytes([*content, number])


def zeros(rows):
    """A table whose footer says that it has this number of rows, whatever it holds."""
    content = arrow(
        ["a", "y"], pa.nulls(12_345, pa.float64()), pa.nulls(12_345, pa.int8())
    ).read_bytes()
    start = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
    footer = content[start:-8].replace(varint(12_345), varint(rows))
    assert pa.parquet.read_metadata("data.parquet").num_rows == 12_345
    size = len(footer).to_bytes(4, "little")
    path = raw("data.parquet", content[:start] + footer + size + b"PAR1")
    assert pa.parquet.read_metadata(path).num_rows == rows
    return path


def texts():
    long = "x" * 600_000_000
    return arrow(["a", "y"], [1.0, 2.0], [long, long + "z"], compression="zstd",
                 use_dictionary=False)  # fmt: skip


def masked():
    return RawData(np.ma.masked_array(X, X > 6), Y)


# What is wrong -> how to make it, and what is said of it.
WRONG_FILES = {
    "no file": (lambda: Path("there.npz"), "not found; paths are relative to the working"),
    "a folder": (lambda: (Path("data.npz").mkdir(), Path("data.npz"))[1], "is a folder, not a"),
    "an empty archive": (lambda: raw("data.npz", b""), "is empty (0 bytes)"),
    "an empty table": (lambda: raw("data.parquet", b""), "is empty (0 bytes)"),
    "text for an archive": (lambda: raw("data.npz", b"a,b\n1,"), "is not a NumPy archive; write"),
    "a table for an archive": (
        lambda: table(a=[1.0], y=[0]).rename("data.npz"), "is not a NumPy archive",
    ),
    "text for a table": (lambda: raw("data.parquet", b"a,b\n1,"), "is not a Parquet file; write"),
    "an archive cut off": (lambda: cut(npz(x=X, y=Y)), "cannot be read: File is not a zip file"),
    "a table cut off": (lambda: cut(table(a=[1.0], y=[0])), "cannot be read: parquet"),
    "an archive with a flipped byte": (lambda: flipped(Path("data.npz")), "cannot be read: "),
    "an archive of no arrays": (lambda: npz(), "must be named target, targets"),
    "an array cut off": (lambda: member((4, 2), data=b"123"), "array x is cut off: its header"),
    "an array of a billion": (
        lambda: member((10**9, 1)), "array x has 1,000,000,000 numbers, and a data set at most",
    ),
    "an array of a negative size": (lambda: member((-4, 2)), "array x has shape (-4, 2)"),
    "two arrays of one name": (doubled, "two arrays named x"),
    "a member that is no array": (
        lambda: (zipfile.ZipFile("data.npz", "w").writestr("x.npy", b"hello"), Path("data.npz"))[1],
        "cannot be read",
    ),
    "three arrays": (lambda: npz(x=X, more=X, y=Y), "one array of features besides y, got x, more"),
    "the target alone": (lambda: npz(y=Y), "one array of features besides y, got none"),
    "a table of the target alone": (lambda: table(y=[0, 1]), "has the column y alone; add columns"),
    "two targets": (lambda: table(a=[1.0], y=[0], label=[0]), "it has a, y, label"),
    "two columns of one name": (
        lambda: arrow(["a", "a", "y"], [1.0], [2.0], [0]), "column with name 'a' has more than one",
    ),
    "objects": (lambda: npz(x=np.array([[{}]] * 4), y=Y), "array x holds Python objects; store"),
    "complex features": (lambda: npz(x=X + 1j, y=Y), "array x holds complex numbers; store the"),
    "complex targets": (lambda: npz(x=X, y=Y + 0j), "array y holds complex numbers"),
    "text features": (lambda: npz(x=X.astype(str), y=Y), "array x holds text; number its values"),
    "dates": (lambda: npz(x=X.astype("M8[D]"), y=Y), "array x holds dates; store a number"),
    "fields": (lambda: npz(x=np.zeros(4, [("a", "f4")]), y=Y), "array x is of fields with names"),
    "a column of text": (lambda: table(a=["b"], y=[0]), "column a is not numeric (String); number"),
    "a column of dates": (
        lambda: table(a=[1.0], b=pl.Series([1]).cast(pl.Date), y=[0]), "column b is not numeric (D",
    ),
    "a column of lists": (lambda: table(a=[[1.0]], y=[0]), "column a is not numeric (List"),
    "a column of booleans": (lambda: table(a=[True], y=[0]), "column a is not numeric (Boolean)"),
    "a column of nulls": (lambda: table(a=[None], y=[0]), "column a has no values; leave it out"),
    "a target of dates": (
        lambda: table(a=[1.0], y=pl.Series([1]).cast(pl.Date)), "column y is of type Date; number",
    ),
    "a target of lists": (lambda: table(a=[1.0], y=[[1]]), "column y is of type List"),
    "a target that is null": (
        lambda: table(a=[1.0] * 4, y=[0, None, 1, None]),
        "column y, row 1 and 1 others: a target is null; drop its row",
    ),
    "a target that is NaN": (
        lambda: npz(x=X, y=np.array([0.0, 1.0, np.nan, 1.0])), "array y, row 2: a target is nan",
    ),
    "a target that is inf": (
        lambda: table(a=[1.0, 2.0], y=[0.0, np.inf]), "column y, row 1: a target is inf",
    ),
    "a negative class": (
        lambda: table(a=[1.0] * 3, y=[0, -1, -1]), "column y, row 1 and 1 others: class -1 is neg",
    ),
    "a class of a million": (
        lambda: npz(x=X, y=np.array([0, 1, 10**6, 1])),
        "array y, row 2: class 1,000,000 makes 1,000,001 classes, and 10,000 are the most",
    ),
    "a class of 2**64 - 1": (
        lambda: npz(x=X, y=np.array([0, 1, 2**64 - 1, 1], np.uint64)), "array y, row 2: class 18,",
    ),
    "classes in a column of their own": (
        lambda: npz(x=X, y=Y[:, None]), "one class an example, shape (4,), got (4, 1); reshape it",
    ),
    "features of one axis": (lambda: npz(x=X[:, 0], y=Y), "x[:, None] is one feature"),
    "no rows": (lambda: table(a=pl.Series([], dtype=pl.Float64), y=pl.Series([], dtype=pl.Int64)),
                "no examples or no features"),
    "no features": (lambda: npz(x=X[:, :0], y=Y), "no examples or no features"),
    "fewer targets": (lambda: npz(x=X, y=Y[:3]), "shapes (4, 2) and (3,)"),
    "one target": (lambda: npz(x=X, y=Y[0]), "shapes (4, 2) and ()"),
    "a billion rows": (
        lambda: zeros(200_000_000), "200,000,000 rows and 2 columns has 400,000,000 numbers",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG_FILES)
def test_what_is_wrong_with_a_file_is_a_sentence(name):
    if name == "a billion rows":
        pytest.importorskip("pyarrow")
    make, sentence = WRONG_FILES[name]
    with pytest.raises(DataError) as raised:
        examples_from(read_data_file(make()))
    assert sentence in str(raised.value)
    assert len(str(raised.value).splitlines()) == 1


@pytest.mark.slow
def test_a_text_that_unpacks_to_a_gigabyte_is_not_unpacked():
    path = texts()
    assert path.stat().st_size < 1_000_000
    with pytest.raises(DataError, match=r"unpacks to 1,2\d\d,\d{3},\d{3} bytes, and a data set to"):
        read_data_file(path)


@pytest.mark.parametrize("groups", [1, 3])
def test_what_a_table_unpacks_to_is_read_from_its_footer(groups):
    numbers = pa.table({f"column {i}": np.arange(300.0) * i for i in range(40)})
    pa.parquet.write_table(numbers, "data.parquet", row_group_size=-(-300 // groups))
    metadata = pa.parquet.read_metadata("data.parquet")
    sizes = [metadata.row_group(i).total_byte_size for i in range(groups)]
    assert rows_and_bytes(Path("data.parquet")) == (300, sum(sizes))


WRONG_ARRAYS = {
    "complex": (RawData(X + 1j, Y), "array inputs holds complex numbers"),
    "ragged": (RawData([[1.0], [1.0, 2.0]], [0, 1]), "inputs is no array of numbers"),
    "objects": (RawData(X.astype(object), Y), "array inputs holds Python objects"),
    "text": (RawData(X, ["a", "b", "a", "b"]), "array targets holds text"),
    "masked": (masked(), "array inputs has 1 masked values; fill them"),
    "a shape of text": (RawData(X, Y, "ab"), "the shape of an example must be whole numbers"),
    "another shape": (RawData(X, Y, (3,)), "an example of shape (2,) cannot be reshaped to (3,)"),
    "a negative shape": (RawData(X, Y, (-2, -1)), "cannot be reshaped to (-2, -1)"),
    "a number as a shape": (RawData(X, Y, 2), "the shape of an example must be whole numbers"),
}


@pytest.mark.parametrize("name", WRONG_ARRAYS)
def test_what_is_wrong_with_the_arrays_of_a_function_is_a_sentence(name):
    data, sentence = WRONG_ARRAYS[name]
    with pytest.raises(DataError) as raised:
        examples_from(data)
    assert sentence in str(raised.value)


RIGHT = {
    "one row": lambda: npz(x=X[:1], y=Y[:1]),
    "big-endian numbers in Fortran's order": lambda: npz(x=np.asfortranarray(X.astype(">f4")), y=Y),
    "booleans": lambda: npz(x=X > 3, y=Y > 1),
    "small integers": lambda: npz(x=X.astype(np.int8), y=Y.astype(np.uint8)),
    "decimals": lambda: table(a=pl.Series(["1.5", "2.5"]).cast(pl.Decimal(10, 2)), y=[0, 1]),
    "names of classes": lambda: table(a=[1.0, 2.0, 3.0], y=["red", "blue", "red"]),
    "categories": lambda: table(a=[1.0, 2.0], y=pl.Series(["b", "a"]).cast(pl.Categorical)),
    "numbers as targets": lambda: table(a=[1.0, 2.0], y=[0.5, -1.5]),
    "brackets in a name": lambda: table(a=[1.0], y=[0]).rename("data[1].parquet"),
}


@pytest.mark.parametrize("name", RIGHT)
def test_what_is_right_is_read(name):
    examples = examples_from(read_data_file(RIGHT[name]()))
    assert examples.inputs.dtype == np.float64 and examples.inputs.ndim == 2
    assert examples.targets.dtype in (np.int64, np.float64)
    if name == "names of classes":
        assert examples.targets.tolist() == [1, 0, 1]
    if name == "big-endian numbers in Fortran's order":
        np.testing.assert_array_equal(examples.inputs, X)


def test_a_type_that_numpy_does_not_know_is_read_as_numbers():
    examples = examples_from(RawData(X.astype(ml_dtypes.bfloat16), Y))
    np.testing.assert_array_equal(examples.inputs, X)


def told(data, dtype="float32", standardize=False):
    examples = examples_from(data)
    return list(remarks_on(data, standardized(examples) if standardize else examples, dtype))


def test_values_that_are_not_finite_are_counted_with_the_first_of_them():
    data = read_data_file(table(a=[1.0, None, np.nan, np.inf], b=[0.0, 1.0, None, 3.0], y=Y))
    assert told(data) == [
        "4 of 8 values of its features are not finite (2 null, 1 NaN, 1 inf), the first in column "
        "a, row 1; runs train on them as they are, null as NaN"
    ]
    pixels = np.zeros((4, 2, 2))
    pixels[2, 1, 0] = np.nan
    (remark,) = told(read_data_file(npz(images=pixels, y=Y)))
    assert "1 of 16 values" in remark and "array images, row 2, entry [1, 0];" in remark
    assert told(RawData(X, Y)) == []


def test_values_beyond_the_precision_are_counted():
    data = RawData(np.array([[1.0], [1e5], [1e39]]), [0, 1, 1])
    assert told(data, "float64") == []
    assert "1 values of its features are beyond the largest number of float32" in told(data)[0]
    assert "2 values" in told(data, "float16")[0] and "row 1, entry [0]" in told(data, "float16")[0]
    assert told(data, "float16", standardize=True) == []


def test_a_feature_without_a_finite_value_is_standardized_without_a_warning():
    inputs = np.array([[np.nan, 1.0], [np.nan, 3.0]])
    got = standardized(examples_from(RawData(inputs, [0, 1]))).inputs
    np.testing.assert_array_equal(got, [[np.nan, -1.0], [np.nan, 1.0]])


def test_too_many_outputs_for_the_examples_are_refused(monkeypatch):
    monkeypatch.setattr(raw_data, "MOST_NUMBERS", 30)
    with pytest.raises(DataError, match="array targets, as one output a class, has 40 numbers"):
        examples_from(RawData(X, [0, 9, 1, 1]))


@given(st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), max_size=6),
       st.integers(0, 10_000), st.sampled_from(["npz", "parquet"]))  # fmt: skip
@example([], 0, "npz")
@settings(max_examples=150)
def test_a_damaged_file_is_a_sentence_or_is_read(tmp_path_factory, changes, end, kind):
    folder = tmp_path_factory.getbasetemp()
    path = folder / f"damaged.{kind}"
    if kind == "npz":
        np.savez_compressed(path, x=np.arange(40.0).reshape(20, 2), y=np.arange(20) % 3)
    else:
        frame = pl.DataFrame({"a": np.arange(20.0), "b": np.arange(20), "y": np.arange(20) % 3})
        frame.write_parquet(path)
    content = bytearray(path.read_bytes())
    for at, byte in changes:
        content[at % len(content)] = byte
    path.write_bytes(content[: len(content) - end % len(content) if end % 2 else len(content)])
    try:
        examples_from(read_data_file(path))
    except DataError as error:
        assert len(str(error).splitlines()) == 1


# ---- through the command ----


def sweep(task, *flags, run="", compiled=True):
    text = f'[run]\ntask = "{task}"\nsteps = 3\n{run}\n[axes]\nseed = [0]\n'
    Path("grid.toml").write_text(text, encoding="utf-8")
    return main(["grid.toml", "--no-report", *flags])


@pytest.mark.parametrize("flags", [[], ["--dry-run"]], ids=["sweep", "dry run"])
def test_a_wrong_file_is_answered_before_anything_is_compiled(flags, capsys, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("compiled")

    npz(x=X, y=np.array([0, 1, 10**6, 1]))
    monkeypatch.setattr("jax._src.compiler.backend_compile_and_load", refuse)
    assert sweep("data.npz", *flags) == WRONG
    said = capsys.readouterr()
    assert said.err.startswith(
        "grid.toml: 1 problem\n  run.task (line 2): data.npz: array y, row 2:"
    )
    assert "Traceback" not in said.err


def test_numbers_for_classes_name_the_way_out(capsys):
    table(a=[1.0, 2.0], y=[0.0, 1.0])
    assert sweep("data.parquet", run='loss = "softmax_cross_entropy"') == WRONG
    assert "data.parquet are numbers; store classes as whole numbers" in capsys.readouterr().err


def test_a_dry_run_counts_what_is_not_finite(capsys):
    table(a=[1.0, None, 2.0, 3.0], b=[1.0, 2.0, 3.0, 4.0], y=Y)
    assert sweep("data.parquet", "--dry-run") == DONE
    said = capsys.readouterr()
    assert said.err.startswith(
        "data.parquet: 1 of 8 values of its features are not finite (1 null)"
    )
    assert "runs    1" in said.out
