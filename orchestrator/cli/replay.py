"""`muster replay`: recruiting and fusion on recorded answers of real LLMs, with no engine and no server."""

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from orchestrator.cli.output import AsJson, console, fail, print_json, table, trouble
from orchestrator.settings import Settings

EMBEDDED_SILENTLY = 500
"""Texts; more take long enough to say so."""
CURVE_CALLS = (1, 2, 3, 4, 5, 7)

Folder = Annotated[
    Path, typer.Argument(metavar="DIR", help="A recorded folder: questions.parquet, outputs.parquet, pools.json.")
]


def replay(
    folder: Folder,
    pool: Annotated[str, typer.Option(help="A pool of pools.json.")],
    profile_split: Annotated[str, typer.Option(help="Splits to learn from, with commas between.")],
    test_split: Annotated[str, typer.Option(help="Splits to be held to, with commas between.")],
    strategy: Annotated[str | None, typer.Option(help="How to recruit.", show_default="as for queries")] = None,
    k: Annotated[int | None, typer.Option(min=1, help="Experts per question.")] = None,
    calls: Annotated[float | None, typer.Option(min=1, help="Adaptive: so many experts in the mean at most.")] = None,
    tokens: Annotated[
        float | None, typer.Option(min=1, help="So many tokens of completions per question in the mean.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of draws and bootstraps.")] = 0,
    curve: Annotated[
        Path | None,
        typer.Option(help="Draw accuracy against calls into this SVG file, against tokens beside it."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Answer a recorded benchmark and report how right that was, beside its baselines."""
    # Imported here: no other command should wait for a data frame library.
    from orchestrator import annotation, recruiting
    from orchestrator.replay import embedding_cache, recorded
    from orchestrator.replay import replay as replaying
    from skills.embed import EmbedderMissing

    if sum(each is not None for each in (k, calls, tokens)) != 1:
        fail("give one of --k, the number of experts per question, --calls, their mean, and --tokens, what they write")
        raise typer.Exit(2)
    settings = Settings()
    chosen = strategy or (replaying.ADAPTIVE if calls is not None else settings.strategy)
    cache = embedding_cache.EmbeddingCache(
        settings.data_dir / "replay" / "embeddings-8bit.npz", lambda: annotation.embedder(settings.packages_dir)
    )

    def tell(done: int, of: int) -> None:
        if of > EMBEDDED_SILENTLY:
            trouble.print(f"embedded {done} of {of} texts", style="dim")

    def embed(texts: Any) -> Any:
        return cache.embed(texts, tell)

    try:
        recruiting.known(chosen)
        begun = time.perf_counter()
        read = recorded.read(folder, pool=pool)
        material = replaying.material(read, profile=profile_split.split(","), test=test_split.split(","), embed=embed)
        read_s = time.perf_counter() - begun
        outcome = replaying.run(material, strategy=chosen, k=k, calls=calls, tokens=tokens, seed=seed)
    except (recorded.RecordedError, recruiting.UnknownStrategy, EmbedderMissing) as error:
        fail(str(error))
        raise typer.Exit(2) from None
    if material.contaminated:
        trouble.print(
            f"[yellow]muster:[/yellow] {len(material.contaminated)} profile questions are also in {test_split} and "
            "were taken out of the profile"
        )
    report = _report(material, outcome, pool=pool, k=k, calls=calls, tokens=tokens, seed=seed, read_s=read_s)
    if curve is not None:
        report["curve"] = _draw(material, curve, report, pool=pool, seed=seed)
    if as_json:
        print_json(report)
    else:
        _print(report)


def _report(
    material: Any,
    outcome: Any,
    *,
    pool: str,
    k: int | None,
    calls: float | None,
    tokens: float | None,
    seed: int,
    read_s: float,
) -> dict[str, Any]:
    from orchestrator.replay import replay as replaying
    from orchestrator.replay import report as replay_report

    size = k if k is not None else max(1, int(calls if calls is not None else outcome.mean_calls))
    head = {"strategy": outcome.strategy, "k": k, "calls": calls, "tokens": tokens, "pool": pool, "seed": seed}
    seconds = outcome.fit_s + outcome.recruit_s + outcome.fuse_s
    timings = {
        "read_and_embed": round(read_s, 3),
        "fit": round(outcome.fit_s, 3),
        "recruit": round(outcome.recruit_s, 3),
        "fuse": round(outcome.fuse_s, 3),
    }
    body = replay_report.build(material, outcome, k=size, seed=seed)
    found = {**head, **body, "seconds": round(seconds, 3), "timings": timings}
    if any(ask.skills for ask in material.asks):
        bare = replaying.run(
            replaying.without_skills(material), strategy=outcome.strategy, k=k, calls=calls, tokens=tokens, seed=seed
        )
        found["annotation_by_embedding"] = {
            "accuracy": round(float(bare.credit.mean()), 6),
            "costs": replay_report.difference(outcome.credit, bare.credit, seed=seed),
        }
    return found


def _draw(material: Any, path: Path, report: dict[str, Any], *, pool: str, seed: int) -> list[dict[str, Any]]:
    """Both ways to spend calls, at several means; and tokens, where there are texts, with the paper's beside."""
    from orchestrator.replay import replay as replaying
    from orchestrator.replay import report as replay_report

    spending = [each for each in CURVE_CALLS if each <= len(material.evidence.experts)]
    points = []
    for spent in spending:
        points.append(_point(replaying.run(material, strategy="posterior", k=spent, seed=seed), "calls"))
        if spent > 1:
            points.append(_point(replaying.run(material, strategy=replaying.ADAPTIVE, calls=spent, seed=seed), "calls"))
    _picture(path, points, report, cost="calls", pool=pool)
    if material.tokens is None or material.evidence.tokens is None:
        return points
    costs = replaying.costs_of(material.evidence).values()
    one = sum(cost.tokens for cost in costs) / len(costs)
    spent_tokens = []
    for spent in spending:
        for strategy in ("posterior", replaying.ADAPTIVE):
            outcome = replaying.run(material, strategy=strategy, tokens=one * spent, seed=seed)
            spent_tokens.append(_point(outcome, "tokens"))
        credit = replay_report.paper_spending(material, mean_tokens=one * spent, seed=seed)
        spent_tokens.append(
            {
                "strategy": "the paper",
                "budget": "tokens",
                "mean_tokens": round(one * spent, 2),
                "accuracy": round(float(credit.mean()), 6),
            }
        )
    _picture(path.with_stem(f"{path.stem}-tokens"), spent_tokens, report, cost="tokens", pool=pool)
    return [*points, *spent_tokens]


def _point(outcome: Any, budget: str) -> dict[str, Any]:
    return {
        "strategy": outcome.strategy,
        "budget": budget,
        "mean_calls": round(outcome.mean_calls, 4),
        "mean_tokens": round(outcome.mean_tokens, 2),
        "accuracy": round(float(outcome.credit.mean()), 6),
    }


def _picture(path: Path, points: list[dict[str, Any]], report: dict[str, Any], *, cost: str, pool: str) -> None:
    from orchestrator.replay import curve as picture

    lines: dict[str, list[tuple[float, float]]] = {}
    for point in points:
        lines.setdefault(point["strategy"], []).append((point[f"mean_{cost}"], point["accuracy"]))
    levels = {name: report["baselines"][name] for name in ("best_single", "majority_all")}
    title = f"Accuracy against mean {cost}, pool {pool}"
    path.write_text(picture.svg(lines, levels=levels, title=title, cost=cost))


def _print(report: dict[str, Any]) -> None:
    low, high = report["ci95"]
    console.print(
        f"{report['strategy']} on pool {report['pool']}: [bold]{report['accuracy']:.4f}[/bold] right of {report['n']} "
        f"(95 % {low:.4f} to {high:.4f}), {report['mean_calls']:.2f} calls in the mean, {report['seconds']:.2f} s"
    )
    if report["mean_tokens"] is not None:
        paper = report["paper_at_equal_tokens"]
        console.print(
            f"{report['mean_tokens']:.0f} tokens in the mean; the paper with as many: {paper['accuracy']:.4f}, "
            "gain {:+.4f} ({:+.4f} to {:+.4f})".format(paper["difference"], *paper["ci95"])
        )
    rows = []
    for name, value in report["baselines"].items():
        versus = report[f"versus_{name}"]
        rows.append(
            (name, f"{value:.4f}", f"{versus['difference']:+.4f}", "{:+.4f} to {:+.4f}".format(*versus["ci95"]))
        )
    console.print(table(("beside", "accuracy", "gain", "95 %, paired"), rows))
    gain = report["fusion_gain"]
    console.print(
        "fusion gain over the first recruit: {:+.4f} ({:+.4f} to {:+.4f})".format(gain["difference"], *gain["ci95"])
    )
    if "annotation_by_embedding" in report:
        console.print(f"without named skills: {report['annotation_by_embedding']['accuracy']:.4f}")
    for what in ("experts", "fused"):
        found = report["calibration"][what]
        console.print(f"calibration of {what}: expected error {found['error']}")
        console.print(
            table(
                ("said", "was", "n"),
                [(f"{each['said']:.2f}", f"{each['was']:.2f}", each["n"]) for each in found["bins"]],
            )
        )
    console.print(
        table(
            ("category", "n", "accuracy", "best single", "paper"),
            [
                (name, each["n"], f"{each['accuracy']:.3f}", f"{each['best_single']:.3f}", f"{each['paper']:.3f}")
                for name, each in report["per_category"].items()
            ],
        )
    )
