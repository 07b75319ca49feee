"""A finished study that a test has changed, with a manifest that says so."""

import hashlib
import json
from pathlib import Path

from nanlab.results.files import sealed
from nanlab.results.manifest import MANIFEST

FIELDS = {
    "title": "", "command": "python -m nanlab.sweep x.toml", "grid_sha256": "",
    "fingerprint": "", "environment": {}, "git": {}, "runs": 0, "groups": 1, "outcomes": {},
    "crashed": 0, "blame_status": {}, "distinct_blames": 0, "witnesses": {}, "files": {},
    "wall_s": {"all": 1.0}, "finished": "2026-01-01T00:00:00Z",
}  # fmt: skip


def reseal(folder, environment=(), **changes):
    """Write a manifest of the tables and the grid that are in `folder` now, with these changes."""
    folder = Path(folder)
    path = folder / MANIFEST
    manifest = FIELDS | (json.loads(path.read_text("utf-8")) if path.is_file() else {}) | changes
    manifest.pop("sha256", None)
    manifest["environment"] = manifest["environment"] | dict(environment)
    tables = [*folder.glob("*.parquet"), *folder.glob("*.csv")]
    manifest["files"] = {table.name: _sha256(table) for table in sorted(tables)}
    if (folder / "grid.resolved.toml").is_file():
        manifest["grid_sha256"] = _sha256(folder / "grid.resolved.toml")
    path.write_text(json.dumps(sealed(manifest)), encoding="utf-8")


def _sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()
