"""Recruiting others in place of experts whose models cannot be loaded. Pure."""

from collections.abc import Collection, Sequence
from dataclasses import replace

from orchestrator.recruiting.values import Ask, Recruit, Recruiter, Recruitment


def stand_ins(
    recruiter: Recruiter,
    ask: Ask,
    recruitment: Recruitment,
    *,
    missing: Sequence[str],
    asked: Collection[str],
    experts: Sequence[str],
    seed: int,
) -> tuple[Recruit, ...]:
    """One of `experts` for each of the recruits `missing`, chosen as the strategy chooses; fewer where fewer are left.

    Nobody of those `asked` already. Where others were recruited beside the missing ones, only whom `recruitment.left`
    affords. `seed` is the one that the line or query was recruited with. `joined` weighs them.
    """
    left, are_others = recruitment.left, len(recruitment.recruits) > len(missing)
    able = [name for name in experts if name not in asked]
    if left is not None and are_others:
        able = [name for name in able if left.affords([name])]
    if not missing or not able:
        return ()
    # A seed of its own: the draws of the first would favour those who stand beside the missing ones.
    found = recruiter.others(ask, recruitment, k=len(missing), seed=seed + len(asked), experts=able)
    what = "its model" if len(missing) == 1 else "their models"
    why = f"instead of {', '.join(missing)}: {what} cannot be loaded"
    return tuple(replace(each, why="; ".join(filter(None, (each.why, why)))) for each in found)
