"""`muster experts`: the pool."""

import tomllib
from pathlib import Path
from typing import Annotated, Any

import typer

from orchestrator.cli.client import Client
from orchestrator.cli.output import AsJson, Url, console, fail, print_json, table
from orchestrator.settings import Settings

app = typer.Typer(no_args_is_help=True, help="List, add, remove and profile experts.")

Name = Annotated[str, typer.Argument(help="The expert's name.")]


@app.command("list")
def list_(url: Url = None, as_json: AsJson = False) -> None:
    """Every expert, its state, and why it is in it."""
    listed = _client(url).get("/v1/experts")
    if as_json:
        print_json(listed)
        return
    rows = [
        (
            item["name"],
            item["version"],
            item["state"],
            item["model"]["source"],
            item.get("reason") or item["description"],
        )
        for item in listed["data"]
    ]
    console.print(table(("name", "version", "state", "model", "about"), rows))


@app.command()
def add(
    name: Name,
    model: Annotated[str | None, typer.Option(help="hub:ORG/NAME, path:/folder, pypi:PACKAGE or https://….")] = None,
    remote_name: Annotated[str | None, typer.Option(help="What a remote server calls the model.")] = None,
    api_key_env: Annotated[str | None, typer.Option(help="The variable that holds the remote server's key.")] = None,
    system_prompt: Annotated[str, typer.Option(help="What makes it this expert.")] = "",
    adapter: Annotated[str | None, typer.Option(help="A LoRA adapter: hub: or path:.")] = None,
    file: Annotated[
        Path | None, typer.Option("--from", help="Take the expert of this name from a TOML file instead.")
    ] = None,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Register an expert: Muster tests it, profiles it, and takes it into the pool."""
    if (model is None) == (file is None):
        fail("give either --model or --from")
        raise typer.Exit(2)
    body: dict[str, Any]
    if file is not None:
        body = _from_file(file, name)
    else:
        source = {"source": model, "remote_name": remote_name, "api_key_env": api_key_env}
        body = {"name": name, "model": {key: value for key, value in source.items() if value}}
        body |= {"system_prompt": system_prompt} if system_prompt else {}
        body |= {"adapter": adapter} if adapter else {}
    made = _client(url).post("/v1/experts", body)
    if as_json:
        print_json(made)
    else:
        console.print(f"{name} is {made['state']}. `muster experts list` shows how far it is.")


@app.command()
def remove(name: Name, url: Url = None, as_json: AsJson = False) -> None:
    """Take an expert out of the pool."""
    removed = _client(url).delete(f"/v1/experts/{name}")
    if as_json:
        print_json(removed)
    else:
        console.print(f"{name} is removed.")


@app.command()
def profile(
    name: Name,
    question_set: Annotated[str | None, typer.Option(help="By default the one that queries recruit on.")] = None,
    show: Annotated[bool, typer.Option("--show", help="Show the profile it has instead of building one.")] = False,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Profile an expert on a question set, or show its profile."""
    client = _client(url)
    if not show:
        started = client.post(f"/v1/experts/{name}/profile", {"question_set": question_set} if question_set else {})
        if as_json:
            print_json(started)
        else:
            console.print(f"{name} is being profiled (run {started['id']}).")
        return
    found = client.get(f"/v1/experts/{name}/profile")
    if as_json:
        print_json(found)
        return
    skills = found["skills"]
    rows = [(item["skill"], f"{item['right']:g} of {item['tried']:g}", f"{item['strength']:.2f}") for item in skills]
    console.print(table(("skill", "right", "strength"), rows))


def _from_file(file: Path, name: str) -> dict[str, Any]:
    try:
        entries = tomllib.loads(file.read_text(encoding="utf-8")).get("expert", [])
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        fail(f"{file}: {error}")
        raise typer.Exit(2) from None
    for entry in entries:
        if isinstance(entry, dict) and entry.get("name") == name:
            return {key: value for key, value in entry.items() if key != "enabled"}
    fail(f"{file} has no [[expert]] with name = {name!r}")
    raise typer.Exit(2)


def _client(url: str | None) -> Client:
    return Client.for_settings(Settings(), url)
