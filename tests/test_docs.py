"""docs/, README: no block is left out unsaid, the dictionary is whole, links lead somewhere."""

import re
from pathlib import Path

import pages
import polars as pl
import pytest

from nanlab.grid.parameters import PARAMETERS
from nanlab.reporting.columns import columns_markdown
from nanlab.results.schema import BLAMES, RUNS

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*ROOT.glob("docs/*.md"), *ROOT.glob("docs/how-to/*.md"), ROOT / "README.md"])
LINKED = [
    *PAGES,
    *(
        ROOT / name
        for name in (
            "CHANGELOG.md",
            "CONTRIBUTING.md",
            "SECURITY.md",
            "benchmarks/README.md",
            "results/HISTORY.md",
            "results/claims/README.md",
        )
    ),
]
BLOCKS = {page: pages.blocks_of(page) for page in PAGES}
NOT_RUN = {
    "README.md": [
        "makes a virtual environment, as .ci/run does",
        "runs these tests, as .ci/run does",
        "docs/how-to/debug-a-script.md runs it, and tests/test_debug.py what it shows",
        "train_step stands for a function of yours",
        "train_step stands for a function of yours; docs/recorder.md runs such a training",
        "step stands for a function of yours; docs/lint.md, hunt.md and cure.md run such code",
    ],
    "docs/how-to/many-machines.md": [
        "needs Slurm",
        "needs a Kubernetes cluster",
        "installs a package",
        "starts a Ray cluster, which has tests of its own",
    ],
    "docs/how-to/on-a-gpu.md": ["needs a GPU"],
    "docs/how-to/replay-a-run.md": ["it computes again what the blocks above have computed"],
    "docs/ledger.md": ["it takes an hour"],
    "docs/theory.md": ["it takes a quarter of an hour"],
}
"""Why a block is not run, by page: none is left out that is not told here."""


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def test_no_block_is_left_out_but_for_a_reason_that_is_told():
    told = {
        name_of(page): [block.said for block in blocks if block.word == "not run"]
        for page, blocks in BLOCKS.items()
    }
    assert {name: reasons for name, reasons in told.items() if reasons} == NOT_RUN


def test_every_fence_of_a_page_is_seen_and_of_a_known_language():
    for page, blocks in BLOCKS.items():
        fences = re.findall(r"^```", page.read_text("utf-8"), re.MULTILINE)
        seen = sum(1 + (block.shown is not None) for block in blocks)
        directives = page.read_text("utf-8").count("```{")
        assert len(fences) == 2 * (seen + directives), name_of(page)
        assert {block.language for block in blocks} <= {"python", "sh", "toml", "text", ""}
        alone = [b.line for b in blocks if b.language == "text" and not b.word]
        assert not alone, f"{name_of(page)}: what is shown at {alone} follows no block"


@pytest.mark.parametrize(
    ("shown", "output", "same"),
    [
        ("a\nb", "a\nb\n", True),
        ("a  b", "a    b\n", True),
        ("a\n...\nd", "a\nb\nc\nd\n", True),
        ("a\n...\nd", "a\nd\n", True),
        ("a\n...\nd", "a\nb\nc\n", False),
        ("a\n...", "b\na\n", False),
        ("a", "a\nb\n", False),
        ("loss 1.2345", "loss 1.2346\n", True),
        ("loss 1.2345", "loss 1.5\n", False),
        ("loss 1.2345", "loss 1.4345\n", False),
        ("3 runs", "4 runs\n", False),
        ("a (b)", "a b\n", False),
    ],
)
def test_what_is_shown_is_held_against_what_came(shown, output, same):
    assert pages.is_as_shown(shown, output) is same


def test_the_dictionary_is_what_the_command_writes():
    again = "python -m nanlab.reporting > docs/tables.md"
    assert (ROOT / "docs/tables.md").read_text("utf-8") == columns_markdown(), again


@pytest.mark.parametrize("study", ["quickstart", "gradient_descent", "claims/A01", "claims/D01"])
def test_the_dictionary_has_the_columns_of_the_tables_in_their_order(study):
    folder = ROOT / "results" / study
    runs = pl.read_parquet(folder / "runs.parquet")
    own = [name for name in runs.columns if "." in name]
    parameters = [name for name in PARAMETERS if name in runs.columns and name != "steps"]
    told = [*RUNS][:2] + parameters + [*RUNS][2:-1]
    assert [name for name in runs.columns if name not in own] == told
    for name, (kind, *_) in RUNS.items():
        assert name == "device" or runs.schema[name] == kind, name
    blames = (folder / "blames.csv").read_text("utf-8").partition("\n")[0]
    assert blames.split(",") == list(BLAMES)


def test_every_column_of_the_dictionary_has_a_meaning():
    for row in re.findall(r"^\| `.*$", columns_markdown(), re.MULTILINE):
        assert re.fullmatch(r"\| `[\w.]+` \|.*[^ |] \|", row), row


def links_of(page: Path) -> list[str]:
    prose = re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    return re.findall(r"\]\(([^)\s]+)\)", prose)


@pytest.mark.parametrize("page", LINKED, ids=name_of)
def test_links_lead_to_files_that_are_there_or_to_https(page):
    for link in links_of(page):
        if ":" in link:
            assert re.fullmatch(r"https://[\w.-]+\.[a-z]+(/\S*)?", link), link
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{name_of(page)}: {link}"
        assert target.is_relative_to(ROOT), f"{name_of(page)}: {link}"
        if anchor:
            assert anchor in anchors_of(target), f"{name_of(page)}: {link}"


def anchors_of(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", page.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_page_is_reached_from_the_index():
    index = ROOT / "docs/index.md"
    reached, todo = {index}, [index]
    while todo:
        page = todo.pop()
        for link in links_of(page):
            target = (page.parent / link.partition("#")[0]).resolve()
            if target in PAGES and target not in reached:
                reached.add(target)
                todo.append(target)
    assert reached | {ROOT / "README.md"} == set(PAGES)
