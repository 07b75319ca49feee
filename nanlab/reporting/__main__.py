"""Data dictionary -> docs/tables.md: `python -m nanlab.reporting` writes it to its output."""

from nanlab.reporting.columns import columns_markdown

if __name__ == "__main__":
    print(columns_markdown(), end="")
