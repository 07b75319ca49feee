"""The command `nanlab`: it finds the commands, and says what it does not know."""

import pytest

import nanlab
from nanlab.__main__ import COMMANDS, find_main, main

pytestmark = pytest.mark.smoke


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_a_module_with_a_main(name):
    assert callable(find_main(name))


def test_the_commands_run_with_their_arguments_and_give_their_exit_status(capsys):
    assert main(["parts", "loss"]) == 0
    assert "softmax_cross_entropy" in capsys.readouterr().out
    assert main(["parts", "no such kind"]) == 2


def test_what_is_no_command_is_a_sentence_and_2(capsys):
    assert main(["swep", "grid.toml"]) == 2
    assert (
        capsys.readouterr().err == "nanlab: there is no command 'swep'; did you mean \"sweep\"?\n"
    )
    assert main(["--frobnicate"]) == 2
    assert "nanlab --help" in capsys.readouterr().err


@pytest.mark.parametrize(("arguments", "status"), [([], 2), (["--help"], 0), (["-h"], 0)])
def test_help_lists_every_command(capsys, arguments, status):
    assert main(arguments) == status
    shown = capsys.readouterr()
    assert all(f"  {name} " in shown.out + shown.err for name in COMMANDS)


def test_the_version_is_shown(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"nanlab {nanlab.__version__}\n"
