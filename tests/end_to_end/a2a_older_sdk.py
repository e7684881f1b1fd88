"""A Python with a2a-sdk 0.3, which cannot be installed beside the version that the tests run on."""

import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
BESIDE_THE_CHECKOUTS_OWN = HERE.parent.parent / ".venv-a2a-0.3"
REQUIREMENTS = HERE / "a2a_03" / "requirements.txt"
STEP_TIMEOUT_S = 90  # for each of the two steps


class NoOlderSdk(Exception):
    """The SDK is not here and cannot be had."""


def find_older_python(cache: Path) -> Path:
    """The Python that A2A_03_PYTHON names, or else one made in `cache`. Raises NoOlderSdk."""
    if named := os.environ.get("A2A_03_PYTHON"):
        return Path(named)
    for folder in (BESIDE_THE_CHECKOUTS_OWN, cache):
        if _has_older_sdk(_python(folder)):
            return _python(folder)
    _run(sys.executable, "-m", "venv", "--clear", cache)
    _run(_python(cache), "-m", "pip", "install", "-q", "-r", REQUIREMENTS)
    return _python(cache)


def _python(folder: Path) -> Path:
    return folder / "bin" / "python"


def _has_older_sdk(python: Path) -> bool:
    # Not only whether it is there: its making may have been interrupted.
    command = (python, "-c", "import a2a.server.apps, uvicorn")
    return python.exists() and subprocess.run(command, capture_output=True).returncode == 0


def _run(*command: Path | str) -> None:
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=STEP_TIMEOUT_S)
    except subprocess.CalledProcessError as error:
        said = (error.stderr or error.stdout).strip()
        raise NoOlderSdk(said.rpartition("\n")[-1]) from error
    except subprocess.TimeoutExpired as error:
        raise NoOlderSdk(f"not done after {STEP_TIMEOUT_S} s") from error
