#!/usr/bin/env python3
"""Runs the cases of tests/cli/cases against the program. Usage: run_cli_tests.py PROGRAM [CASE...]

A case is a text file (the idea is SimGrid's tesh); its commands run one after the other in a fresh folder:

  # what it shows
  $ locus list routers          a command of bash; $SOURCE is the root of the repository
  > top_k                       standard output holds this
  >! internal                   standard output does not hold this
  ! did you mean                standard error holds this
  % --help --log-level          these are all options that the help on standard output lists, in any order
  ? 2                           the exit status (0 when not given)

Every failing `locus` must say so in one message: exactly one line of standard error begins with "locus: ".
"""
import os
import pathlib
import re
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
TIMEOUT_S = 120


class Step:
    def __init__(self, command, line):
        self.command, self.line, self.status, self.checks = command, line, 0, []

    def problems(self, result):
        out, err = result.stdout, result.stderr
        if result.returncode != self.status:
            yield f"exit status {result.returncode}, expected {self.status}"
        if self.status and self.command.startswith("locus "):
            messages = [line for line in err.splitlines() if line.startswith("locus: ")]
            if len(messages) != 1:
                yield f"{len(messages)} messages instead of one"
        for kind, text in self.checks:
            names = "\n".join(re.findall(r"(?m)^  -.*?(?=  |$)", out))  # without the texts beside them
            options = set(re.findall(r"--(?:\[no-\])?[a-z-]+", names))
            if kind == ">" and text not in out:
                yield f"standard output lacks: {text}"
            if kind == ">!" and text in out:
                yield f"standard output holds: {text}"
            if kind == "!" and text not in err:
                yield f"standard error lacks: {text}"
            if kind == "%" and options != set(text.split()):
                yield f"options {' '.join(sorted(options))}, expected {text}"


def read_case(path):
    steps = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        kind, _, text = line.partition(" ")
        if kind == "$":
            steps.append(Step(text, number))
        elif kind == "?":
            steps[-1].status = int(text)
        elif kind in (">", ">!", "!", "%"):
            steps[-1].checks.append((kind, text))
        elif line and kind != "#":
            raise SystemExit(f"{path}:{number}: no line of a case: {line}")
    return steps


def run_case(path, program):
    """The problems of one case, as texts."""
    with tempfile.TemporaryDirectory(prefix="locus_cli_") as folder:
        # Alone in the search path, under its own name, wherever it was built.
        os.mkdir(f"{folder}/.bin")
        os.symlink(program, f"{folder}/.bin/locus")
        environment = dict(os.environ, PATH=f"{folder}/.bin:{os.environ['PATH']}", LC_ALL="C.UTF-8",
                           SOURCE=str(HERE.parents[1]), OMP_NUM_THREADS="2")
        for step in read_case(path):
            result = subprocess.run(["bash", "-c", step.command], cwd=folder, env=environment, text=True,
                                    errors="replace", stdin=subprocess.DEVNULL, capture_output=True,
                                    timeout=TIMEOUT_S)
            problems = list(step.problems(result))
            if problems:
                yield (f"{path.name}:{step.line}: $ {step.command}\n  " + "\n  ".join(problems) +
                       f"\n  standard output:\n{result.stdout[:3000]}"
                       f"\n  standard error:\n{result.stderr[:3000]}")
                return  # what follows builds on it


def main():
    program = pathlib.Path(sys.argv[1]).resolve()
    cases = sorted((HERE / "cases").glob("*.txt"))
    if sys.argv[2:]:
        cases = [case for case in cases if case.stem in sys.argv[2:]]
    failed = 0
    for case in cases:
        problems = list(run_case(case, program))
        print("\n".join([f"{'FAILED' if problems else 'ok    '} {case.stem}", *problems]), flush=True)
        failed += bool(problems)
    print(f"{len(cases) - failed} of {len(cases)} cases passed")
    return failed > 0 or not cases


if __name__ == "__main__":
    sys.exit(main())
