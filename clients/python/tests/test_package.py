"""The package: its types, its wheel, and the examples of its README."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import venv
from pathlib import Path
from typing import Any

from conftest import PACKAGE, PASSWORD, Service


def run(*command: str, **options: Any) -> str:
    output = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options)
    assert output.returncode == 0, output.stdout
    return output.stdout


def test_types_are_complete(tmp_path: Path) -> None:
    run(sys.executable, "-m", "mypy", "--cache-dir", str(tmp_path), cwd=PACKAGE)


def test_a_wheel_is_built_and_installed(service: Service, tmp_path: Path) -> None:
    pip = ("-m", "pip", "--disable-pip-version-check")
    build = ("wheel", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", str(tmp_path), str(PACKAGE))
    run(sys.executable, *pip, *build)
    [wheel] = tmp_path.glob("*.whl")
    assert wheel.name == "mayfly_verifier-0.1.0-py3-none-any.whl"
    venv.create(tmp_path / "venv", with_pip=True)
    python = str(tmp_path / "venv/bin/python")
    run(python, *pip, "install", "--no-index", str(wheel))
    program = f"""
import mayfly_verifier
from pathlib import Path
verifier = mayfly_verifier.Verifier({service.url!r}, username="admin", password={PASSWORD!r})
print(verifier.verify({service.issue()[1]!r}).username)
assert (Path(mayfly_verifier.__file__).parent / "py.typed").exists()
"""
    assert run(python, "-c", program, cwd=tmp_path, env={**os.environ, "PYTHONPATH": ""}) == "admin\n"


def test_the_examples_of_the_readme_run(service: Service) -> None:
    text = (PACKAGE / "README.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(blocks) == 3
    program = (
        "\n".join(blocks)
        .replace("https://tokens.example", service.url)
        .replace('"shop", password="secret"', f'"admin", password="{PASSWORD}"')
    )
    prelude = f"jwt = {service.issue()[1]!r}\n"
    output = run(sys.executable, "-c", prelude + program, env={**os.environ, "PYTHONPATH": str(PACKAGE / "src")})
    assert output.startswith("403: The token lacks a scope"), output
