"""`python -m nanlab.debug` on whole programs, most of them from public reports."""

import json
import os
import subprocess
import sys

import pytest

from nanlab import debug

# (program, call of which function, site that is marked in it, primitive, mechanism, phase)
FAULTS = [
    ("chromatic_exp", "leapfrog", 1, "origin", "exp", "overflow", "forward"),
    pytest.param(
        "schedule_pmap", "train_step", 1, "culprit", "div", "0/0", "update", marks=pytest.mark.slow
    ),
    pytest.param(
        "nnx_cosine", "distill", 3, "culprit", "div", "0/0", "forward", marks=pytest.mark.slow
    ),
]


def debugged(repository, folder, name):
    """Run a program under nanlab.debug: (exit status, its output, verdict)."""
    script = repository / f"tests/debugged/{name}.py"
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("JAX_", "XLA_"))}
    done = subprocess.run(
        [sys.executable, "-m", "nanlab.debug", "--json=verdict.json", str(script)],
        capture_output=True,
        text=True,
        cwd=folder,
        timeout=300,
        env=environment,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stdout, json.loads((folder / "verdict.json").read_text())


@pytest.mark.parametrize(
    ("name", "function", "call", "role", "primitive", "mechanism", "phase"), FAULTS
)
def test_the_fault_is_found_in_its_call_and_on_its_line(
    name, function, call, role, primitive, mechanism, phase, repository, own_folder
):
    status, _, verdict = debugged(repository, own_folder, name)
    assert status == debug.FAULT
    assert (verdict["function"], verdict["call"]) == (function, call)
    site = verdict[role]
    assert (site["primitive"], site["mechanism"], site["phase"]) == (primitive, mechanism, phase)
    lines = (repository / f"tests/debugged/{name}.py").read_text().splitlines()
    assert lines[site["line"] - 1].endswith(f"# <-- {role}")


def test_a_fault_of_the_compiled_program_alone_is_found_or_there_is_none(repository, own_folder):
    # Whether XLA contracts the difference into one instruction is up to the processor.
    status, output, verdict = debugged(repository, own_folder, "softmax_fma")
    assert status == (debug.FAULT if verdict["fault"] else 0)
    if verdict["fault"]:
        assert verdict["function"] == "act"
        # Outputs are read late: the script may go on for two calls.
        assert 0 <= output.count("True") - (verdict["call"] - 1) <= 2
    else:
        assert output.count("True") == 6


@pytest.mark.slow
def test_the_gradient_of_a_jitted_loss_is_what_it_is_unwatched(repository, own_folder):
    status, output, verdict = debugged(repository, own_folder, "jit_of_grad_of_jitted")
    script = repository / "tests/debugged/jit_of_grad_of_jitted.py"
    plain = subprocess.run([sys.executable, str(script)], capture_output=True, text=True)
    assert (status, verdict["fault"], verdict["calls"]) == (0, False, 3)
    assert output == plain.stdout
