"""The pages of documentation: their blocks are run, and what they show is what comes."""

import re
import subprocess
import sys
from pathlib import Path

import pages
import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*ROOT.glob("docs/*.md"), *ROOT.glob("docs/how-to/*.md"), ROOT / "README.md"])


WITH_CODE = [
    pytest.param(page, id=str(page.relative_to(ROOT)))
    for page in PAGES
    if any(pages.is_run(block) and block.word != "file" for block in pages.blocks_of(page))
]


@pytest.mark.optimized
@pytest.mark.slow
@pytest.mark.parametrize("page", WITH_CODE)
def test_the_blocks_of_a_page_run_and_say_what_it_shows(page, tmp_path):
    pages.check(page, tmp_path)


@pytest.mark.slow
def test_the_site_is_built_without_a_warning(tmp_path):
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-E"]
    built = subprocess.run(
        [*command, "-d", str(tmp_path / "trees"), str(ROOT / "docs"), str(tmp_path / "site")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert built.returncode == 0, built.stderr
    for page in ROOT.glob("docs/**/*.md"):
        made = tmp_path / "site" / page.relative_to(ROOT / "docs").with_suffix(".html")
        assert made.is_file(), made


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("```sh\nfalse\n```\n", "exit status 1"),
        ("<!-- exit status: 3 -->\n```sh\ntrue\n```\n", "exit status 0"),
        ("```python\n1 / 0\n```\n", 'page.md", line 2'),
    ],
)
def test_a_block_that_fails_or_ends_otherwise_is_seen(text, said, tmp_path):
    page = tmp_path / "page.md"
    page.write_text(text)
    with pytest.raises(AssertionError, match=re.escape(said)):
        pages.run(page, pages.blocks_of(page), tmp_path)
