"""`python -m nanlab.report`: every file that it writes, of studies that are finished or running."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
import yaml

import nanlab
from nanlab import sweep
from nanlab.report import DONE, WRONG, main
from nanlab.reporting.sheets import Sheet, latex, markdown
from nanlab.results.dictionary import meaning_of
from nanlab.results.store import Store
from nanlab.results.text_tables import FLOAT_ROWS

RESULTS = Path(__file__).resolve().parents[1] / "results"
BY = {
    "report.html", "report.md", "REPRODUCE.md", "CITATION.cff", "datapackage.json", "figures",
    "tables",
}  # fmt: skip

# Three chunks of at most 128 runs.
GRID = """\
title = "Which learning rates overflow?"

[run]
problem = "quadratic"
steps = 150

[axes]
lr = { logspace = [0.1, 1e38], num = 300 }

[exec]
devices = 2
chunk_runs = 128
"""


def copied(name, to):
    """A copy of a committed study, with its tables alone."""
    folder = to / Path(name).name
    folder.mkdir()
    for path in (RESULTS / name).iterdir():
        if path.name not in BY:
            shutil.copy(path, folder)
    return folder


def hashes(folder):
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory):
    folder = copied("quickstart", tmp_path_factory.mktemp("report"))
    before = hashes(folder)
    assert main([str(folder)]) == DONE
    after = hashes(folder)
    assert {name: after[name] for name in before} == before, "the tables are only read"
    return folder


@pytest.fixture
def undrawn(monkeypatch):
    """Reports without their figures, which take most of the time and are tested elsewhere."""
    monkeypatch.setattr("nanlab.reporting.write.write_figures", lambda folder, analysis: {})


@pytest.fixture
def unsaved(monkeypatch):
    """Reports whose figures are drawn and not written, which takes twice as long."""
    monkeypatch.setattr("nanlab.reporting.figures.save_figure", lambda *_: None)


# ---- what is there ----


def test_a_report_is_a_page_a_text_figures_tables_and_what_cites_them(quickstart):
    tables = {path.name for path in (RESULTS / "quickstart").iterdir()} - BY
    assert {path.name for path in quickstart.iterdir()} == tables | BY
    figures = {path.name for path in (quickstart / "figures").iterdir()}
    assert figures == {"figures.tex"} | {
        f"{name}-{columns}.{kind}"
        for name in ("outcomes", "critical", "survival", "causes")
        for columns in ("1col", "2col")
        for kind in ("svg", "pdf")
    }
    stems = {path.stem for path in (quickstart / "tables").iterdir()}
    assert stems == {"outcomes", "critical", "causes", "blames", "instructive", "parameters"}


def test_every_caption_tells_the_study_its_runs_and_seeds(quickstart):
    told = "Study quickstart-72d6ed54: 720 runs, 4 seeds."
    for path in (quickstart / "tables").iterdir():
        assert told in path.read_text(), path.name
    assert (quickstart / "figures/figures.tex").read_text().count(told) == 8
    for path in (quickstart / "figures").glob("*.svg"):
        assert told in path.read_text(), path.name


def test_text_and_page_begin_with_the_question_and_its_answer_in_a_sentence(quickstart):
    text = (quickstart / "report.md").read_text().splitlines()
    manifest = json.loads((quickstart / "manifest.json").read_text())
    assert text[0] == f"# {manifest['title']}"
    answer = "34 % of runs fail with relu, 18 % with tanh."
    assert text[4] == answer
    assert text[6] == "- **runs with an inf or a NaN**: 188 of 720 (26 %)"
    page = (quickstart / "report.html").read_text()
    assert page.index(manifest["title"]) < page.index(answer) < page.index("188 of 720 (26 %)")


def test_how_to_do_it_again_names_command_commit_versions_and_time(quickstart):
    told = (quickstart / "REPRODUCE.md").read_text()
    manifest = json.loads((quickstart / "manifest.json").read_text())
    assert f"git checkout {manifest['git']['commit']}\n" in told
    assert f".venv/bin/{manifest['command']}\n" in told
    for name in ("jax", "jaxlib", "numpy", "python", "nanlab"):
        assert f"| {name} | {manifest['environment'][name]} |" in told
    assert f"It took {manifest['wall_s']['all']:.1f} s on 2 CPU devices" in told
    for name, digest in manifest["files"].items():
        assert f"| {name} | `{digest}` |" in told


@pytest.mark.slow
def test_the_second_time_and_in_another_process_every_byte_is_the_same(quickstart, tmp_path):
    folder = tmp_path / "quickstart"
    shutil.copytree(quickstart, folder)
    for name in BY:
        path = folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    # From its parent, so that the folder has the name in both that it has in neither.
    done = subprocess.run(
        [sys.executable, "-m", "nanlab.report", str(folder)], capture_output=True, text=True,
        timeout=200, env=os.environ | {"PYTHONHASHSEED": "7", "TZ": "Asia/Tokyo"},
    )  # fmt: skip
    assert done.returncode == DONE, done.stderr
    assert done.stdout.endswith(f".\n720 runs: {folder / 'report.html'}\n")
    assert done.stderr == ""
    assert hashes(folder) == hashes(quickstart)


def test_figures_and_tables_that_a_study_has_no_more_are_removed(tmp_path, unsaved):
    folder = copied("tanh_critical_line", tmp_path)
    for name in ("figures/survival-1col.svg", "tables/blames.tex"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("of an earlier run of the study")
    (folder / "figures/mine.svg").write_text("a person's own")
    assert main([str(folder)]) == DONE
    assert not (folder / "figures/survival-1col.svg").exists()
    assert not (folder / "tables/blames.tex").exists()
    assert (folder / "figures/mine.svg").exists()


def test_names_that_a_person_put_into_the_citation_stay(tmp_path, undrawn):
    folder = copied("gradient_descent", tmp_path)
    assert main([str(folder)]) == DONE
    path = folder / "CITATION.cff"
    mine = path.read_text().replace("The authors of this study", "Ada Lovelace")
    path.write_text(mine)
    assert main([str(folder)]) == DONE
    assert path.read_text() == mine


# ---- LaTeX ----

# What LaTeX reads in a table, after comments and escaped letters are gone.
TEX_COMMANDS = {
    "small", "setlength", "tabcolsep", "begin", "end", "caption", "label", "toprule", "midrule",
    "bottomrule", "linewidth", "textbackslash", "textasciitilde", "textless", "centering",
    "textgreater", "textbar", "beta", "lambda", "geq", "pm", "raggedright", "arraybackslash",
}  # fmt: skip


def parsed(text):
    """The rows of a LaTeX table as lists of cells; what LaTeX would stumble over is an error."""
    text = re.sub(r"(?m)^%.*\n", "", text)
    found = re.findall(r"(?s)\\begin\{(table\*?)\}\n(.*?)\\end\{(table\*?)\}", text)
    assert found and all(begin == end for begin, _, end in found)
    assert "".join(re.sub(r"(?s)\\begin\{(table\*?)\}.*?\\end\{\1\}", "", text)).strip() == ""
    rows = [parsed_float(inner) for _, inner, _ in found]
    assert all(len(each) <= 1 + FLOAT_ROWS for each in rows), "it fits on a page"
    return rows[0] + [row for each in rows[1:] for row in each[1:]]


def parsed_float(text):
    (columns,) = re.findall(r"\\begin\{tabular\}\{@\{\}(.*)@\{\}\}\n", text)
    paragraph = r">\{\\raggedright\\arraybackslash\}p\{[\d.]+\\linewidth\}"
    columns = len(re.findall(rf"{paragraph}|[lr]", columns))
    text = re.sub(paragraph, "p", text)
    assert text.count(r"\begin{tabular}") == text.count(r"\end{tabular}") == 1
    safe = re.sub(r"\\[&%_#$^{}`]", "·", text).replace(r"\\", "␤")
    depth = 0
    for letter in safe:
        depth += {"{": 1, "}": -1}.get(letter, 0)
        assert depth >= 0
    assert depth == 0
    assert set(re.findall(r"\\([A-Za-z]+)", safe)) <= TEX_COMMANDS
    assert safe.count("$") % 2 == 0
    assert not re.search(r"[#%~^<>|]", re.sub(r"\^\{\}", "", safe).replace("@{}", ""))
    assert safe.isascii() or set(safe) - {"·", "␤"} <= set(map(chr, range(128)))
    body = safe.partition(r"\toprule")[2].partition(r"\bottomrule")[0]
    rows = [re.sub(r"\\(midrule)", "", row).split("&") for row in body.split("␤") if row.strip()]
    rows = [row for row in rows if "".join(row).strip()]
    assert all(len(row) == columns for row in rows), rows
    return rows


STUDIES = ["quickstart", "deep_relu", "tanh_critical_line", "claims/C03"]


@pytest.mark.parametrize("name", STUDIES)
def test_the_latex_tables_can_be_read_by_latex(name, tmp_path):
    from nanlab.reporting.analysis import analyze
    from nanlab.reporting.sheets import sheets_of
    from nanlab.results.read import read_results

    document = [r"\documentclass[twocolumn]{article}\usepackage{booktabs,array}\begin{document}"]
    for sheet in sheets_of(analyze(read_results(RESULTS / name))).values():
        text = latex(sheet, "study")
        rows = parsed(text)
        assert len(rows) == len(sheet.rows) + 1
        document.append(text)
    engine = shutil.which("tectonic") or shutil.which("pdflatex")
    if engine:
        (tmp_path / "all.tex").write_text("\n".join([*document, r"\end{document}"]))
        flags = [] if "tectonic" in engine else ["-interaction=nonstopmode", "-halt-on-error"]
        done = subprocess.run([engine, *flags, "all.tex"], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout[-3000:]


def test_the_parser_of_latex_tables_finds_what_latex_would_stumble_over():
    sheet = Sheet(name="x", caption="50 % of a_b", head=["a", "b"], rows=[["$1 & {2}", "x|y^2"]],
                  numbers=frozenset({1}))  # fmt: skip
    text = latex(sheet, "study")
    assert [len(row) for row in parsed(text)] == [2, 2]
    for broken in (r"\&", r"\{", r"\%", r"\$"):
        with pytest.raises(AssertionError):
            parsed(text.replace(broken, broken[1:]))
    assert markdown(sheet).splitlines()[2] == r"| \$1 & {2} | x\|y^2 |"


def test_a_long_table_is_several_floats_and_a_narrow_one_takes_one_column():
    rows = [[str(n), "text"] for n in range(100)]
    sheet = Sheet(name="x", caption="Long.", head=["a", "b"], rows=rows, numbers=frozenset({0}))
    text = latex(sheet, "study")
    assert [row[0].strip() for row in parsed(text)[1:]] == [str(n) for n in range(100)]
    assert text.count(r"\begin{table}") == 3 and text.count(r"\label{tab:study-x}") == 1
    wide = Sheet(name="x", caption="Wide.", head=["a", "b"], rows=[["word " * 20, "1"]],
                 numbers=frozenset({1}))  # fmt: skip
    assert r"\begin{table*}" in latex(wide, "study")


# ---- data package and citation ----


def frictionless(folder):
    return subprocess.run(
        [sys.executable, "-m", "frictionless", "validate", "datapackage.json"], cwd=folder,
        capture_output=True, text=True, timeout=120, env=os.environ | {"COLUMNS": "200"},
    )  # fmt: skip


def test_frictionless_finds_the_tables_to_be_what_the_data_package_says(quickstart, tmp_path):
    done = frictionless(quickstart)
    assert done.returncode == 0, done.stdout + done.stderr
    for name in ("runs-csv", "runs-parquet", "blames-csv"):
        assert re.search(rf"{name} .*VALID", done.stdout)
    # And it would tell: a step that is a word, in a file whose hash is right.
    folder = tmp_path / "changed"
    shutil.copytree(quickstart, folder)
    text = (folder / "runs.csv").read_text()
    line = next(line for line in text.splitlines() if ",nan," in line)
    (folder / "runs.csv").write_text(text.replace(line, line.replace(",nan,", ",exploded,")))
    package = json.loads((folder / "datapackage.json").read_text())
    for resource in package["resources"]:
        content = (folder / resource["path"]).read_bytes()
        resource["hash"] = f"sha256:{hashlib.sha256(content).hexdigest()}"
        resource["bytes"] = len(content)
    (folder / "datapackage.json").write_text(json.dumps(package))
    done = frictionless(folder)
    assert done.returncode != 0
    assert "INVALID" in done.stdout


@pytest.mark.parametrize("name", ["quickstart", "gradient_descent", "claims/C03", "claims/B07"])
def test_every_column_has_a_meaning(name):
    columns = pl.read_parquet_schema(RESULTS / name / "runs.parquet")
    blames = pl.read_csv(RESULTS / name / "blames.csv").columns
    assert [column for column in (*columns, *blames) if not meaning_of(column)[0]] == []


def test_the_citation_is_valid(quickstart, tmp_path):
    told = yaml.safe_load((quickstart / "CITATION.cff").read_text())
    assert told["cff-version"] == "1.2.0"
    assert {"message", "title", "authors"} <= set(told), "what the format asks for"
    assert told["type"] == "dataset"
    manifest = json.loads((quickstart / "manifest.json").read_text())
    assert str(told["date-released"]) == manifest["finished"][:10]
    tool = shutil.which("cffconvert")
    if tool is None:
        pytest.skip("cffconvert is not installed, so its own check of CITATION.cff is left out")
    done = subprocess.run([tool, "--validate"], cwd=quickstart, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (tmp_path / "CITATION.cff").write_text(
        (quickstart / "CITATION.cff").read_text().replace("type: dataset", "type: rumor")
    )
    done = subprocess.run([tool, "--validate"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode != 0


# ---- folders, flags, a study that runs ----


def test_a_folder_that_holds_nothing_is_answered_with_a_sentence(tmp_path, capsys):
    assert main([str(tmp_path)]) == WRONG
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err == (
        f"{tmp_path}: this is no results folder: it has neither manifest.json nor the chunks of a "
        "running study\n"
    )


def test_a_folder_that_cannot_be_written_to_is_answered_with_a_sentence(tmp_path, capsys):
    folder = copied("gradient_descent", tmp_path)
    (folder / "figures").write_text("a file in the way")
    assert main([str(folder)]) == WRONG
    said = capsys.readouterr().err
    assert said.startswith(f"{folder}: the report cannot be written: ")
    assert said.count("\n") == 1


class Stopped(BaseException):
    """Stands for a study that is stopped, or still goes on, after its first chunk."""


@pytest.mark.slow
def test_a_study_that_is_running_can_be_looked_at(tmp_path, undrawn, monkeypatch, capsys):
    (tmp_path / "grid.toml").write_text(GRID)
    save, saved = Store.save, []

    def save_one(self, rows, curves=None, fingerprint=None):
        if saved:
            raise Stopped
        saved.append(rows.height)
        return save(self, rows, curves, fingerprint)

    with monkeypatch.context() as patch:
        patch.setattr(Store, "save", save_one)
        with pytest.raises(Stopped):
            sweep.main(["grid.toml", "--out", "x"])
    capsys.readouterr()
    chunks = hashes(Path("x/.chunks"))
    assert main(["x"]) == DONE
    said = capsys.readouterr().out
    assert (
        said.partition("\n")[2]
        == f"{saved[0]} of 300 runs, {300 - saved[0]} are missing: x/report.html\n"
    )
    assert hashes(Path("x/.chunks")) == chunks, "the study's own files are left alone"
    sentence = (
        f"The study is not finished: {saved[0]} runs of 300 are there and {300 - saved[0]} are "
        "missing."
    )
    assert sentence in Path("x/report.html").read_text()
    assert sentence in Path("x/report.md").read_text()
    assert "The study is not finished" in Path("x/REPRODUCE.md").read_text()
    with pytest.warns(UserWarning, match=f"x: {300 - saved[0]} of 300 runs are missing"):
        assert nanlab.load("x").height == saved[0]
    with pytest.raises(nanlab.LoadError, match="still running, and has no cells yet"):
        nanlab.load("x", "cells")
    # The same command goes on, and its report is of all runs.
    assert sweep.main(["grid.toml", "--out", "x"]) == DONE
    assert "report in x/report.html" in capsys.readouterr().out
    assert "not finished" not in Path("x/report.html").read_text()
    assert "300 runs, 1 seed." in Path("x/report.md").read_text()
    assert nanlab.load("x").height == 300


def test_a_study_of_which_nothing_is_there_yet_is_answered_with_a_sentence(
    tmp_path, monkeypatch, capsys
):
    (tmp_path / "grid.toml").write_text(GRID)

    def save_none(self, rows, curves=None, fingerprint=None):
        raise Stopped

    with monkeypatch.context() as patch:
        patch.setattr(Store, "save", save_none)
        with pytest.raises(Stopped):
            sweep.main(["grid.toml", "--out", "x"])
    capsys.readouterr()
    assert main(["x"]) == WRONG
    assert capsys.readouterr().err == (
        "x: no run is finished yet, all 300 are missing; try again when the first chunk is done\n"
    )


SMALL = GRID.replace("num = 300", "num = 9")


def test_of_very_many_runs_a_sweep_writes_no_report_by_itself(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sweep, "MOST_REPORTED", 8)
    (tmp_path / "grid.toml").write_text(SMALL)
    assert sweep.main(["grid.toml", "--out", "x"]) == DONE
    assert "python -m nanlab.report x writes it" in capsys.readouterr().out
    assert not Path("x/report.html").exists()


def test_a_sweep_ends_with_its_report_and_the_manifest_does_not_depend_on_it(
    tmp_path, monkeypatch, capsys, unsaved
):
    # With a title that is not shown as it is written: the report once waited for it to be the same.
    (tmp_path / "grid.toml").write_text(SMALL.replace("overflow?", "overflow? \\u001b[31m"))
    assert sweep.main(["grid.toml", "--out", "x"]) == DONE
    assert capsys.readouterr().out.endswith("9 runs in x\nreport in x/report.html\n")
    assert {path.name for path in Path("x").iterdir()} >= BY
    assert sweep.main(["grid.toml", "--out", "y", "--no-report"]) == DONE
    assert "report" not in capsys.readouterr().out
    assert not {path.name for path in Path("y").iterdir()} & BY
    with_, without = (json.loads(Path(f, "manifest.json").read_text()) for f in "xy")
    assert with_["files"] == without["files"]
    assert with_["command"].replace("--out x", "--out y") == without["command"]
    # A finished study's report is not made again, and a missing one is.
    monkeypatch.setattr("nanlab.reporting.write.write_figures", lambda folder, analysis: {})
    before = Path("x/report.html").stat().st_mtime_ns
    assert sweep.main(["grid.toml", "--out", "x"]) == DONE
    assert Path("x/report.html").stat().st_mtime_ns == before
    Path("x/report.html").unlink()
    assert sweep.main(["grid.toml", "--out", "x"]) == DONE
    assert Path("x/report.html").exists()


def test_a_report_that_fails_costs_the_sweep_nothing(tmp_path, monkeypatch, capsys):
    def broken(_):
        raise ValueError("something unforeseen")

    (tmp_path / "grid.toml").write_text(SMALL)
    monkeypatch.setattr("nanlab.reporting.write.analyze", broken)
    assert sweep.main(["grid.toml", "--out", "x"]) == DONE
    assert (
        "the report could not be written: ValueError: something unforeseen; "
        "python -m nanlab.report x tries again"
    ) in capsys.readouterr().err


def test_looking_for_help_does_not_import_jax_or_matplotlib():
    code = (
        "import sys, nanlab.report as r\n"
        "try: r.main(['--help'])\n"
        "except SystemExit: pass\n"
        "sys.exit('jax' in sys.modules or 'matplotlib' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60)
    assert done.returncode == 0


def test_the_committed_report_is_what_its_tables_say(repository, tmp_path, unsaved):
    committed, again = repository / "results/quickstart", tmp_path / "quickstart"
    again.mkdir()
    for name in ("manifest.json", "grid.resolved.toml", "runs.parquet", "blames.csv", "runs.csv"):
        shutil.copy(committed / name, again)
    assert main([str(again)]) == DONE
    # Pictures' bytes are those of one version of Matplotlib.
    said = [*committed.glob("*.md"), *committed.glob("tables/*"), committed / "CITATION.cff"]
    assert len(said) > 10
    for path in said:
        name = path.relative_to(committed)
        assert (again / name).read_text("utf-8") == path.read_text("utf-8"), name
