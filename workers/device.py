"""Whether a worker's device is still there: asked when an engine could not be loaded, and before a worker begins."""

import subprocess

ASK_S = 20.0
"""nvidia-smi answers within a second or two; over a GPU that is lost it may hang."""
GONE = {9: "the NVIDIA driver is not loaded", 15: "the GPU has fallen off the bus"}
"""What nvidia-smi means by its exit status, where that is the end of a device."""


def lost(device: str) -> str | None:
    """Why the device ("cuda:0", "cuda:0,1") is lost; None while it answers, and where there is nobody to ask."""
    if not device.startswith("cuda:"):
        return None
    command = ["nvidia-smi", "--query-gpu=uuid", "--format=csv,noheader", f"--id={device.removeprefix('cuda:')}"]
    try:
        asked = subprocess.run(command, capture_output=True, text=True, timeout=ASK_S, check=False)
    except FileNotFoundError:
        return None
    except subprocess.TimeoutExpired:
        return f"{device} is lost: nvidia-smi does not answer"
    if (why := GONE.get(asked.returncode)) is None:
        return None
    told = (asked.stdout + asked.stderr).strip().partition("\n")[0]
    return f"{device} is lost: {why}{f' ({told})' if told else ''}"
