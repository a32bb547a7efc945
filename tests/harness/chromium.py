"""Headless Chromium, driven by its own driver: both must be installed, nothing is ever fetched."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
DRIVERS = ("chromedriver", "chromium.chromedriver")
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--disable-lcd-text",  # coloured edges would double a screenshot's size
    "--lang=en",
)
SCRIPT_WITHIN = 30.0  # seconds


def why_not() -> str | None:
    """What is missing, in words; None when a browser can be started."""
    if _first(BROWSERS) is None:
        return "there is no Chromium here (Debian: apt-get install chromium)"
    if _first(DRIVERS) is None:
        return "there is no chromedriver here (Debian: apt-get install chromium-driver)"
    try:
        import selenium  # noqa: F401
    except ImportError:
        return "selenium is not installed (it is in the extra 'test')"
    return None


@contextmanager
def chromium(profile: Path, *, width: int = 1200, height: int = 900) -> Iterator[Any]:
    """A WebDriver whose page has that many pixels. ``profile``: an empty directory for all that it stores."""
    from selenium.webdriver import Chrome, ChromeOptions
    from selenium.webdriver.chrome.service import Service

    options = ChromeOptions()
    options.binary_location = _first(BROWSERS) or ""
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    for flag in (*FLAGS, f"--user-data-dir={profile}", f"--window-size={width},{height}"):
        options.add_argument(flag)
    service = Service(executable_path=_first(DRIVERS))  # named, so that selenium does not look for one to download
    driver = Chrome(options=options, service=service)
    try:
        driver.set_script_timeout(SCRIPT_WITHIN)
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        yield driver
    finally:
        driver.quit()


def console_errors(driver: Any) -> list[str]:
    """What the page's console told since this was asked last, that is worse than information."""
    return [entry["message"] for entry in driver.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")]


def _first(names: tuple[str, ...]) -> str | None:
    return next(filter(None, map(shutil.which, names)), None)
