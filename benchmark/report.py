"""Keeps the last results of each setting, and makes the page and the plots of them."""

import json
import platform
from pathlib import Path

import torch

DOCS = Path(__file__).resolve().parents[1] / "docs"
DATA, PAGE = DOCS / "performance.json", DOCS / "performance.md"


def machine(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        name = lines[0].partition(":")[2].strip() if lines else name
    return f"{name}, {torch.get_num_threads()} threads"


def title(setting, device: torch.device, extent: str) -> str:
    """Of a setting on a machine, under which its results are kept. extent: what was run of it."""
    dtype = str(setting.dtype).removeprefix("torch.")
    return (
        f"{setting.shape}, {setting.size}×{setting.size}, batch {setting.batch}, {dtype}, {extent}; "
        f"{machine(device)}"
    )


def race_row(r: dict) -> list[str]:
    return [
        f"{r['seconds']:.1f}",
        f"{r['ratio']:.3f} ({r['lowest']:.3f}, {r['highest']:.3f})",
        f"{r['flops']:.3f}",
        f"{r['extra_memory_mb']:.0f} MB",
        f"{r['calls_a_step']:g}",
    ]


def trace_row(r: dict) -> list[str]:
    """Kernels, and what follows them, are of a GPU only."""
    if "kernels" not in r:
        return [f"{r['waits']}", "", "", ""]
    return [f"{r['waits']}", f"{r['kernels']}", f"{r['busy']:.1%}", f"{r['gap_us']:.0f} µs"]


def refresh_row(r: dict) -> list[str]:
    return [f"{r['flops']:.3f}", f"{r['in place']:.1%}", f"{r['difference']:.1%}"]


COLUMNS = {
    "races": (
        race_row,
        ["", "seconds", "ratio to plain (lowest, highest)", "FLOPs to plain", "extra memory",
         "calls a step"],
    ),
    "traces": (
        trace_row,
        ["", "waits for the device", "kernels", "device busy", "longest gap"],
    ),
    "refresh": (
        refresh_row,
        ["refresh_every", "FLOPs to plain", "things in place", "difference from the exact picture"],
    ),
}  # fmt: skip


def table(part: str, results: dict[str, dict]) -> str:
    row, columns = COLUMNS[part]
    lines = [columns, ["---"] * len(columns), *([name, *row(r)] for name, r in results.items())]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def keep(part: str, heading: str, results: dict[str, dict]) -> None:
    """Put results in the place of earlier ones of the same part and heading, and make page and plots
    anew."""
    data = json.loads(DATA.read_text(encoding="utf-8")) if DATA.exists() else {}
    data.setdefault(part, {})[heading] = results
    DATA.write_text(json.dumps(data, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    page = PAGE.read_text(encoding="utf-8")
    for part, races in data.items():
        page = filled(page, part, races)
    PAGE.write_text(page, encoding="utf-8")
    plot_races(data.get("races", {}))
    plot_refresh(data.get("refresh", {}))


def filled(page: str, part: str, races: dict[str, dict]) -> str:
    """The page with the tables of a part between its marks."""
    start, end = f"<!-- {part} -->\n", f"<!-- end of {part} -->"
    tables = "\n\n".join(f"**{heading}**\n\n{table(part, r)}" for heading, r in races.items())
    before, after = page.split(start)[0], page.split(end)[1]
    return f"{before}{start}\n{tables}\n\n{end}{after}"


def plot_races(races: dict[str, dict]) -> None:
    """Bars of the ratios, with what their arithmetic alone would cost as a mark."""
    figure, axes = subplots(len(races), 0.5 + sum(0.4 * len(r) + 0.8 for r in races.values()))
    for axis, (heading, results) in zip(axes, races.items(), strict=True):
        names = list(results)[::-1]
        ratios = [results[n]["ratio"] for n in names]
        low = [results[n]["ratio"] - results[n]["lowest"] for n in names]
        high = [results[n]["highest"] - results[n]["ratio"] for n in names]
        axis.barh(names, ratios, xerr=(low, high), color="#4878a8", capsize=3)
        flops = [results[n]["flops"] for n in names]
        axis.plot(flops, names, "|", color="black", markersize=16, label="its FLOPs")
        axis.axvline(1, color="grey", linewidth=0.8)
        axis.set(xlabel="time, as a ratio to plain sampling")
        axis.set_title(heading, fontsize=9)
        axis.legend(loc="lower right", fontsize=8)
    figure.savefig(DOCS / "performance.png", dpi=110)


def plot_refresh(curves: dict[str, dict]) -> None:
    """Things in place, and the difference from the exact picture, over what it costs."""
    figure, axes = subplots(len(curves), 3.6 * len(curves))
    for axis, (heading, results) in zip(axes, curves.items(), strict=True):
        flops = [r["flops"] for r in results.values()]
        axis.plot(flops, [r["in place"] for r in results.values()], "o-", label="things in place")
        difference = [r["difference"] for r in results.values()]
        axis.plot(flops, difference, "s--", label="difference from the exact picture")
        for every, r in results.items():
            axis.annotate(every, (r["flops"], r["in place"]), (0, 7), textcoords="offset points",
                          ha="center", fontsize=8)  # fmt: skip
        axis.set(title=f"refresh_every, {heading}", xlabel="FLOPs, as a ratio to plain sampling",
                 ylim=(0, 1.05))  # fmt: skip
        axis.legend(loc="center right", fontsize=8)
        axis.grid(alpha=0.3)
    figure.savefig(DOCS / "performance_refresh.png", dpi=110)


def subplots(rows: int, height: float):
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(
        max(rows, 1), 1, figsize=(9, max(height, 1)), squeeze=False, constrained_layout=True
    )
    return figure, axes[:rows, 0]
