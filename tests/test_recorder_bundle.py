"""The recorder's bundle on disk, and what it does when a process ends."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import recorded
from recorded import TRAININGS

import nanlab
from nanlab import replay
from nanlab.recorder import bundle
from nanlab.recorder.fault import Detection

PREAMBLE = """
import sys
sys.path.insert(0, {tests!r})
import jax, jax.numpy as jnp, numpy as np
import nanlab, recorded

def batch_of(t, at):
    batch = recorded.batch_of(t)
    batch[3] = -1 if t == at else batch[3]
    return batch
"""


def script(body):
    tests = str(Path(__file__).parent)
    return PREAMBLE.format(tests=tests) + textwrap.dedent(body)


def python(body, **more):
    command = [sys.executable, "-c", script(body)]
    return subprocess.run(command, capture_output=True, text=True, check=False, **more)


def faulty(folder, at=5, **options):
    with pytest.raises(nanlab.Fault) as caught, nanlab.Recorder(folder, **options) as recorder:
        training = TRAININGS["donated"](recorder.watch)
        for t in range(at + 1):
            batch = recorded.batch_of(t)
            batch[3] = -1 if t == at else batch[3]
            training.advance(batch)
    return caught.value


@pytest.fixture(scope="module")
def fault(tmp_path_factory):
    return faulty(tmp_path_factory.mktemp("bundles") / "run.nan")


def test_a_bundle_holds_the_arguments_the_history_and_the_verdict(fault):
    read = bundle.read_bundle(fault.folder.parent)
    assert read.folder == fault.folder
    assert fault.folder.name == "step-5"
    assert read.verdict.splitlines()[:3] == str(fault.verdict).splitlines()[:3]
    leaves = jax.tree.leaves(fault.arguments)
    for stored, leaf in zip(read.arguments.values(), leaves, strict=True):
        assert stored.tobytes() == np.asarray(leaf).tobytes() and stored.dtype == leaf.dtype
    assert [row["step"] for row in read.about["history"]] == list(range(6))
    assert read.about["history"][-1]["[1]['loss']"] == "nan"
    assert read.about["exact"] is True and read.about["compared"] == 12
    assert read.about["verdict"]["culprit"]["primitive"] == "sqrt"


def test_its_verdict_has_the_call_for_cures(fault):
    function, args, kwargs = fault.verdict.call
    assert function.__name__ == "step"
    assert recorded.bits((args, kwargs)) == recorded.bits(fault.arguments)


def test_its_reproducer_reproduces(fault):
    done = subprocess.run([sys.executable, str(fault.folder / "reproduce.py")], check=False)
    assert done.returncode == 0


def test_the_command_shows_it_without_jax(fault, capsys):
    assert replay.main([str(fault.folder.parent)]) == 0
    out = capsys.readouterr().out
    assert out.startswith("Step 5 of ") and "Replayed exactly: 12 logged values" in out
    assert "The NaN: sqrt, domain" in out and "step 4 of" in out
    assert "Cures: fault.verdict.cures() in the training, or nanlab.cure(" in out
    assert f"with those in {fault.folder / 'arguments.npz'}." in out
    code = (
        "import sys; sys.modules['jax'] = None; from pathlib import Path;"
        "from nanlab.recorder.bundle import read_bundle; print(read_bundle(Path(sys.argv[1])))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(fault.folder)],
                          capture_output=True, text=True, check=True)  # fmt: skip
    assert done.stdout == out


def test_a_folder_without_a_bundle_gets_a_sentence(tmp_path, capsys):
    assert replay.main([str(tmp_path / "run.nan")]) == 2
    assert "holds no bundle of nanlab.Recorder" in capsys.readouterr().err
    broken = tmp_path / "run.nan" / "step-1"
    broken.mkdir(parents=True)
    (broken / "fault.json").write_text("{")
    assert replay.main([str(tmp_path / "run.nan")]) == 2
    assert "step-1 cannot be read: JSONDecodeError" in capsys.readouterr().err


def test_leaves_that_numpy_lacks_are_stored_without_pickle(tmp_path):
    leaves = [jnp.ones(2, jnp.bfloat16), jax.random.key(1), "mode", None, 3, 2.5 + 1j,
              np.float32(1), jnp.zeros((0, 2))]  # fmt: skip
    names = [f"x{i}" for i in range(len(leaves))]
    folder = bundle.save(
        Detection(step=1, call=1, function="f", detected=2, leaves=leaves, names=names), tmp_path
    )
    read = bundle.read_bundle(folder)
    assert read.about["types"][0] == "bfloat16" and read.arguments["x0"].dtype == np.uint16
    assert read.about["types"][1] == "key<threefry2x32>"
    assert str(read.arguments["x2"]) == "'mode'"
    assert read.arguments["x7"].shape == (0, 2)


def test_a_second_fault_of_the_same_step_has_a_folder_of_its_own(tmp_path):
    finding = Detection(step=1, call=1, function="f", detected=2)
    folders = [bundle.save(finding, tmp_path).name for _ in range(3)]
    assert folders == ["step-1", "step-1-2", "step-1-3"]
    assert bundle.read_bundle(tmp_path).folder.name == "step-1-3"


def test_a_full_disk_is_a_remark_and_leaves_nothing(tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    recorder = nanlab.Recorder(tmp_path / "run.nan", on_fault="skip")
    training = TRAININGS["donated"](recorder.watch)
    for t in range(20):
        batch = recorded.batch_of(t)
        batch[3] = -1 if t == 5 else batch[3]
        training.advance(batch)
    recorder.flush()
    assert any("could not be saved" in remark for remark in recorder.remarks)
    assert recorder.faults[0].folder is None
    assert not list((tmp_path / "run.nan").iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("delay", [0.0, 0.003, 0.01, 0.03])
def test_a_process_killed_while_it_saves_leaves_a_whole_bundle_or_none(tmp_path, delay):
    body = """
        from nanlab.recorder import bundle
        from nanlab.recorder.fault import Detection
        from pathlib import Path
        leaves = [np.ones(2_000_000, np.float32) for _ in range(10)]
        names = [f"x{i}" for i in range(10)]
        print("ready", flush=True)
        for n in range(1000):
            found = Detection(step=n, call=n, function="f", detected=n, leaves=leaves, names=names)
            bundle.save(found, Path("run.nan"))
    """
    process = subprocess.Popen(
        [sys.executable, "-c", script(body)], cwd=tmp_path, stdout=subprocess.PIPE
    )
    process.stdout.readline()
    time.sleep(0.2 + delay)
    process.kill()
    process.wait()
    process.stdout.close()
    folders = bundle.bundles_in(tmp_path / "run.nan")
    assert len(folders) == len(list((tmp_path / "run.nan").glob("step-*")))
    for folder in folders:
        assert len(bundle.read_bundle(folder).arguments) == 10


ENDS = {
    "the script ends": ("", 0),
    "an exception": ("raise KeyError('mine')", 1),
    "sys.exit": ("sys.exit(4)", 4),
}


@pytest.mark.slow  # Ctrl-C, below, is one such end
@pytest.mark.parametrize("end", ENDS)
def test_a_fault_of_the_last_steps_is_found_when_the_process_ends(tmp_path, end):
    code, status = ENDS[end]
    done = python(f"""
        recorder = nanlab.Recorder("run.nan")
        training = recorded.single(recorder.watch)
        for t in range(6):
            training.advance(batch_of(t, 5))
        {code}
    """, cwd=tmp_path)  # fmt: skip
    assert done.returncode == status
    assert "Step 5 of " in done.stderr and "The NaN: sqrt, domain" in done.stderr
    assert bundle.read_bundle(tmp_path / "run.nan").about["step"] == 5


@pytest.mark.skipif(os.name == "nt", reason="no such signal")
def test_ctrl_c_leaves_the_bundle_and_stays_ctrl_c(tmp_path):
    done = python("""
        import os, signal
        with nanlab.Recorder("run.nan") as recorder:
            training = recorded.single(recorder.watch)
            for t in range(6):
                training.advance(batch_of(t, 5))
            os.kill(os.getpid(), signal.SIGINT)
            import time; time.sleep(5)
    """, cwd=tmp_path)  # fmt: skip
    assert done.returncode == -signal.SIGINT
    assert "KeyboardInterrupt" in done.stderr and "Step 5 of " in done.stderr
    assert bundle.read_bundle(tmp_path / "run.nan").about["step"] == 5


def test_json_is_strict(fault):
    text = (fault.folder / "fault.json").read_text()
    json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))
