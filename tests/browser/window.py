"""A visitor's browser window."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from selenium import webdriver
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from servers import eventually

T = TypeVar("T")
ARTEFACTS = Path(os.environ.get("CORECAST_ARTEFACTS", "/tmp/corecast-artefacts"))
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-sync",
    "--disable-background-networking",
    "--disable-component-update",
]


class Window:
    """A window with a chat: `said` are the elements with its lines, `line` is the field to type in."""

    def __init__(
        self, profile: Path, url: str, said: str, line: str, size: tuple[int, int] = (560, 680)
    ) -> None:
        options = webdriver.ChromeOptions()
        for flag in [*FLAGS, "--window-size={},{}".format(*size), f"--user-data-dir={profile}"]:
            options.add_argument(flag)
        service = webdriver.ChromeService("/usr/bin/chromedriver")
        self.driver = webdriver.Chrome(options=options, service=service)
        self.url, self.said, self.line = url, said, line
        self.driver.get(url)

    def texts(self, selector: str) -> list[str]:
        """The texts of all such elements, as they stand together at one moment."""

        def look() -> list[str] | None:
            try:
                found = self.driver.find_elements(By.CSS_SELECTOR, selector)
                return [element.text for element in found] + [""]
            except StaleElementReferenceException:
                return None  # the page has just been changed

        return eventually(look, "a page that stands still")[:-1]

    def text(self, selector: str) -> str:
        """The text of the first such element, "" if there is none."""
        return next(iter(self.texts(selector)), "")

    def say(self, line: str) -> None:
        self.driver.find_element(By.CSS_SELECTOR, self.line).send_keys(line, Keys.ENTER)

    def lines(self) -> list[str]:
        return self.texts(self.said)

    def hears(self, line: str) -> None:
        """Waits for the line; it must be there once."""
        eventually(lambda: line in self.lines(), f"{line!r} in the page")
        assert self.lines().count(line) == 1, self.lines()

    def photograph(self, name: str) -> None:
        ARTEFACTS.mkdir(parents=True, exist_ok=True)
        assert self.driver.save_screenshot(str(ARTEFACTS / f"{name}.png"))


def elsewhere(window: Window, look: Callable[[], T], other: T, move: Callable[[], None]) -> T:
    """Moves the window on until what serves it is not what serves the other one."""

    def found() -> T | None:
        here = eventually(look, "a connection")
        if here != other:
            return here
        move()
        return None

    return eventually(found, "another worker")
