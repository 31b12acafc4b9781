"""Write the second part of docs/attacks.md from the attacks' own declarations: python docs/make_attacks.py"""

from pathlib import Path

from boostershot import attack_pages

PAGE = Path(__file__).parent / "attacks.md"
MARK = (
    "<!-- Below this line: written by docs/make_attacks.py from the attacks' own declarations. Change them there. -->"
)


def page() -> str:
    """The page as it should be: what a person wrote down to the mark, and what the attacks tell."""
    written, mark, _ = PAGE.read_text(encoding="utf-8").partition(MARK)
    if not mark:
        raise ValueError(f"{PAGE} has no line {MARK!r}")
    return f"{written}{MARK}\n\n{attack_pages.page()}"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
