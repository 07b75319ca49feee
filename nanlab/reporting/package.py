"""Results -> datapackage.json and CITATION.cff: the schema of the tables, and their citation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl

from nanlab.results.dictionary import field_of
from nanlab.results.provenance import file_hash
from nanlab.results.read import Results
from nanlab.results.schema import TABLES

KEYS = {"runs": {"primaryKey": ["run_id"]}, "blames": {"primaryKey": ["blame_id"]}}
AUTHORS = "The authors of this study"
"""Placeholder in CITATION.cff until the user enters names."""


def data_package(results: Results) -> dict[str, Any]:
    """Return a Frictionless data package: every column with type, unit and meaning."""
    resources: list[dict[str, Any]] = []
    frames = {"runs": results.runs, "blames": results.blames, "curves": results.curves,
              **results.search}  # fmt: skip
    for name, (said, _) in TABLES.items():
        for ending in ("csv", "parquet"):
            path = results.folder / f"{name}.{ending}"
            if name in frames and path.is_file():
                resources.append(_resource(path, name, frames[name], said))
    manifest = results.manifest
    created = {"created": manifest["finished"]} if "finished" in manifest else {}
    return {
        "name": results.study_id.lower().replace("_", "-"),
        "title": results.title,
        "profile": "data-package",
        **created,
        "keywords": ["numerical stability", "NaN", "overflow", "neural networks"],
        "resources": resources,
    }


def _file(path: Path, name: str, description: str) -> dict[str, Any]:
    """Return the description of a file, with a hash to check it."""
    ending = path.suffix.removeprefix(".")
    return {
        "name": f"{name}-{ending}",
        "path": path.name,
        "description": description,
        "format": ending,
        "bytes": path.stat().st_size,
        "hash": f"sha256:{file_hash(path)}",
        "type": "file",
        "mediatype": "text/csv" if ending == "csv" else "application/vnd.apache.parquet",
    }


def _resource(path: Path, name: str, frame: pl.DataFrame, description: str) -> dict[str, Any]:
    fields = [field_of(column, kind, name) for column, kind in frame.schema.items()]
    resource = _file(path, name, description)
    if path.suffix == ".parquet":
        return {**resource, "columns": fields}
    return {
        **resource,
        "type": "table",
        "encoding": "utf-8",
        # An empty string is quoted in the CSV files; Frictionless takes it as missing too.
        "schema": {"fields": fields, "missingValues": [""], **KEYS.get(name, {})},
    }  # fmt: skip


def citation(results: Results) -> str:
    """Return the text of CITATION.cff, version 1.2.0, for the data of this study."""
    manifest = results.manifest
    version = manifest.get("environment", {}).get("nanlab")
    commit = manifest.get("git", {}).get("commit")
    lines = [
        "cff-version: 1.2.0",
        "message: If you use these results, please cite them, and nanlab, which produced them.",
        "type: dataset",
        f"title: {json.dumps(results.title, ensure_ascii=False)}",
        "authors:",
        f"  - name: {json.dumps(AUTHORS)}",
        f"version: {json.dumps(results.study_id)}",
    ]
    if "finished" in manifest:
        lines.append(f"date-released: {manifest['finished'][:10]}")
    lines += [
        "keywords:",
        *(f"  - {word}" for word in ("numerical stability", "NaN", "overflow", "JAX")),
        "references:",
        "  - type: software",
        "    title: nanlab",
        "    authors:",
        '      - name: "nanlab\'s maintainers"',
        "    license: Apache-2.0",
        *([f"    version: {json.dumps(version)}"] if version else []),
        *([f"    commit: {commit}"] if commit else []),
    ]
    return "\n".join(lines) + "\n"


def may_replace_citation(path: Path) -> bool:
    """Return whether the user has not entered names in CITATION.cff."""
    return not path.is_file() or AUTHORS in path.read_text("utf-8", "replace")
