"""What SLURM knows, from its own commands.

`sacct` would need an accounting database, which not every cluster has; these do not.
"""

import subprocess
from typing import Any

from kanzoo.errors import EngineError

_ALIVE = ("PENDING", "RUNNING", "COMPLETING", "CONFIGURING", "REQUEUED", "SUSPENDED")


def partitions() -> list[str]:
    """Names of the cluster's partitions."""
    return sorted(set(_output("sinfo", "--noheader", "--format=%R").split()))


def check_request(wanted: dict[str, Any]) -> None:
    """Ask SLURM whether a job with these options of `sbatch` could ever run; starts nothing."""
    words = [f"--{name.replace('_', '-')}={value}" for name, value in wanted.items()]
    _output("sbatch", "--test-only", "--wrap=true", *words)


def queued(*names: str) -> list[str]:
    """Ids `JOB` or `ARRAY_TASK` of the queued and running jobs of these names."""
    return _output(
        "squeue", "--noheader", "--array", f"--name={','.join(names)}", "--format=%i"
    ).split()


def last_state(job_id: str) -> str:
    """The state in which a job ended, as far as SLURM remembers; empty while it has not ended."""
    try:
        text = _output("scontrol", "show", "job", job_id, "--oneliner")
    except EngineError:
        return ""
    states = [word.partition("=")[2] for word in text.split() if word.startswith("JobState=")]
    return states[0] if states and states[0] not in _ALIVE else ""


def _output(*command: str) -> str:
    """What a command says; `EngineError` of one line where it fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise EngineError(f"{command[0]}: {error}") from error
    if done.returncode:
        message = " ".join(done.stderr.split()).replace(f"{command[0]}: error: ", "")
        raise EngineError(f"{command[0]}: {message[:300]}")
    return done.stdout
