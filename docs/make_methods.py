"""Write docs/methods/*.md from the methods' own declarations: python docs/make_methods.py"""

from pathlib import Path

from boostershot import methods
from boostershot.defenses import DEFENSES

FOLDER = Path(__file__).parent / "methods"


def pages() -> dict[str, str]:
    """File name -> text."""
    return {"README.md": methods.index(), **{f"{name}.md": methods.page(name) for name in DEFENSES}}


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for old in FOLDER.glob("*.md"):
        old.unlink()
    for file, text in pages().items():
        (FOLDER / file).write_text(text, encoding="utf-8")
