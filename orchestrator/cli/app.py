"""The commands, put together."""

import shlex
from pathlib import Path
from typing import Annotated

import typer

from orchestrator.cli import bench, experts
from orchestrator.cli.ask import ask
from orchestrator.cli.output import AsJson, console, print_json, table
from orchestrator.cli.replay import replay
from orchestrator.cli.simulate import simulate
from orchestrator.settings import Settings

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="A pool of expert LLMs behind one API: recruited by skill, loaded once, fused into one answer.",
)
app.add_typer(experts.app, name="experts")
app.add_typer(bench.app, name="bench")
app.command()(ask)
app.command()(replay)
app.command()(simulate)

DataDir = Annotated[Path | None, typer.Option(help="Database, logs, converted weights.", show_default=".muster")]
ExpertsFile = Annotated[Path | None, typer.Option("--experts", help="The pool.", show_default="experts.toml")]
Port = Annotated[int | None, typer.Option(min=1, max=65535, show_default="8000")]
Host = Annotated[str | None, typer.Option(show_default="127.0.0.1")]


@app.command()
def up(
    port: Port = None,
    host: Host = None,
    data_dir: DataDir = None,
    experts_file: ExpertsFile = None,
    device: Annotated[
        list[str] | None,
        typer.Option(help="One model worker on each: cpu, cuda:0, …; none: remote and stub models only."),
    ] = None,
    worker_args: Annotated[
        str, typer.Option(help='Further options of each of these workers, e.g. "--residents 2".', show_default=False)
    ] = "",
    demo: Annotated[bool, typer.Option("--demo", help="Wait for the profiles, then ask one question.")] = False,
    once: Annotated[bool, typer.Option("--once", help="Stop after the demo's answer.")] = False,
) -> None:
    """Start everything on this machine and keep it running until Ctrl-C."""
    # Imported here: no other command should wait for a database driver.
    from orchestrator.local.up import up as start

    settings = _settings(port=port, host=host, data_dir=data_dir, experts_file=experts_file)
    wanted = None if not device else tuple(name for name in device if name != "none")
    try:
        further = tuple(shlex.split(worker_args))
    except ValueError as error:
        raise typer.BadParameter(f"{worker_args!r} cannot be read: {error}", param_hint="--worker-args") from None
    raise typer.Exit(start(settings, console, devices=wanted, worker_args=further, ask=demo, once=once))


@app.command()
def doctor(
    port: Port = None,
    host: Host = None,
    data_dir: DataDir = None,
    experts_file: ExpertsFile = None,
    as_json: AsJson = False,
) -> None:
    """Say what this machine lacks to run Muster, and how to mend it."""
    from orchestrator.local import doctor as examination

    settings = _settings(port=port, host=host, data_dir=data_dir, experts_file=experts_file)
    findings = examination.examine(settings)
    lacks = [finding for finding in findings if finding.needed and not finding.ok]
    if as_json:
        keys = ("name", "ok", "needed", "detail", "mend")
        print_json([{key: getattr(finding, key) for key in keys} for finding in findings])
    else:
        marks = {True: "[green]ok[/green]", False: "[red]missing[/red]"}
        rows = [
            (marks[finding.ok], finding.name, finding.detail, "" if finding.ok else finding.mend)
            for finding in findings
        ]
        console.print(table(("", "what", "found", "how to mend it"), rows))
    raise typer.Exit(1 if lacks else 0)


def _settings(*, port: int | None, host: str | None, data_dir: Path | None, experts_file: Path | None) -> Settings:
    """Settings from the environment, with what the command line says on top."""
    given = {"port": port, "host": host, "data_dir": data_dir, "experts_file": experts_file}
    return Settings().model_copy(update={name: value for name, value in given.items() if value is not None})
