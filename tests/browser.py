"""Pages in a real Chromium that nobody sees, and servers that are there while they are looked at."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


def page(url: str, wait_s: float = 2.0) -> str:
    """What a page shows, as HTML, once its scripts have run for so long. Fails where they wrote an error."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no Chromium here to open pages with")
    flags = (
        "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--window-size=1600,1200",
        f"--virtual-time-budget={round(1000 * wait_s)}", "--timeout=60000",
    )  # fmt: skip
    shown = subprocess.run(
        [browser, *flags, "--dump-dom", url], capture_output=True, text=True, timeout=180, check=True
    )
    errors = [line for line in shown.stderr.splitlines() if "CONSOLE" in line and "rror" in line]
    assert not errors, errors
    return shown.stdout


@contextmanager
def served(log: Path, *command: str) -> Iterator[str]:
    """A server of this environment, by its command, in which PORT is where it listens. Yields its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    binary = str(Path(sys.executable).parent / command[0])
    with log.open("w") as file:
        told = [binary, *(word.replace("PORT", port) for word in command[1:])]
        process = subprocess.Popen(told, stdout=file, stderr=file)
        try:
            until = time.monotonic() + 120
            while not _answers(f"http://127.0.0.1:{port}"):
                assert process.poll() is None and time.monotonic() < until, log.read_text()[-3000:]
                time.sleep(0.3)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(timeout=30)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=10):
            return True
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
