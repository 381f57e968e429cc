"""Values as the database keeps them: to JSON and back."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from orchestrator.fusion.fusion import Fused
from orchestrator.fusion.synthesis import Trial
from orchestrator.fusion.trials import Item
from orchestrator.online.query import Options, Query
from orchestrator.recruiting.values import Answered, MatchedSkill, Recruit, Recruitment
from skills.question import Question
from workers.messages import ChatMessage


def question_json(question: Question) -> dict[str, Any]:
    """A question as instances keep it. `question_of` reads it."""
    return {
        "id": question.id,
        "text": question.text,
        "options": list(question.options),
        "answer": question.answer,
        "category": question.category,
        "skills": list(question.skills),
    }


def question_of(stored: Mapping[str, Any]) -> Question:
    """The question that `question_json` wrote."""
    return Question(
        id=stored["id"],
        text=stored["text"],
        options=tuple(stored["options"]),
        answer=stored["answer"],
        category=stored["category"],
        skills=tuple(stored["skills"]),
    )


def query_json(query: Query) -> dict[str, Any]:
    """A chat request as a batch's instances keep it, beside its question. `query_of` reads it."""
    return {
        "messages": [{"role": turn.role, "content": turn.content} for turn in query.conversation],
        "expert": query.expert,
        "options": query.options.model_dump(mode="json", exclude_defaults=True),
        "overrides": dict(query.overrides),
    }


def query_of(stored: Mapping[str, Any], question: Question) -> Query:
    """The chat request that `query_json` wrote."""
    overrides = dict(stored["overrides"])
    if "stop" in overrides:
        overrides["stop"] = tuple(overrides["stop"])
    return Query(
        id=question.id,
        question=question,
        conversation=tuple(ChatMessage(role=turn["role"], content=turn["content"]) for turn in stored["messages"]),
        expert=stored["expert"],
        options=Options.model_validate(stored["options"]),
        overrides=overrides,
    )


def recruitment_json(recruitment: Recruitment) -> dict[str, Any]:
    """A recruitment as instances keep it, unrounded: votes are weighed with it later. `recruitment_of` reads it."""
    return {
        "strategy": recruitment.strategy,
        "skills": [
            {"skill": match.skill, "similarity": float(match.similarity), "keyword": match.keyword}
            for match in recruitment.skills
        ],
        "recruits": [recruit_json(recruit) for recruit in recruitment.recruits],
        "off_domain": recruitment.off_domain,
        "note": recruitment.note,
        "leanings": dict(recruitment.leanings),
        "doubt": recruitment.doubt,
        "gain": recruitment.gain,
        "mean_calls": recruitment.mean_calls,
        "among": list(recruitment.among),
    }


def recruit_json(recruit: Recruit) -> dict[str, Any]:
    """One recruit, with the reason it was chosen for."""
    return {
        "expert": recruit.expert,
        "suitability": float(recruit.suitability),
        "weight": float(recruit.weight),
        "probability": None if recruit.probability is None else float(recruit.probability),
        "why": recruit.why,
        "doubt": float(recruit.doubt),
        "uncertainty": recruit.uncertainty,
    }


def recruitment_of(stored: Mapping[str, Any]) -> Recruitment:
    """The recruitment that `recruitment_json` wrote; other fields beside it are ignored."""
    return Recruitment(
        strategy=stored["strategy"],
        recruits=tuple(
            Recruit(
                **{name: each[name] for name in ("expert", "suitability", "weight", "probability", "why")},
                doubt=each.get("doubt", 0.0),
                uncertainty=each.get("uncertainty"),
            )
            for each in stored["recruits"]
        ),
        skills=tuple(
            MatchedSkill(skill=each["skill"], similarity=each["similarity"], keyword=each["keyword"])
            for each in stored["skills"]
        ),
        off_domain=stored["off_domain"],
        note=stored["note"],
        leanings=stored.get("leanings", {}),
        doubt=stored.get("doubt"),
        gain=stored.get("gain"),
        mean_calls=stored.get("mean_calls"),
        among=tuple(stored.get("among", ())),
    )


def answered_json(answered: Answered) -> dict[str, Any]:
    """What an expert answered, with its text. `answered_of` reads it."""
    return dataclasses.asdict(answered)


def answered_of(stored: Mapping[str, Any]) -> Answered:
    """What `answered_json` wrote."""
    return Answered(**stored)


def fused_json(fused: Fused) -> dict[str, Any]:
    """The fused answer as instances keep it."""
    return {
        "method": fused.method,
        "answer": fused.answer,
        "text": fused.text,
        "expert": fused.expert,
        "confidence": float(fused.confidence),
        "votes": {answer: float(weight) for answer, weight in fused.votes.items()},
        "note": fused.note,
        "gain": None if fused.gain is None else float(fused.gain),
    }


def item_json(item: Item) -> dict[str, Any]:
    """A natural item of an aggregator test, without its question. `item_of` reads it."""
    return {
        "recruitment": recruitment_json(item.recruitment),
        "answered": [answered_json(each) for each in item.answered],
    }


def item_of(stored: Mapping[str, Any], question: Question) -> Item:
    """The item that `item_json` wrote."""
    return Item(
        question=question,
        recruitment=recruitment_of(stored["recruitment"]),
        answered=tuple(answered_of(each) for each in stored["answered"]),
    )


def trial_json(trial: Trial) -> dict[str, Any]:
    """What an aggregator made of an item. `trial_of` reads it."""
    return dataclasses.asdict(trial)


def trial_of(stored: Mapping[str, Any]) -> Trial:
    """What `trial_json` wrote; other fields beside it are ignored."""
    return Trial(**{field.name: stored[field.name] for field in dataclasses.fields(Trial)})


def fused_of(stored: Mapping[str, Any]) -> Fused:
    """What `fused_json` wrote."""
    return Fused(**stored)
