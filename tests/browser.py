"""Pages in a real Chromium that nobody sees, and servers that are there while they are looked at."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.common.exceptions import TimeoutException
from selenium.webdriver.common.by import By
from selenium.webdriver.support.wait import WebDriverWait


@contextmanager
def browser() -> Iterator[webdriver.Chrome]:
    """A Chromium without a window, which keeps what pages write to its console."""
    binary, driver = shutil.which("chromium") or shutil.which("google-chrome"), shutil.which("chromedriver")
    if binary is None or driver is None:
        pytest.skip("no Chromium with its driver here to open pages with")
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for flag in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(flag)
    options.add_argument("--window-size=1600,1200")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    chrome = webdriver.Chrome(options, webdriver.ChromeService(driver))
    try:
        yield chrome
    finally:
        chrome.quit()


def look(chrome: webdriver.Chrome, url: str, shown: Sequence[str], unanswered: Sequence[str] = ()) -> None:
    """Opens a page. Fails unless it comes to show all these words, and where its scripts told of an error.

    Args:
        unanswered: parts of addresses that it asks its own server for in vain.
    """
    chrome.get(url)
    missing = list(shown)

    def there(chrome: webdriver.Chrome) -> bool:
        text = chrome.find_element(By.TAG_NAME, "body").text
        missing[:] = [word for word in shown if word not in text]
        return not missing

    try:
        WebDriverWait(chrome, 60).until(there)
    except TimeoutException as error:
        text = chrome.find_element(By.TAG_NAME, "body").text
        raise AssertionError(f"{url} never showed {missing}, but {text[:3000]}") from error
    severe = [entry for entry in chrome.get_log("browser") if entry["level"] == "SEVERE"]
    errors = [
        entry
        for entry in severe
        if entry["source"] != "network" or not any(part in entry["message"] for part in unanswered)
    ]
    assert not errors, f"{url}: {errors}"


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
            until = time.monotonic() + 180
            while not _answers(f"http://127.0.0.1:{port}"):
                assert process.poll() is None and time.monotonic() < until, log.read_text()[-3000:]
                time.sleep(0.3)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(timeout=60)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=10):
            return True
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
