"""A headless Chromium for tests and screenshots of the page."""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--no-first-run", "--disable-quic", "--hide-scrollbars",
    "--force-color-profile=srgb",
)  # fmt: skip


def missing() -> str | None:
    """Why no browser can be started here, or None."""
    try:
        import selenium  # noqa: F401
    except ImportError:
        return "selenium is not installed (extra llada-uni[dev])"
    absent = [name for name in ("chromium", "chromedriver") if shutil.which(name) is None]
    return f"{' and '.join(absent)} not found (Debian packages chromium, chromium-driver)" if absent else None


class Page:
    """One visit. ``errors``: what the browser complained about so far."""

    def __init__(self, driver: Any, size: tuple[int, int]) -> None:
        self.driver, self.size = driver, size

    def js(self, code: str) -> Any:
        """Value of an expression."""
        return self.driver.execute_script(f"return ({code})")

    def wait(self, code: str, seconds: float = 120) -> Any:
        """Wait until an expression is true; fails otherwise."""
        limit = time.monotonic() + seconds
        while not (value := self.js(code)):
            assert time.monotonic() < limit, f"never became true: {code}"
            time.sleep(0.1)
        return value

    def open(self, url: str) -> None:
        """Go to the page and wait for its script."""
        self.driver.get(url)
        self.wait("!!document.querySelector('.ll-header h1') && !!document.querySelector('#ll-run-generate')")

    def press(self, selector: str, text: str = "") -> None:
        """Press the first visible element, with this text where one is given."""
        found = f"[...document.querySelectorAll({json.dumps(selector)})].find((one) => one.offsetParent && "
        found += f"(!{json.dumps(text)} || one.textContent.trim() === {json.dumps(text)}))"
        self.wait(f"!!{found}", 20)
        self.driver.execute_script(f"{found}.click()")

    def tab(self, name: str) -> None:
        """Go to a tab."""
        self.press("#ll-tabs [role=tab]", name)
        self.wait(f"!!document.querySelector('#ll-tab-{name.lower()} .ll[data-on]')", 20)

    def say(self, tab: str, words: str) -> None:
        """Write into the text field of a tab."""
        field = self.driver.find_element("css selector", f"#ll-words-{tab} textarea")
        field.clear()
        field.send_keys(words)

    def run(self, tab: str, state: str = "done") -> Any:
        """Press the button of a tab, wait for the end, and give the record."""
        self.press(f"#ll-run-{tab}")
        self.wait(f"['done', 'failed'].includes(llada.tabs.{tab}.state)")
        assert self.js(f"llada.tabs.{tab}.state") == state, self.js(f"llada.tabs.{tab}.error")
        return self.js(f"llada.tabs.{tab}.record")

    def brush(self) -> None:
        """One stroke over the lower left of the picture to edit."""
        from selenium.webdriver import ActionChains

        self.wait("document.querySelector('.ll-paint') && document.querySelector('.ll-paint').width > 10")
        canvas = self.driver.find_element("css selector", ".ll-paint")
        self.driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", canvas)
        across, down = canvas.size["width"] // 4, canvas.size["height"] // 5
        moves = ActionChains(self.driver).move_to_element_with_offset(canvas, -across, down).click_and_hold()
        moves.move_by_offset(across // 2, down // 2).move_by_offset(across // 2, 0).release().perform()

    def step(self, number: int) -> None:
        """Move the scrubber."""
        code = "const one = document.querySelector('.ll-scrub'); one.value = arguments[0]; "
        self.driver.execute_script(code + "one.dispatchEvent(new Event('input'))", number)

    def picture(self, path: str, *, whole: bool = True) -> None:
        """Screenshot of the page, or of what is seen of it."""
        height = self.js("document.documentElement.scrollHeight") if whole else self.size[1]
        self._resize(max(height, self.size[1]))
        time.sleep(0.6)
        self.driver.save_screenshot(path)
        self._resize(self.size[1])

    def hosts(self) -> set[str]:
        """Servers the page asked for anything."""
        found: set[str] = set()
        for entry in self.driver.get_log("performance"):
            about = json.loads(entry["message"])["message"]
            if about["method"] == "Network.requestWillBeSent":
                found.add(about["params"]["request"]["url"])
        return {"/".join(one.split("/")[:3]) for one in found if one.startswith(("http", "ws"))}

    def errors(self) -> list[str]:
        """What stands in the console as an error."""
        return [one["message"] for one in self.driver.get_log("browser") if one["level"] == "SEVERE"]

    def _resize(self, height: int) -> None:
        shape = {"width": self.size[0], "height": height, "deviceScaleFactor": 1, "mobile": self.size[0] < 500}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", shape)


@contextmanager
def browser(size: tuple[int, int] = (1280, 860), *, dark: bool = False) -> Iterator[Page]:
    """A fresh visit with a window of ``size`` (width, height)."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = str(shutil.which("chromium"))
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        for flag in (*FLAGS, f"--user-data-dir={profile}"):
            options.add_argument(flag)
        driver = webdriver.Chrome(options=options, service=Service(str(shutil.which("chromedriver"))))
        try:
            page = Page(driver, size)
            page._resize(size[1])
            if dark:
                wish = {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}
                driver.execute_cdp_cmd("Emulation.setEmulatedMedia", wish)
            yield page
        finally:
            driver.quit()
