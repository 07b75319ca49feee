"""Texts of a stranger's study in every output: shown as they are, run or interpreted by none."""

import csv
import io
import json
import re
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import polars as pl
import pytest
import yaml
from markdown_it import MarkdownIt
from rich.console import Console

from nanlab.cli.progress import ProgressBar
from nanlab.report import DONE, main
from nanlab.reporting.rendering import rendered
from nanlab.reporting.words import visible
from nanlab.results.files import csv_text, plain_texts
from nanlab.results.read import read_results
from nanlab.results.text_tables import latex_escape, latex_floats, markdown_escape

STUDY = Path(__file__).resolve().parents[1] / "results/stable_learning_rate"

HOSTILE = {
    "escape sequences": "a \x1b[31mred\x1b[0m\x07 \x9b2J \x1b]0;title\x07 b\u202egnp.exe\x00",
    "HTML": "</script><script>alert(1)</script><img src=x onerror=alert(1)>&amp;&lt;<!-- '\"",
    "a formula": '=HYPERLINK("http://x.example","y")',
    "LaTeX": r"\input{/etc/passwd} \end{document} $x_1$ 50 % & #1 ~ ^2 {a} [b] ``q'' -- *",
    "Markdown": "# h | **b** __c__ ~~d~~ [l](javascript:1) ![i](x) `c` <b>e</b> &copy; *f*\n- g",
    "YAML and JSON": "key: value # no\n- item {a: [1]} \"q\" 'q' !!python/object:x.y \\u0041 \\",
    "other letters": "_名_ \U0001f642 é β ½ ﬁ \u2028 \ufffe \x85 \ufeff",
    "mathematics": "$\\frac{1}{2}$ and $x^2$ or $",
}
each = pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
OUTCOMES = 3
# What a terminal, a page or a parser would act on; line ends are the file's own.
CONTROL = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\ufeff\ufffe]")


@pytest.fixture(scope="module", params=HOSTILE.values(), ids=HOSTILE)
def hostile(request, tmp_path_factory):
    """The report of a study whose title, names and values are such a text."""
    text = request.param
    before = read_results(STUDY)
    renamed = {"sgd": text, "momentum": f"{text} 2"}
    runs = before.runs.gather_every(20).with_columns(pl.col("optimizer").replace(renamed))
    blames = before.blames.with_columns(origin_module=pl.lit(text), culprit_source=pl.lit(text))
    manifest = {**before.manifest, "command": f"python -m nanlab.sweep {visible(text)}"}
    folder = tmp_path_factory.mktemp("hostile") / "study"
    folder.mkdir()
    results = replace(
        before, folder=folder.parent / text.replace("/", "-").replace("\x00", ""), runs=runs,
        blames=blames, manifest=manifest, resolved={**before.resolved, "title": text},
        notes=(text,),
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("nanlab.reporting.write.read_results", lambda _: results)
        current = (results.grid_sha256, results.manifest)
        patch.setattr("nanlab.reporting.write.current_study", lambda _: current)
        patch.setattr("nanlab.reporting.figures.WIDTHS", {"1col": 3.35})
        patch.setattr("nanlab.reporting.figures.figures_of", lambda _: ["critical"])
        with pytest.MonkeyPatch.context() as inner:
            printed = io.StringIO()
            inner.setattr("sys.stdout", printed)
            assert main([str(folder)]) == DONE
    return text, folder, printed.getvalue()


def squeezed(text):
    return " ".join(visible(text).split())


def test_no_file_and_no_terminal_gets_a_control_character(hostile):
    _, folder, printed = hostile
    assert not CONTROL.search(printed)
    names = [path for path in folder.rglob("*") if path.suffix not in (".pdf", "")]
    assert len(names) > 12
    for path in names:
        found = CONTROL.search(path.read_text("utf-8"))
        assert not found, (path.name, found)


class Page(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.heading, self._in = [], "", ""

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self._in = tag
        assert not [name for name, _ in attrs if name.startswith("on")]

    def handle_data(self, data):
        self.heading += data if self._in == "h1" else ""

    def handle_endtag(self, tag):
        self._in = ""


def test_the_page_shows_the_title_and_has_its_own_elements_alone(hostile):
    text, folder, _ = hostile
    page = Page()
    page.feed((folder / "report.html").read_text("utf-8"))
    assert page.heading == visible(text)
    assert page.tags.count("script") == 2 and page.tags.count("b") == OUTCOMES
    assert not {"img", "a", "link", "iframe", "base", "form"} & set(page.tags)


def test_markdown_renders_to_the_text_itself(hostile):
    text, folder, _ = hostile
    for path in [folder / "report.md", folder / "REPRODUCE.md", *folder.glob("tables/*.md")]:
        tokens = MarkdownIt("commonmark").enable("table").parse(path.read_text("utf-8"))
        inner = [child for token in tokens for child in token.children or ()]
        kinds = {token.type for token in (*tokens, *inner)}
        assert not kinds & {"html_inline", "html_block", "link_open", "em_open", "s_open"}, path
        images = [dict(child.attrs)["src"] for child in inner if child.type == "image"]
        assert all(re.fullmatch(r"figures/[a-z]+-2col\.svg", source) for source in images)
        if path.name == "report.md":
            shown = "".join(child.content for child in tokens[1].children)
            assert " ".join(shown.split()) == squeezed(text)
            assert tokens[0].tag == "h1" and [t.tag for t in tokens].count("h1") == 2


def test_every_row_of_a_markdown_table_has_the_columns_of_its_head(hostile):
    _, folder, _ = hostile
    for path in folder.glob("tables/*.md"):
        rows = [line for line in path.read_text("utf-8").splitlines() if line.startswith("|")]
        widths = {len(re.findall(r"(?<!\\)\|", row)) for row in rows}
        assert len(rows) > 2 and len(widths) == 1, path


def test_latex_has_no_command_of_the_text(hostile):
    _, folder, _ = hostile
    for path in [*folder.glob("tables/*.tex"), folder / "figures/figures.tex"]:
        content = re.sub(r"(?m)^%.*\n", "", path.read_text("utf-8"))
        commands = set(re.findall(r"\\([A-Za-z]+)", content.replace(r"\\", " ")))
        assert not commands & {"input", "frac", "u", "x"}, path
        assert content.count(r"\begin{") == content.count(r"\end{")
        plain = re.sub(r"\\[&%_#${}^`\"']|\\\\", "", content)
        assert plain.count("{") == plain.count("}")
        assert plain.count("$") % 2 == 0 and not re.search(r"[#~|]|(?<!\\)%", plain)
        assert not re.search(r"\\\\\s*[\[*]", content), "a row is no argument of the one before"
        assert re.search(r"\\label\{(tab|fig):[A-Za-z0-9:._-]+\}", content)


def test_figures_are_well_formed_and_hold_the_title(hostile):
    text, folder, _ = hostile
    found = list(folder.glob("figures/*.svg"))
    assert found
    for path in found:
        tree = ElementTree.parse(path)
        titles = [e.text for e in tree.iter("{http://purl.org/dc/elements/1.1/}title")]
        assert titles[0].startswith(visible(text).rstrip())
        assert path.with_suffix(".pdf").read_bytes().startswith(b"%PDF-")


def test_json_and_yaml_hold_the_title(hostile):
    text, folder, _ = hostile
    package = json.loads((folder / "datapackage.json").read_text("utf-8"))
    assert package["title"] == visible(text)
    assert re.fullmatch(r"[a-z0-9._/-]+", package["name"])
    citation = yaml.safe_load((folder / "CITATION.cff").read_text("utf-8"))
    assert citation["title"] == visible(text)
    assert list(citation)[:3] == ["cff-version", "message", "type"] and len(citation) == 9


@each
def test_a_spreadsheet_runs_no_text_of_a_table(text):
    texts = [
        text,
        f"+{text}",
        f"-{text}",
        f"@{text}",
        f"\t{text}",
        f"'={text}",
        f"'{text}",
        "",
        "x",
    ]
    frame = pl.DataFrame({"value": texts, "number": [-1.5] * len(texts)})
    written = csv_text(frame)
    rows = list(csv.reader(io.StringIO(written, newline="")))[1:]
    assert not [row[0] for row in rows if row[0][:1] in ("=", "+", "-", "@", "\t", "\r") and row[0]]
    assert rows[0][1] == "-1.5", "a number stays one"
    back = plain_texts(pl.read_csv(io.BytesIO(written.encode()), schema=frame.schema))
    assert back["value"].to_list() == texts


@each
def test_each_format_escapes_a_text_on_its_own(text):
    html = MarkdownIt("commonmark").render(markdown_escape(text))
    assert "<a " not in html and "<img" not in html and "<em>" not in html and "<b>" not in html
    table = latex_floats(["a"], [[text]] * 45, columns="l", caption=text, label=text,
                         environment="table*")  # fmt: skip
    assert table.count(r"\begin{table*}") == table.count(r"\end{tabular}") == 2
    assert table.count(r"\label{") == 1
    assert not re.search(r"(?<!\\)[%#&]", latex_escape(text))
    assert yaml.safe_load(rendered_citation(visible(text)))["title"] == visible(text)


def rendered_citation(title):
    class Nothing:
        study_id = title

    return rendered(
        "CITATION.cff", title=title, authors=title, r=Nothing, manifest={}, env={}, git={}
    )


@each
def test_progress_and_messages_are_printed_without_control_characters(text):
    printed = io.StringIO()
    bar = ProgressBar(Console(file=printed, width=50))
    bar.crashed(3, text)
    assert visible(text) in printed.getvalue()
    assert not CONTROL.search(printed.getvalue())
