"""Photograph the playground, playground.png next to this file: python make_playground_picture.py _build/html

The picture that stays on its page where no script runs: mixed classes with and without MDR, forty steps on.
"""

import shutil
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

STEPS = """count => {
  const step = document.querySelector("[data-do=step]");
  for (let k = 0; k < count; k++) step.click();
}"""

if __name__ == "__main__":
    page_file = Path(sys.argv[1]).resolve() / "playground.html"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 1400}, color_scheme="light")
        page.goto(f"{page_file.as_uri()}#play&compare=1")
        page.evaluate(STEPS, 40)
        page.add_style_tag(content=".bd-header-article { display: none; }")  # it would lie over the top
        page.locator("#mdr-playground").screenshot(path=Path(__file__).with_name("playground.png"))
        browser.close()
