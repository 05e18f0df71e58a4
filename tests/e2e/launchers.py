"""The launchers of ranks that this machine has."""
import os
import pathlib
import shutil
import subprocess

ROOT = pathlib.Path(__file__).resolve().parents[2]


def torchrun():
    found = shutil.which("torchrun") or str(ROOT / ".venv" / "bin" / "torchrun")
    if not pathlib.Path(found).exists():
        return None
    # The PyTorch that tools/setup.sh installs lacks the GPU's libraries: Locus links with it, Python cannot load it.
    works = subprocess.run([found, "--help"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode == 0
    return found if works else None


def mpirun():
    found = shutil.which("mpirun")
    version = subprocess.run([found, "--version"], capture_output=True, text=True).stdout if found else ""
    if "Open MPI" not in version:
        return None
    return [found, "--oversubscribe", "--bind-to", "none", *(["--allow-run-as-root"] if os.getuid() == 0 else [])]


def found():
    """Names, and the command in front of the program for a number of ranks."""
    if torch := torchrun():
        yield "torchrun", lambda ranks: [torch, "--no-python", f"--nproc-per-node={ranks}", "--standalone"]
    if mpi := mpirun():
        yield "mpirun", lambda ranks: [*mpi, "-n", str(ranks)]
