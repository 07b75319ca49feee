"""Results -> datapackage.json, CITATION.cff: what the tables mean, and how they are cited."""

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
"""Stands in CITATION.cff until a person puts names in its place."""


def data_package(results: Results) -> dict[str, Any]:
    """The tables as a Frictionless data package: every column with type, unit and meaning."""
    resources: list[dict[str, Any]] = []
    frames = {"runs": results.runs, "blames": results.blames, "curves": results.curves}
    for name, (said, _) in TABLES.items():
        for ending in ("csv", "parquet"):
            path = results.folder / f"{name}.{ending}"
            if path.is_file():
                if name not in frames:
                    frames[name] = pl.read_parquet(path.with_suffix(".parquet"))
                resources.append(_resource(path, name, frames[name], said))
    manifest = results.manifest
    made = {"created": manifest["finished"]} if "finished" in manifest else {}
    return {
        "name": results.study_id.lower().replace("_", "-"),
        "title": results.title,
        "profile": "data-package",
        **made,
        "keywords": ["numerical stability", "NaN", "overflow", "neural networks"],
        "resources": resources,
    }


def _file(path: Path, name: str, said: str) -> dict[str, Any]:
    """A file of which a reader can check that it is this one."""
    ending = path.suffix.removeprefix(".")
    return {
        "name": f"{name}-{ending}",
        "path": path.name,
        "description": said,
        "format": ending,
        "bytes": path.stat().st_size,
        "hash": f"sha256:{file_hash(path)}",
        "type": "file",
        "mediatype": "text/csv" if ending == "csv" else "application/vnd.apache.parquet",
    }


def _resource(path: Path, name: str, frame: pl.DataFrame, said: str) -> dict[str, Any]:
    fields = [field_of(column, kind, name) for column, kind in frame.schema.items()]
    told = _file(path, name, said)
    if path.suffix == ".parquet":
        return {**told, "columns": fields}
    return {
        **told,
        "type": "table",
        "encoding": "utf-8",
        # In the CSV files an empty text is quoted; to Frictionless both are missing.
        "schema": {"fields": fields, "missingValues": [""], **KEYS.get(name, {})},
    }  # fmt: skip


def citation(results: Results) -> str:
    """CITATION.cff, version 1.2.0, for the data of this study."""
    manifest = results.manifest
    version = manifest.get("environment", {}).get("nanlab")
    commit = manifest.get("git", {}).get("commit")
    lines = [
        "cff-version: 1.2.0",
        "message: If you use these results, please cite them, and nanlab, which made them.",
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
    """Whether nobody has put names into CITATION.cff yet."""
    return not path.is_file() or AUTHORS in path.read_text(encoding="utf-8")
