"""What a worker is told at its start: its name, its device, and how much it may take on."""

import argparse
import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

CPU_SEQUENCES = 32
"""Bulk requests in the engine at once on a CPU: beyond it a 135M model gains little and queries wait longer."""
CUDA_SEQUENCES = 256
REMOTE_SEQUENCES = 32
"""Bulk requests open at once to one remote server."""
FULL_SEQUENCES = 8
"""Requests of one model in an engine whose speed is taken for a full batch's: more tell it better, and weigh more."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_DEVICE = re.compile(r"none|cpu|cuda:\d+(,\d+)*")


@dataclass(frozen=True, kw_only=True)
class WorkerSettings:
    name: str
    device: str = "cpu"
    """"cpu", "cuda:0" ("cuda:0,1" for a tensor-parallel group) or "none"."""
    redis_url: str
    data_dir: Path = Path(".muster")
    bulk_slots: int = 2
    """Bulk chunks held at once: the window that the planner fills."""
    online_slots: int = 8
    """Online requests in the engine at once, beside the bulk ones."""
    bulk_sequences: int = 0
    """Bulk requests in the engine at once; 0: what suits the device."""
    bulk_beside_online: int = 0
    """Bulk requests let into the engine while online requests are in it; 0: as many as without."""
    residents: int = 1
    """Models in device memory at once, each in an equal part of `gpu_memory_share`; one that does not fit into its part
    gets all parts. Ignored without a device: remote and stub models cost no memory."""
    gpu_memory_share: float = 0.85
    """Share of the GPU's memory that all resident engines together may use."""
    kv_cache_bytes: int = 512 << 20
    """Memory for keys and values of one engine on a CPU: 23,000 tokens of a 135M model."""
    sleep_bytes: int = 64 << 30
    """Host memory that evicted engines may keep their weights in, asleep (on GPUs); 0: evicted engines end."""
    stall_s: float = 120.0
    """An engine with running requests that computes nothing for so long is killed."""
    load_timeout_s: float = 900.0
    """A load that takes longer is given up."""
    drain_s: float = 15.0
    """How long running requests may go on after SIGTERM."""

    @property
    def has_device(self) -> bool:
        return self.device != "none"

    @property
    def engines(self) -> tuple[str, ...]:
        """The engines this worker can run, as `WorkerState.engines`."""
        return ("vllm", "stub") if self.has_device else ("remote", "stub")

    @property
    def sequences(self) -> int:
        """Bulk requests in the engine at once."""
        if self.bulk_sequences:
            return self.bulk_sequences
        if not self.has_device:
            return REMOTE_SEQUENCES
        return CPU_SEQUENCES if self.device == "cpu" else CUDA_SEQUENCES

    @property
    def full_sequences(self) -> int:
        """Requests of one model in an engine from which its speed in a full batch is measured."""
        return min(FULL_SEQUENCES, -(-self.sequences // 2))

    @property
    def bulk_limit_beside_online(self) -> int:
        """Bulk requests let into the engine while online requests are in it."""
        return self.bulk_beside_online or self.sequences

    @property
    def capacity(self) -> int | None:
        """Models resident at once; None: any number."""
        return self.residents if self.has_device else None


def from_command_line(argv: Sequence[str], environ: Mapping[str, str] = os.environ) -> WorkerSettings:
    """Settings from the command line and the environment (REDIS_URL, MUSTER_DATA_DIR); exits with usage if wrong."""
    default = WorkerSettings(name="-", redis_url="")
    parser = argparse.ArgumentParser(prog="python -m workers", description="Runs models on one device.")
    parser.add_argument("--name", required=True, help="unique among the workers of this Muster")
    parser.add_argument("--device", default=default.device, help='"cpu", "cuda:0" or "none" (remote and stub models)')
    parser.add_argument("--bulk-slots", type=_positive, default=default.bulk_slots)
    parser.add_argument("--online-slots", type=_positive, default=default.online_slots)
    parser.add_argument("--bulk-sequences", type=int, default=default.bulk_sequences)
    parser.add_argument("--bulk-beside-online", type=int, default=default.bulk_beside_online)
    parser.add_argument("--residents", type=_positive, default=default.residents)
    parser.add_argument("--gpu-memory-share", type=float, default=default.gpu_memory_share)
    parser.add_argument("--kv-cache-bytes", type=_positive, default=default.kv_cache_bytes)
    parser.add_argument("--sleep-bytes", type=int, default=default.sleep_bytes)
    parser.add_argument("--stall-s", type=float, default=default.stall_s)
    parser.add_argument("--load-timeout-s", type=float, default=default.load_timeout_s)
    parser.add_argument("--drain-s", type=float, default=default.drain_s)
    given = vars(parser.parse_args(argv))
    if not _NAME.fullmatch(given["name"]):
        parser.error(f"--name {given['name']!r}: letters, digits, '.', '_' and '-' only, at most 64")
    if not _DEVICE.fullmatch(given["device"]):
        parser.error(f"--device {given['device']!r}: expected cpu, cuda:N or none")
    if not environ.get("REDIS_URL"):
        parser.error("REDIS_URL is not set; set it to the broker, e.g. redis://127.0.0.1:6379/0")
    data_dir = Path(environ.get("MUSTER_DATA_DIR") or default.data_dir).resolve()
    return WorkerSettings(redis_url=environ["REDIS_URL"], data_dir=data_dir, **given)


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return number


if __name__ == "__main__":  # says what is wrong with a worker's command line, and starts nothing
    from_command_line(sys.argv[1:])
