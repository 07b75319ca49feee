"""The how-to pages and the others: their blocks are run, and what they show is what comes."""

import re
from pathlib import Path

import pages
import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*ROOT.glob("docs/*.md"), *ROOT.glob("docs/how-to/*.md"), ROOT / "README.md"])


def with_blocks(words):
    """The pages that have such blocks to run; the tutorial is in tests/test_docs.py."""
    return [
        pytest.param(page, id=str(page.relative_to(ROOT)))
        for page in PAGES
        if page.stem != "tutorial"
        and any(
            block.word in words and block.word != "file" and pages.is_runnable(block)
            for block in pages.blocks_of(page)
        )
    ]


@pytest.mark.parametrize("page", with_blocks(pages.QUICK))
def test_the_blocks_of_a_page_run_and_say_what_it_shows(page, tmp_path):
    pages.check(page, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("page", with_blocks(pages.SLOW))
def test_the_blocks_that_take_long_run_too(page, tmp_path):
    pages.check(page, tmp_path, pages.SLOW)


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
