"""Find misspelt words and clumsy phrases in the prose of the book and the README files, and typed results.

A word must be in the dictionary of pyspellchecker or in ci/words.txt, one word per line; case does not
matter. A number that looks like a result (a decimal fraction, or one with a unit, a percent sign or "times")
must come from `glue`, unless ci/typed_numbers.yml allows it and gives the reason. A phrase of PHRASES, and a
sentence of more than LONGEST words, has to be written in plain English; pages of LATER may still have some.
"""

import argparse
import re
import sys
from collections.abc import Iterable, Iterator
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

LONGEST = 35  # words of a sentence; the aim is 25
# Of a sentence; the next one begins with a capital letter, or with code or mathematics, which are blanks.
END = re.compile(r"(?<=[.!?])[)\"”]?\s+(?=[A-Z(“\"])|(?<=[.!?])\s{2,}|\s*$")
START = r"(?:^|(?<=[.!?:]\s))"  # of a sentence
VERB = r"(?:is|are|was|were|does|do|did|has|have|had|can|could|will|would)"
INVERTING = r"(?:Not|Never|Only|Neither|Seldom|Rarely|Hardly|Nowhere|So(?! far))"
WHO = r"(?:it|they|we|you|one|there)"
# What is not plain English -> what to write instead.
PHRASES = {
    r"(?i)makes? (?:[+−]|points\b)": "say what improves, and by how much: 'improves Recall@1 by 3.7 points'",
    r"(?i)\bbeside\b": "write 'with', 'alongside', 'next to' or 'relative to'",
    r"(?i)\bof (?:ours|yours|theirs)\b": "write 'our own', 'your own' or 'their own'",
    r"(?i)\bto be had\b": "write 'available'",
    r"(?i)\bat hand\b": "write 'available'",
    r"(?i)\banew\b": "write 'again'",
    r"(?i)\bfor good(?=[^\w\s]|$)": "write 'permanently'",
    r"(?i)\bone(?:'|’)s\b|\boneself\b": "address the reader: 'your own'",
    r"(?i)\bwhoever\b": "address the reader: 'you', 'if you'",
    r"(?i)\bas (?:they|it) stands?\b": "write 'unchanged'",
    r"(?i)\bthere (?:is|are) none\b": "say what is missing",
    r"(?i)\bmak(?:e|es|ing) (?:a|the) runs?\b": "write 'run'",
    rf"(?:\bNor|, nor) {VERB}\b": "normal order: '... does not ... either'",
    rf"{START}(?:Were|Had|Should) {WHO}\b(?![^.!?]*\?)": "normal order: 'If it were'",
    rf"{START}{INVERTING}\b[^.!?]{{0,60}}\b{VERB} {WHO}\b":
        "normal order: subject, verb, object",
    rf"{START}What (?:(?!{VERB}\b)[\w-]+ ){{1,6}}(?:is|are)\b(?! not)(?![^.!?]*\?)":
        "normal order: 'Momentum has no effect', not 'What has no effect is momentum'",
    r"(?i)\b(?:loss|losses|MDR|regularizer|network|gradient)s? (?:wants?|asks?|knows?|cares?)\b":
        "losses compute: say what the gradient does",
}  # fmt: skip
STYLE = {re.compile(pattern.replace(" ", r"\s+")): why for pattern, why in PHRASES.items()}
# Pages that are still to be rewritten. One without a fault leaves this list.
LATER: tuple[str, ...] = ()


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


def clumsy(root: Path, later: Iterable[str] = LATER) -> list[str]:
    """Return a line for each clumsy phrase and each long sentence, and each page of `later` without any."""
    faults = {page.relative_to(root).as_posix(): list(style_faults(page)) for page in readable(root)}
    lines = [f"{name}, {fault}" for name, found in faults.items() if name not in later for fault in found]
    clean = [name for name in later if not faults[name]]
    return lines + [f"{name} has no clumsy phrase: remove it from LATER" for name in clean]


def style_faults(page: Path) -> Iterator[str]:
    """Yield place, text and reason of what is not plain English."""
    for passage in prose(page):
        for pattern, why in STYLE.items():
            for found in pattern.finditer(passage):
                about = passage[max(found.start() - 20, 0) : found.end() + 20]
                yield f"{passage.place(found.start())}: got {' '.join(about.split())!r}: {why}"
        begin = 0
        for end in END.finditer(passage):
            sentence = passage[begin : end.start()]
            count = len(re.findall(r"\w[\w'’.,-]*", sentence))
            if count > LONGEST:
                shown = f"'{' '.join(sentence.split())[:60]} ...'"
                yield f"{passage.place(begin)}: got {count} words in {shown}, expected {LONGEST} or fewer"
            begin = end.end()


def main() -> int:
    """Check from the command line; 1 if there is a fault."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    faults = [*misspelt(ROOT), *typed_numbers(ROOT), *clumsy(ROOT)]
    print(*faults or ["no misspelt word, no typed result and no clumsy phrase in the prose"], sep="\n")
    return bool(faults)


if __name__ == "__main__":
    sys.exit(main())
