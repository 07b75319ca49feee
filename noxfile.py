"""What contributors and continuous integration run: `nox --list`."""

import nox

nox.options.default_venv_backend = "venv"
nox.options.reuse_existing_virtualenvs = True
nox.options.sessions = ["test", "lint"]


def install(session: nox.Session, extra: str = "dev") -> None:
    session.install("-c", "constraints.txt", "-e", f".[{extra}]")


@nox.session
def test(session: nox.Session) -> None:
    """Run the quick tests; arguments go to pytest (`nox -s test -- -m smoke`)."""
    install(session)
    session.run("pytest", *session.posargs)


@nox.session
def slow(session: nox.Session) -> None:
    """Run the slow tests."""
    install(session)
    session.run("pytest", "-m", "slow", *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """Check format, lint, spelling and types."""
    install(session)
    session.run("ruff", "format", "--check", ".")
    session.run("ruff", "check", ".")
    session.run("codespell")
    session.run("pyright")


@nox.session
def docs(session: nox.Session) -> None:
    """Build the documentation as a site, docs/_build."""
    install(session, "docs")
    session.run("sphinx-build", "-W", "docs", "docs/_build")


@nox.session
def generated(session: nox.Session) -> None:
    """Write the files that are generated from the code: schema, data dictionary, parts."""
    install(session)
    session.run("python", "-m", "nanlab.grid", "--write")
    for command, path in (("reporting", "docs/tables.md"), ("parts", "docs/parts.md")):
        options = ["--markdown"] if command == "parts" else []
        with open(path, "w", encoding="utf-8") as file:
            session.run("python", "-m", f"nanlab.{command}", *options, stdout=file)
