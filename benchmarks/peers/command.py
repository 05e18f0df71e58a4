"""A whole command as a worker: each repetition starts it anew and waits for its end, or until it
says `until` on standard error, when it is killed."""
import json
import resource
import shutil
import subprocess
import time

from benchmarks.peers.serve import serve


def child_seconds():
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def make(command, until="", remove=""):
    """`command`: a JSON array. `remove`: a folder that goes before each repetition."""
    arguments = json.loads(command)

    def run():
        if remove:
            shutil.rmtree(remove, ignore_errors=True)
        cpu, begin = child_seconds(), time.perf_counter()
        process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                                   text=True, stdin=subprocess.DEVNULL)
        said, seen = [], not until
        for line in process.stderr:
            said.append(line)
            if until and until in line:
                seconds, seen = time.perf_counter() - begin, True
                process.kill()
                break
        process.stderr.read()
        code = process.wait()
        if not until:
            seconds = time.perf_counter() - begin
        if not seen or (not until and code != 0):
            raise SystemExit(f"{arguments} ended with {code}: {''.join(said)[-2000:]}")
        return {"seconds": seconds, "child_cpu_seconds": child_seconds() - cpu}

    return {}, run


if __name__ == "__main__":
    serve(make)
