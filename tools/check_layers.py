#!/usr/bin/env python3
"""Checks who may include whom: the layer table of DEVELOPERS.md. Usage: check_layers.py [ROOT]"""
import pathlib
import re
import sys

ALLOWED = {  # bottom-up: each folder includes these and itself, so a cycle cannot be written
    "base": "",
    "cluster": "base",
    "io": "base",
    "data": "base",
    "report": "base",
    "placement": "base cluster",
    "compare": "base report",
    "ops": "base",
    "comm": "base cluster",
    "nn": "base ops",
    "moe": "base cluster ops comm nn",
    "model": "base cluster io data ops comm nn moe",
    "simulate": "base cluster moe/config.h model/config.h",
    "convert": "base io ops model",
    "train": "base io data placement ops comm nn moe model",
    "eval": "base data ops comm moe model",
    "evolve": "base ops moe model train",
    "search": "base ops comm moe model train",
    "app": "base cluster io data report placement compare ops comm nn moe model simulate convert train eval evolve search",
    "cli": "base app/commands.h",
}
TORCH = re.compile(r"(torch|ATen|c10)/")
TORCH_FREE = re.compile(r"locus/(base|cluster|io|data|report|placement|compare|simulate)/|cli/|.*/config\.h$|"
                        r"locus/train/(append_file|metrics|tensorboard_writer)\.|locus/eval/bleu\.|locus/app/commands\.h$")
BANNED = {"torch/torch.h", "torch/nn.h", "torch/extension.h"}  # 20 seconds a file
ONLY_IN = {r"toml\+\+/": r"locus/base/toml\.cpp", r"spdlog/": r"locus/base/log\.cpp",
           r"fmt/": r"locus/base/format\.cpp", r"CLI/": r"cli/", r"nlohmann/": r".*\.cpp$"}


def problem_of(path, header):
    """What is wrong with including `header` in the file at `path` (below the root), or None."""
    if header in BANNED:
        return "is banned everywhere: include the narrow headers"
    if path.startswith(("tests/", "examples/")):
        return None
    if TORCH.match(header) and TORCH_FREE.match(path):
        return "in a torch-free file"
    for pattern, place in ONLY_IN.items():
        if re.match(pattern, header) and not re.match(place, path):
            return f"belongs only into {place}"
    folder = path.removeprefix("locus/").split("/")[0]
    if folder not in ALLOWED:
        return f"in {folder}/, which the layer table does not know"
    wanted, allowed = header.removeprefix("locus/"), [folder, *ALLOWED[folder].split()]
    if header.startswith("locus/") and not {wanted, wanted.split("/")[0]} & set(allowed):
        return f"in {folder}/, which may include {' '.join(allowed)}"
    return None


def check(root):
    for path in sorted(p for top in ("locus", "cli", "tests", "examples") for p in (root / top).rglob("*")):
        if path.suffix in (".h", ".cpp", ".cu"):
            name = path.relative_to(root).as_posix()
            for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
                include = re.match(r'\s*#\s*include\s*[<"]([^>"]+)', line)
                if include and (problem := problem_of(name, include[1])):
                    yield f"{name}:{number}: {include[1]} {problem}"


if __name__ == "__main__":
    found = list(check(pathlib.Path(sys.argv[1]) if sys.argv[1:] else pathlib.Path(__file__).parents[1]))
    print("\n".join(found or ["layers: every include keeps to the table"]))
    sys.exit(bool(found))
