"""Two folders of studies -> versions.csv: which runs end otherwise under another JAX (E11).

    python sweeps/claims/versions.py EARLIER LATER

Both hold studies of the same grids that `python -m nanlab.claims --out` left, run by the same code
under two versions of JAX. The table and a manifest go to results/claims/E11.
"""

import json
import shlex
import sys
from pathlib import Path

import polars as pl

from nanlab.provenance import file_hash, git_state
from nanlab.tables import write_atomically

OUT = Path("results/claims/E11")
FAULT = ("nan", "inf", "recovered")
MADE_BY = ("nanlab", "python", "jax", "jaxlib", "flax", "optax", "numpy", "system", "platform",
           "device_kind", "code_sha256")  # fmt: skip


def compared(earlier: Path, later: Path) -> pl.DataFrame:
    """A row for a study that both folders hold: how many of its runs end alike, and how not.

    Raises:
        SystemExit: the two were run by different code, or hold different runs.
    """
    rows = []
    for folder in sorted(path.parent for path in earlier.glob("*/manifest.json")):
        if not (later / folder.name / "manifest.json").is_file():
            continue
        if _made_by(folder)["code_sha256"] != _made_by(later / folder.name)["code_sha256"]:
            sys.exit(f"{folder.name}: the two were run by different code of nanlab")
        told = ["run_id", "outcome", "fault_step", "nan_step"]
        runs = pl.read_parquet(folder / "runs.parquet").select(told)
        others = pl.read_parquet(later / folder.name / "runs.parquet").select(told)
        both = runs.join(others, on="run_id", suffix="_later")
        if not both.height == runs.height == others.height:
            sys.exit(f"{folder.name}: the two hold different runs")
        rows.append({"study": folder.name, **_counts(both)})
    if not rows:
        sys.exit(f"no study is in both {earlier} and {later}")
    return pl.DataFrame(rows)


def _counts(both: pl.DataFrame) -> dict[str, int]:
    nan, later = pl.col("outcome") == "nan", pl.col("outcome_later") == "nan"
    fault = pl.col("outcome").is_in(FAULT)
    fault_later = pl.col("outcome_later").is_in(FAULT)
    counted = {
        "runs": pl.len(),
        "nan_earlier": nan.sum(),
        "nan_later": later.sum(),
        "nan_earlier_only": (nan & ~later).sum(),
        "nan_later_only": (later & ~nan).sum(),
        "fault_earlier_only": (fault & ~fault_later).sum(),
        "fault_later_only": (fault_later & ~fault).sum(),
        "same_outcome": (pl.col("outcome") == pl.col("outcome_later")).sum(),
        "same_outcome_and_steps": (
            (pl.col("outcome") == pl.col("outcome_later"))
            & pl.col("fault_step").eq_missing(pl.col("fault_step_later"))
            & pl.col("nan_step").eq_missing(pl.col("nan_step_later"))
        ).sum(),
    }
    return both.select(expression.alias(name) for name, expression in counted.items()).row(
        0, named=True
    )


def _made_by(folder: Path) -> dict[str, str]:
    environment = json.loads((folder / "manifest.json").read_text("utf-8"))["environment"]
    return {name: environment[name] for name in MADE_BY}


def main(earlier: Path, later: Path) -> None:
    """Write the table and what made it."""
    table = compared(earlier, later)
    OUT.mkdir(parents=True, exist_ok=True)
    write_atomically(
        OUT / "versions.csv", lambda path: path.write_bytes(table.write_csv().encode())
    )
    first = table.row(0, named=True)["study"]
    stems = [f"{name[0]}{int(name[1:])}" for name in table.get_column("study").to_list()]
    manifest = {
        "title": "Which runs end otherwise under another version of JAX?",
        "command": "python sweeps/claims/versions.py EARLIER LATER",
        "earlier": _made_by(earlier / first),
        "later": _made_by(later / first),
        "each_made_by": shlex.join(["python", "-m", "nanlab.claims", *stems, "--out"])
        + " EARLIER, under the one version, and LATER, under the other",
        "git": git_state(),
        "files": {"versions.csv": file_hash(OUT / "versions.csv")},
    }
    text = json.dumps(manifest, indent=1) + "\n"
    write_atomically(OUT / "manifest.json", lambda path: path.write_text(text, encoding="utf-8"))


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit((__doc__ or "").strip())
    main(Path(sys.argv[1]), Path(sys.argv[2]))
