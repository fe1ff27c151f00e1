"""What tests of the playground share: its page without the book around it, and the hands of a reader."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HEAD = """<!doctype html><html lang="en" data-theme="light"><head><title>Playground</title>
<meta charset="utf8"><link rel="icon" href="data:,">
<meta name="viewport" content="width=device-width"><style>
html { --pst-color-background: #ffffff; --pst-color-text-base: #222832; }
html[data-theme=dark] { --pst-color-background: #121212; --pst-color-text-base: #ced6dd; }
body { margin: 16px; background: var(--pst-color-background); color: var(--pst-color-text-base); }
</style></head><body><article>"""


def markup() -> str:
    """The raw HTML of the chapter: the playground, its scripts and the buttons of the experiments."""
    source = (ROOT / "book/playground.md").read_text(encoding="utf8")
    return "\n".join(re.findall(r"^```\{raw\} html\n(.*?)^```$", source, re.M | re.S))


def places(page):
    return page.evaluate("mdrPlayground.state().points")


def press(page, action):
    page.click(f"[data-do={action}]")


def chosen(page, name, right=True):
    """Choose a right or a wrong answer of an experiment, and return what it says."""
    answer = page.locator(
        f"[data-setup={name}] button" + ("[data-right]" if right else ":not([data-right])")
    ).first
    answer.click()
    return answer.inner_text()
