"""Screenshots of the page in ``docs/images``: ``python docs/make_screenshots.py``.

Needs the extras ``ui`` and ``dev`` and the Debian packages chromium and chromium-driver; uses the embedded model.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests" / "ui"), str(ROOT / "src")]

from browsing import Page, browser, missing  # noqa: E402

PICTURES = ROOT / "docs" / "images"
DESKTOP, PHONE = (1280, 800), (390, 844)
COLOURS = 256


@contextmanager
def served() -> Iterator[str]:
    """Address of a page of its own."""
    command = [sys.executable, "-m", "llada_uni", "ui", "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=ROOT) as server:
        assert server.stderr is not None
        for line in server.stderr:
            found = re.match(r"page on (\S+)", line)
            if found:
                yield found[1]
                break
        server.terminate()


def keep(page: Page, name: str, *, whole: bool = True) -> None:
    """A screenshot as a small PNG."""
    with tempfile.TemporaryDirectory() as folder:
        page.picture(f"{folder}/one.png", whole=whole)
        shot = Image.open(f"{folder}/one.png").convert("RGB")
    PICTURES.mkdir(exist_ok=True)
    path = PICTURES / f"{name}.png"
    shot.quantize(COLOURS, dither=Image.Dither.NONE).save(path, optimize=True)
    print(f"{path.relative_to(ROOT)}  {shot.width}x{shot.height}  {path.stat().st_size / 1024:.0f} KiB")


def seeded(page: Page, tab: str, seed: int) -> None:
    """Write a seed into the settings, which stay closed otherwise."""
    page.press(f"#ll-settings-{tab} > button")
    page.driver.find_element("css selector", f"#ll-{tab}-seed input, #ll-{tab}-seed textarea").send_keys(str(seed))
    page.press(f"#ll-settings-{tab} > button")


def visit(page: Page, url: str, prefix: str) -> None:
    """Every tab once, with what it is for."""
    page.open(url)
    seeded(page, "generate", 3)
    page.say("generate", "a blue fish")
    page.press("#ll-run-generate")
    page.wait("(llada.tabs.generate.now.step || 0) > 22 && llada.tabs.generate.now.picture")
    keep(page, f"{prefix}-live", whole=False)
    page.wait("llada.tabs.generate.state === 'done'")
    page.press(".ll-stage[data-tab=generate] button", "Edit")
    page.brush()
    seeded(page, "edit", 4)
    page.say("edit", "a blue fish and a yellow star")
    page.run("edit")
    keep(page, f"{prefix}-edit")
    page.press(".ll-stage[data-tab=edit] button", "Ask")
    page.say("ask", "what is in the picture?")
    page.run("ask")
    keep(page, f"{prefix}-ask")
    page.tab("Story")
    seeded(page, "story", 0)
    page.say("story", "draw three pictures: first there is one pink car. then one more comes in each picture.")
    page.run("story")
    keep(page, f"{prefix}-story")
    page.press(".ll-thumb:last-child")
    page.step(20)
    keep(page, f"{prefix}-inspect")


def main() -> None:
    """All of them; the phone's in dark colours."""
    if (reason := missing()) is not None:
        raise SystemExit(f"error: {reason}")
    with served() as url:
        with browser(DESKTOP) as page:
            visit(page, url, "desktop")
        with browser(PHONE, dark=True) as page:
            visit(page, url, "phone")


if __name__ == "__main__":
    main()
