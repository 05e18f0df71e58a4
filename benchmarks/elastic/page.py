"""The tables of docs/elastic.md."""
from __future__ import annotations

from benchmarks import bench

PAGE = bench.ROOT / "docs" / "elastic.md"
# Each is a method of run.py's Experiment and a table of the page.
PARTS = {"family": "One run against one for each size", "choice": "What is chosen, and how the family lies",
         "learned": "Gates that learn against gates that do not", "published": "The published gates",
         "cut": "Other ways to a smaller model", "experts": "Fewer parameters: experts go",
         "served": "Where they run", "latency": "A budget of milliseconds", "routers": "Half of LocMoE+ and EvoMoE", "kinds": "Encoder and translator"}


def table_of(rows: list[dict]) -> str:
    lines = ["| | value | against | ratio (quartiles) | goal | |", "| --- " * 6 + "|"]
    for row in rows:
        ratio = ""
        if row["ratio"] is not None:
            ratio = f"{bench.short(row['ratio'])} ({' to '.join(map(bench.short, row['quartiles']))})"
        state = {True: "met", False: "**missed**", None: ""}[row["met"]]
        lines.append(f"| {row['what']} | {row['value']:.4g} {row['unit']} | {row['against']} | {ratio} | "
                     f"{bench.goal_text(row['goal'])} | {state} |")
    return "\n".join(lines)


def seeds_text(rows: list[dict]) -> str:
    most = max(len(row["seeds"]) for row in rows)
    return "one seed" if most == 1 else f"{most} seeds"


def steps_text(rows: list[dict]) -> str:
    return "one step" if rows[0]["steps"] == 1 else f"{rows[0]['steps']} steps"


def write_page(rows: list[dict]) -> None:
    text = PAGE.read_text(encoding="utf-8")
    begin, end = "<!-- results -->", "<!-- end -->"
    head, tail = text[:text.index(begin) + len(begin)], text[text.index(end):]
    of_part = {part: [row for row in rows if row["part"] == part] for part in PARTS}
    tables = "\n\n".join(f"**{PARTS[part]}** ({steps_text(some)}; {seeds_text(some)}; {some[0]['machine']}; {some[0]['date']})"
                         f"\n\n{table_of(some)}" for part, some in of_part.items() if some)
    PAGE.write_text(f"{head}\n{tables}\n{tail}", encoding="utf-8")
