"""Runs tokenizer_probe."""

import json
import subprocess
from pathlib import Path


class Refused(Exception):
    """The library's error and its exit code."""

    def __init__(self, code: int, message: str):
        super().__init__(message)
        self.code = code


class Probe:
    def __init__(self, program: str):
        self.program = program

    def run(self, *arguments, lines: list[str] = ()) -> str:
        given = "".join(json.dumps(line) + "\n" for line in lines)
        done = subprocess.run(
            [self.program, *map(str, arguments)], input=given.encode(), capture_output=True
        )
        if done.returncode != 0:
            raise Refused(done.returncode, done.stderr.decode())
        return done.stdout.decode()

    def encode(self, path: Path, lines: list[str]) -> tuple[dict, list[dict]]:
        """What the tokenizer says of itself, and {"ids", "text", "pieces"} of each line."""
        about, *answers = [
            json.loads(line) for line in self.run(path, lines=lines).split("\n") if line
        ]
        assert len(answers) == len(lines)
        return about, answers
