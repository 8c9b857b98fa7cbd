"""The measured figures as docs/demo.md shows them."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
FILE = DOCS / "demo.json"
PAGE, START, END = DOCS / "demo.md", "<!-- figures -->\n", "\n<!-- end of figures -->"
TAUS = (0.0, 0.3, 1.0)
NO_SHARES = ("mean IoU", "edge agreement")


def table(results: dict[str, dict]) -> str:
    """All figures of all measures, each with its value at every τ."""
    taus = [f"τ = {tau:g}" for tau in TAUS]
    lines = ["| what | figure | " + " | ".join(taus) + " |", "|---" * (2 + len(TAUS)) + "|"]
    for name, by_tau in results.items():
        for number, figure in enumerate(k for k in by_tau["1"] if k != "things"):
            values = [text_of(figure, r[figure]) if figure in r else "" for r in by_tau.values()]
            lines.append(f"| {'' if number else name} | {figure} | " + " | ".join(values) + " |")
    return "\n".join(lines)


def write_page(results: dict[str, dict]) -> None:
    """The table in docs/demo.md."""
    text = PAGE.read_text(encoding="utf-8")
    before, after = text.split(START)[0], text.split(END)[1]
    PAGE.write_text(f"{before}{START}{table(results)}{END}{after}", encoding="utf-8")


def text_of(figure: str, value: float) -> str:
    return f"{value:.2f}" if figure in NO_SHARES else f"{value:.1%}"
