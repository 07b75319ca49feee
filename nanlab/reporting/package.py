"""Results -> datapackage.json: the schema of the tables."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import polars as pl

from nanlab.reporting.templates import AUTHORS
from nanlab.results.dictionary import field_of
from nanlab.results.provenance import file_hash
from nanlab.results.read import Results
from nanlab.results.schema import TABLES

KEYS = {"runs": {"primaryKey": ["run_id"]}, "blames": {"primaryKey": ["blame_id"]}}


def data_package(folder: Path, results: Results) -> dict[str, Any]:
    """Return a Frictionless data package: every column with type, unit and meaning."""
    resources: list[dict[str, Any]] = []
    frames = {"runs": results.runs, "blames": results.blames, "curves": results.curves,
              **results.search}  # fmt: skip
    for name, (said, _) in TABLES.items():
        for ending in ("csv", "parquet"):
            path = folder / f"{name}.{ending}"
            if name in frames and path.is_file():
                resources.append(_resource(path, name, frames[name], said))
    manifest = results.manifest
    created = {"created": manifest["finished"]} if "finished" in manifest else {}
    return {
        "name": re.sub("[^a-z0-9.]+", "-", results.study_id.lower()),
        "title": results.title,
        "profile": "data-package",
        **created,
        "keywords": ["numerical stability", "NaN", "overflow", "neural networks"],
        "resources": resources,
    }


def _resource(path: Path, name: str, frame: pl.DataFrame, description: str) -> dict[str, Any]:
    """Return the description of a file and its columns, with a hash to check it."""
    ending = path.suffix.removeprefix(".")
    fields = [field_of(column, kind, name) for column, kind in frame.schema.items()]
    resource = {
        "name": f"{name}-{ending}", "path": path.name, "description": description,
        "format": ending, "bytes": path.stat().st_size, "hash": f"sha256:{file_hash(path)}",
        "type": "file", "mediatype": "application/vnd.apache.parquet",
    }  # fmt: skip
    if ending == "parquet":
        return {**resource, "columns": fields}
    # An empty string is quoted in the CSV files; Frictionless takes it as missing too.
    schema = {"fields": fields, "missingValues": [""], **KEYS.get(name, {})}
    csv = {"type": "table", "mediatype": "text/csv", "encoding": "utf-8", "schema": schema}
    return {**resource, **csv}


def may_replace_citation(path: Path) -> bool:
    """Return whether the user has not entered names in CITATION.cff."""
    return not path.is_file() or AUTHORS in path.read_text("utf-8", "replace")
