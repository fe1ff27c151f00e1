"""Find misspelt words in the prose of the book and the README files, and results typed into the book.

A word must be in the dictionary of pyspellchecker or in ci/words.txt, one word per line; case does not
matter. A number that looks like a result (a decimal fraction, or one with a unit, a percent sign or "times")
must come from `glue`, unless ci/typed_numbers.yml allows it and gives the reason.
"""

import argparse
import re
import sys
from functools import cache
from pathlib import Path

import yaml
from spellchecker import SpellChecker, WordFrequency

from prose import prose, readable

ROOT = Path(__file__).resolve().parents[1]
WORD = re.compile(r"[A-Za-z][A-Za-z']*[A-Za-z]")
UNITS = (
    "%|percent|points?|times|ms|milliseconds?|s|seconds?|min|minutes?|h|hours?|days?|"
    "KB|MB|GB|TB|PB|KiB|MiB|GiB|bytes|images a second|vectors a second"
)
NUMBER = r"\d(?:[\d,]*\d)?(?:\.\d+)?"
RESULT = re.compile(rf"(?<![\w.@-])(?:\d[\d,]*\.\d+(?![\w.-]*\d)|{NUMBER}\s?(?:{UNITS})(?!\w))")


def misspelt(root: Path) -> list[str]:
    """Return a line for each unknown word of a page, and each word of ci/words.txt that no page has."""
    path = root / "ci/words.txt"
    ours = [line.strip() for line in path.read_text(encoding="utf8").splitlines() if line.strip()]
    own, used, lines = {word.lower() for word in ours}, set(), []
    for page in readable(root):
        unknown = set()
        for text in prose(page):
            for found in WORD.findall(text):
                word = found.lower().removesuffix("'s").strip("'")
                if word in own:
                    used.add(word)
                elif len(word) > 2 and word not in dictionary():
                    unknown.add(found)
        name = page.relative_to(root)
        lines += [f"{name}: got {word!r}, expected a word of the dictionary" for word in sorted(unknown)]
    lines += [f"ci/words.txt: {word!r} is on no page: remove it" for word in sorted(own - used)]
    return lines


@cache
def dictionary() -> WordFrequency:
    """Load the English words, British and American; takes a second."""
    return SpellChecker().word_frequency


def typed_numbers(root: Path) -> list[str]:
    """Return a line for each number in prose that looks like a result, and each unused allowance."""
    listed = yaml.safe_load((root / "ci/typed_numbers.yml").read_text(encoding="utf8")) or {}
    allowed = {name: [p for group in groups for p in group["phrases"]] for name, groups in listed.items()}
    used, lines = set(), []
    for page in readable(root):
        if page.parent.name != "book":  # nothing can be glued into the others
            continue
        name = page.relative_to(root).as_posix()
        phrases = [*allowed.get(name, []), *allowed.get("everywhere", [])]
        for text in prose(page):
            text = " ".join(text.split())
            for phrase in phrases:
                if phrase in text:
                    used |= {(name, phrase), ("everywhere", phrase)}
                    text = text.replace(phrase, " ")
            for match in RESULT.finditer(text):
                about = text[max(match.start() - 30, 0) : match.end() + 30]
                lines.append(f"{name}: got {match.group()!r} in {about!r}, expected glue")
    unused = [(name, p) for name, phrases in allowed.items() for p in phrases if (name, p) not in used]
    return lines + [f"ci/typed_numbers.yml: {p!r} is not in {name}: remove it" for name, p in unused]


def main() -> int:
    """Check from the command line; 1 if there is a fault."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    faults = [*misspelt(ROOT), *typed_numbers(ROOT)]
    print(*faults or ["no misspelt word and no typed result in the prose"], sep="\n")
    return bool(faults)


if __name__ == "__main__":
    sys.exit(main())
