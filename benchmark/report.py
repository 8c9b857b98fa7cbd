"""Keeps the last results of each setting, and makes the page and the plot of them."""

import json
import platform
from pathlib import Path

import torch

DOCS = Path(__file__).resolve().parents[1] / "docs"
DATA, PAGE, PLOT = (DOCS / f"performance.{end}" for end in ("json", "md", "png"))
START, END = "<!-- results -->\n", "<!-- end of results -->\n"


def machine(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        name = lines[0].partition(":")[2].strip() if lines else name
    return f"{name}, {torch.get_num_threads()} threads"


def title(setting, device: torch.device, rounds: int) -> str:
    """Of a setting on a machine, under which its results are kept."""
    dtype = str(setting.dtype).removeprefix("torch.")
    return (
        f"{setting.shape}, {setting.size}×{setting.size}, batch {setting.batch}, {dtype}, "
        f"{setting.steps} steps, {rounds} rounds; {machine(device)}"
    )


def table(results: dict[str, dict]) -> str:
    seconds = "GPU seconds" if torch.cuda.is_available() else "CPU seconds"
    lines = [
        f"| | {seconds} | ratio to plain (lowest, highest) | FLOPs to plain | extra memory | calls a step |",
        "|---|---|---|---|---|---|",
    ]
    for name, r in results.items():
        ratio = f"{r['ratio']:.3f} ({r['lowest']:.3f}, {r['highest']:.3f})"
        lines.append(
            f"| {name} | {r['seconds']:.1f} | {ratio} | {r['flops']:.3f} | "
            f"{r['extra_memory_mb']:.0f} MB | {r['calls_a_step']:g} |"
        )
    return "\n".join(lines)


def keep(heading: str, results: dict[str, dict]) -> None:
    """Put results in the place of earlier ones of the same heading, and make page and plot anew."""
    data = json.loads(DATA.read_text()) if DATA.exists() else {}
    data[heading] = results
    DATA.write_text(json.dumps(data, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    tables = "\n\n".join(f"### {heading}\n\n{table(r)}" for heading, r in data.items())
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(START)
    after = rest.partition(END)[2]
    PAGE.write_text(f"{before}{START}\n{tables}\n\n{END}{after}", encoding="utf-8")
    plot(data)


def plot(data: dict[str, dict]) -> None:
    """Bars of the ratios, with what their arithmetic alone would cost as a mark."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(
        len(data), 1, figsize=(9, 0.5 + sum(0.4 * len(r) + 0.8 for r in data.values())),
        squeeze=False, constrained_layout=True,
    )  # fmt: skip
    for axis, (heading, results) in zip(axes[:, 0], data.items(), strict=True):
        names = list(results)[::-1]
        ratios = [results[n]["ratio"] for n in names]
        low = [results[n]["ratio"] - results[n]["lowest"] for n in names]
        high = [results[n]["highest"] - results[n]["ratio"] for n in names]
        axis.barh(names, ratios, xerr=(low, high), color="#4878a8", capsize=3)
        flops = [results[n]["flops"] for n in names]
        axis.plot(flops, names, "|", color="black", markersize=16, label="arithmetic")
        axis.axvline(1, color="grey", linewidth=0.8)
        axis.set_title(heading, fontsize=9)
        axis.legend(loc="lower right", fontsize=8)
    axes[-1, 0].set_xlabel("time, as a ratio to plain sampling")
    figure.savefig(PLOT, dpi=110)
