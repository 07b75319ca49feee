"""A page of documentation -> its blocks; and what they say when they are run, one after another.

`python tests/pages.py docs/tutorial.md` shows that. A comment above a fence says what is special:

    <!-- file: train.py -->      the block is written to that file, and not run
    <!-- file: train.py, in place of loss -->   it takes that function's place in the file
    <!-- exit status: 3 -->      what its last command ends with, if not 0
    <!-- not run: why -->        it needs what is not here
"""

import ast
import contextlib
import io
import json
import math
import os
import re
import shutil
import subprocess
import sys
import tempfile
import traceback
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RUN = ("", "file", "exit status")
"""The words above a block that is run, or written."""
_FENCE = re.compile(
    r"^(?:<!-- (?P<word>file|exit status|not run): (?P<said>[^\n]*) -->\n+)?"
    r"^```(?P<language>\w*)\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True, kw_only=True)
class Block:
    """A fenced block, and what the page shows of its output.

    Attributes:
        line: the fence's, from 1.
        word, said: of the comment above the fence; "" if there is none.
        shown: the ```text block that follows with only prose between them, or None.
    """

    line: int
    language: str
    text: str
    word: str
    said: str
    shown: str | None


def blocks_of(page: Path) -> list[Block]:
    """The blocks of a page in order; what is shown of a block's output is in the block."""
    text = page.read_text(encoding="utf-8")
    blocks: list[Block] = []
    for found in _FENCE.finditer(text):
        told = {name: value or "" for name, value in found.groupdict().items()}
        if told["language"] == "text" and not told["word"] and blocks and blocks[-1].shown is None:
            last = blocks.pop()
            blocks.append(Block(**{**vars(last), "shown": told["text"]}))
        else:
            line = text.count("\n", 0, found.start("language")) + 1
            blocks.append(Block(line=line, shown=None, **told))
    return blocks


def set_the_scene(folder: Path) -> None:
    """What a clone has that pages speak of; what commands write into is a copy."""
    for name in ("examples", "sweeps", "nanlab"):
        (folder / name).symlink_to(ROOT / name)
    for name in ("quickstart", "gradient_descent", "claims", "theory"):
        shutil.copytree(ROOT / "results" / name, folder / "results" / name)


def run(page: Path, blocks: list[Block], folder: Path) -> list[str]:
    """Run a page's blocks in `folder`, in a process of its own; the output of each."""
    told = json.dumps([str(page), [vars(block) for block in blocks]])
    # As wide as the pages are; this process's own two devices and types are not a reader's.
    env = {**os.environ, "COLUMNS": "88"}
    done = subprocess.run(
        [sys.executable, __file__], cwd=folder, env=env, input=told, capture_output=True, text=True
    )  # fmt: skip
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return json.loads(done.stdout.rpartition("\n")[2])


def check(page: Path, folder: Path) -> None:
    """Run the blocks of a page, and see whether they say what it shows."""
    blocks = [block for block in blocks_of(page) if is_run(block)]
    set_the_scene(folder)
    for block, output in zip(blocks, run(page, blocks, folder), strict=True):
        if block.shown is not None:
            where = f"{page.relative_to(ROOT)}:{block.line}"
            assert is_as_shown(block.shown, output), f"{where} says\n{output}"


def _run_here(page: str, blocks: list[dict]) -> list[str]:
    """The blocks of Python share one namespace, as in a session."""
    sys.path[0] = ""
    namespace: dict = {"__name__": "__main__"}
    outputs: list[str] = []
    for each in blocks:
        block = Block(**each)
        if block.word == "file":
            _write(block)
            outputs.append("")
        elif block.language == "python":
            outputs.append(_of_python(page, block, namespace))
        else:
            outputs.append(_of_shell(page, block))
    return outputs


def _write(block: Block) -> None:
    """A file of a page, or another function in place of the one of that name in the file."""
    name, _, replaced = block.said.partition(", in place of ")
    path, text = Path(name), block.text
    if replaced:
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        (old,) = [node for node in ast.parse("".join(lines)).body
                  if getattr(node, "name", None) == replaced]  # fmt: skip
        text = "".join([*lines[: old.lineno - 1], text, *lines[old.end_lineno :]])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def _of_python(page: str, block: Block, namespace: dict) -> str:
    written = io.StringIO()
    try:
        code = compile("\n" * block.line + block.text, page, "exec")
        with contextlib.redirect_stdout(written):
            exec(code, namespace)
    except BaseException:
        traceback.print_exc()
        sys.exit(1)
    return written.getvalue()


def _of_shell(page: str, block: Block) -> str:
    text = block.text.replace(".venv/bin/sphinx-build", f"{sys.executable} -m sphinx")
    text = text.replace(".venv/bin/python", sys.executable)
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", text], capture_output=True, text=True, check=False
    )
    expected = int(block.said) if block.word == "exit status" else 0
    if done.returncode != expected:
        sys.exit(
            f"{page}:{block.line}: exit status {done.returncode}\n{text}{done.stdout}{done.stderr}"
        )
    return done.stdout


_NUMBER = r"-?\d+\.\d{3,}(?:e[-+]\d+)?"


def is_as_shown(shown: str, output: str) -> bool:
    """Whether an output is what the page shows, in which ... stands for anything, or for nothing.

    Numbers with three decimals or more may differ by a hundredth: another machine rounds
    differently.
    """
    wanted, made = (" ".join(text.split()) for text in (shown, output))
    numbers = re.findall(_NUMBER, wanted)
    pattern = re.escape(re.sub(_NUMBER, "NUMBER", wanted))
    pattern = pattern.replace(r"\ \.\.\.\ ", r"\ (?:.*?\ )?").replace(r"\.\.\.", ".*?")
    found = re.fullmatch(pattern.replace("NUMBER", f"({_NUMBER})"), made)
    return found is not None and all(
        math.isclose(float(a), float(b), rel_tol=0.01)
        for a, b in zip(numbers, found.groups(), strict=True)
    )


def is_run(block: Block) -> bool:
    """Whether it is code that is run, or a file to write."""
    is_code = block.language in ("python", "sh")
    return block.word in RUN and (is_code or block.word == "file")


if __name__ == "__main__" and len(sys.argv) == 1:
    its_outputs = _run_here(*json.loads(sys.stdin.read()))
    print()
    print(json.dumps(its_outputs), end="")
elif __name__ == "__main__":
    this = Path(sys.argv[1]).resolve()
    to_run = [block for block in blocks_of(this) if is_run(block)]
    with tempfile.TemporaryDirectory() as scratch:
        set_the_scene(Path(scratch))
        for one, its_output in zip(to_run, run(this, to_run, Path(scratch)), strict=True):
            print(f"--- line {one.line} ---\n{its_output}", end="")
            if one.shown is not None and not is_as_shown(one.shown, its_output):
                print("!!! not as shown")
