"""Models -> grid.schema.json: `python -m nanlab.grid` writes it."""

from nanlab.grid import SCHEMA_FILE, schema_text

if __name__ == "__main__":
    SCHEMA_FILE.write_text(schema_text(), encoding="utf-8")
    print(SCHEMA_FILE)
