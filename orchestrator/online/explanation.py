"""The `muster` object of an answer: who was asked and why, what each said, how it was merged, what it cost. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from orchestrator.fusion.fusion import Fused
from orchestrator.online.query import Usage
from orchestrator.recruiting.values import Recruitment


def decided(
    recruitment: Recruitment, *, annotation: str, note: str, seed: int, versions: Mapping[str, Any]
) -> dict[str, Any]:
    """The decision with its reasons. `versions`: "pool", "question_set", and by name "experts" and "profiles"."""
    names = [recruit.expert for recruit in recruitment.recruits]
    return {
        "strategy": recruitment.strategy,
        "annotation": annotation,
        "skills": [
            {"skill": match.skill, "similarity": round(match.similarity, 4), "keyword": match.keyword}
            for match in recruitment.skills
        ],
        "recruits": [
            {
                "expert": recruit.expert,
                "suitability": round(recruit.suitability, 4),
                "weight": round(recruit.weight, 4),
                "probability": None if recruit.probability is None else round(recruit.probability, 4),
                "uncertainty": None if recruit.uncertainty is None else round(recruit.uncertainty, 4),
                "tokens": None if recruit.tokens is None else round(recruit.tokens),
                "seconds": None if recruit.seconds is None else round(recruit.seconds, 1),
                "why": recruit.why,
            }
            for recruit in recruitment.recruits
        ],
        "off_domain": recruitment.off_domain,
        "note": "; ".join(filter(None, (note, recruitment.note))),
        "seed": seed,
        "versions": {
            "pool": versions["pool"],
            "question_set": versions["question_set"],
            "experts": {name: versions["experts"][name] for name in names},
            "profiles": {name: versions["profiles"][name] for name in names},
        },
    }


def explained(
    decided: Mapping[str, Any],
    *,
    answers: Sequence[Mapping[str, Any]],
    fused: Fused,
    notes: Iterable[str],
    seconds: Mapping[str, float],
    tokens: Mapping[str, Usage],
) -> dict[str, Any]:
    """The whole object. `answers`: each with "expert" and "error"; `seconds` and `tokens`: by stage."""
    troubles = [f"{answer['expert']}: {answer['error']}" for answer in answers if answer["error"]]
    told = (decided["note"], *notes, fused.note, *troubles)
    return {
        **decided,
        "answers": list(answers),
        "votes": {vote: round(weight, 4) for vote, weight in fused.votes.items()},
        "fusion": {
            "method": fused.method,
            "expert": fused.expert,
            "answer": fused.answer,
            "confidence": round(fused.confidence, 4),
            "note": fused.note,
            "gain": None if fused.gain is None else round(fused.gain, 4),
        },
        "note": "; ".join(dict.fromkeys(filter(None, told))),
        "seconds": {stage: round(each, 3) for stage, each in seconds.items()},
        "tokens": {stage: each.as_json() for stage, each in tokens.items()},
    }
