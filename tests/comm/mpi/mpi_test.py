"""Runs mpi_probe under mpirun with one to four ranks, and the ways in which ranks fail.

    mpi_test.py build/mpi_probe
"""
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

SKIPPED = 77
MPIRUN = ["mpirun", "--allow-run-as-root", "--oversubscribe"]


def environment(**more):
    """Without what another launcher may have left here."""
    launchers = ("OMPI_", "PMIX_", "PMI_", "SLURM_", "LOCUS_MPI_MODULE")
    foreign = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    kept = {name: value for name, value in os.environ.items()
            if not name.startswith(launchers) and name not in foreign}
    return {**kept, "OMP_NUM_THREADS": "1", **more}


def run(command, timeout_s=240, **more):
    begin = time.monotonic()
    done = subprocess.run(command, env=environment(**more), capture_output=True, text=True, timeout=timeout_s)
    return done.returncode, done.stdout + done.stderr, time.monotonic() - begin


def mpirun(num_ranks, probe, *arguments):
    return run([*MPIRUN, "-n", str(num_ranks), probe, *arguments])


def expect(condition, what, output):
    if not condition:
        sys.exit(f"{what}\n{output}")


def check_collectives(probe):
    for num_ranks in (1, 2, 3, 4):
        code, output, _ = mpirun(num_ranks, probe)
        if code == SKIPPED:
            print(output)
            sys.exit(SKIPPED)
        expect(code == 0, f"{num_ranks} ranks: exit code {code}", output)
        expect(output.count("[  PASSED  ]") == num_ranks, f"{num_ranks} ranks: not all say PASSED", output)


def check_failures(probe):
    for mode, num_ranks, code, text in (
            ("lost", 2, 4, "mpi: all_reduce of group ep did not finish within 2 s"),
            ("lost", 4, 4, "mpi: all_reduce of group ep did not finish within 2 s"),
            ("no_group", 3, 4, "mpi: make_group of group late did not finish within 2 s"),
            ("two_groups", 2, 4, "make different groups at call 0"),
            ("too_long", 3, 4, "mpi: all_to_all of group ep failed: MPI_ERR_TRUNCATE"),
            ("killed", 3, 128 + 9, ""),
            ("data_error", 3, 3, "file of rank 0 is missing")):
        found, output, taken_s = mpirun(num_ranks, probe, mode)
        expect(found == code, f"{mode}: exit code {found}, not {code}", output)
        expect(text in output, f"{mode}: does not say {text!r}", output)
        # Nobody waits for the 30 s that the missing rank stays away.
        expect(taken_s < 25, f"{mode}: took {taken_s:.1f} s", output)


def check_start(probe):
    code, output, _ = run([probe])
    expect(code == 2 and "start it with mpirun" in output, f"without mpirun: exit code {code}", output)
    torchrun = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2",
                "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
    code, output, _ = run([probe], **torchrun)
    expect(code == 2 and "torchrun has started 2 processes, but MPI sees 1" in output,
           f"under torchrun: exit code {code}", output)
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "locus-mpi.so"
        code, output, _ = run([probe], LOCUS_MPI_MODULE=str(path))
        expect(code == SKIPPED and f"{path} is missing" in output, f"no module: exit code {code}", output)
        path.write_text("no library")
        code, output, _ = run([probe], LOCUS_MPI_MODULE=str(path))
        expect(code == SKIPPED and f"{path} cannot be loaded" in output, f"bad module: exit code {code}", output)


def main():
    probe = str(pathlib.Path(sys.argv[1]).resolve())
    if shutil.which("mpirun") is None:
        print("skipped: no mpirun")
        sys.exit(SKIPPED)
    check_collectives(probe)
    check_start(probe)
    check_failures(probe)
    print("all collectives on 1 to 4 ranks, and every failure as it should be")


if __name__ == "__main__":
    main()
