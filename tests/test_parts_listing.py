"""`python -m nanlab.parts`, and the page that it writes."""

from pathlib import Path

import pytest

from nanlab.parts.__main__ import main
from nanlab.parts.listing import PARTS, read_by, readers

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("kind", PARTS)
def test_every_part_has_a_sentence_and_a_source(kind):
    for name, entry in PARTS[kind].items():
        assert entry.doc.endswith("."), name
        assert entry.source.strip(), name


def test_the_page_of_parts_is_what_the_command_writes(capsys):
    assert main(["--markdown"]) == 0
    written = capsys.readouterr().out
    again = "python -m nanlab.parts --markdown > docs/parts.md"
    assert (ROOT / "docs" / "parts.md").read_text() == written, again


def test_the_list_names_every_part_at_any_width(capsys, monkeypatch):
    for columns in ("40", "200"):
        monkeypatch.setenv("COLUMNS", columns)
        assert main([]) == 0
        lines = capsys.readouterr().out.splitlines()
        named = {line.strip() for line in lines if line.startswith("  ") and line[2] != " "}
        assert named == {name for table in PARTS.values() for name in table}
        assert max(map(len, lines)) <= 110


def test_one_kind_is_listed_alone_and_an_unknown_one_is_told(capsys):
    assert main(["clip"]) == 0
    assert capsys.readouterr().out.startswith("clip: 5\n")
    assert main(["clipping"]) == 2
    assert "unknown kind clipping; choose from task, model" in capsys.readouterr().err


def test_who_reads_a_knob_is_known_from_the_tables():
    assert readers("temperature") == {"loss": ("contrastive",)}
    assert read_by("momentum") == 'optimizer "momentum", "nesterov", "muon"'
    assert read_by("lr") == ""
