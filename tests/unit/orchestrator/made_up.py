"""Made-up experts with known strengths, answering made-up questions: what recruiting has to find out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from orchestrator.recruiting.values import Ask
from skills.evidence import Evidence, Floats
from skills.question import LETTERS, Question

DIMENSIONS = 16
CHOICES = 6


def direction(domain: str) -> Floats:
    """A unit vector per domain."""
    rng = np.random.default_rng(sum(map(ord, domain)))
    vector = rng.normal(size=DIMENSIONS).astype(np.float32)
    return np.asarray(vector / np.linalg.norm(vector), np.float32)


@dataclass(frozen=True, kw_only=True)
class World:
    """Experts by domain with the probability to be right; a twin copies another expert's answers."""

    strength: Mapping[str, Mapping[str, float]]
    twins: Mapping[str, str] = field(default_factory=dict)
    free_form: bool = False
    seed: int = 0

    @property
    def experts(self) -> tuple[str, ...]:
        return (*self.strength, *self.twins)

    @property
    def domains(self) -> tuple[str, ...]:
        return tuple(next(iter(self.strength.values())))

    def questions(self, n: int, *, salt: int = 0) -> list[Question]:
        rng = np.random.default_rng((self.seed, salt, 1))
        made = []
        for row in range(n):
            domain = self.domains[row % len(self.domains)]
            options = () if self.free_form else tuple(f"choice {each}" for each in rng.integers(10_000, size=CHOICES))
            gold = f"value {row}" if self.free_form else LETTERS[int(rng.integers(CHOICES))]
            made.append(
                Question(
                    id=f"{salt}-{row}",
                    text=f"{domain} question {salt}-{row}",
                    options=options,
                    answer=gold,
                    category=domain,
                )
            )
        return made

    def embed(self, texts: Sequence[str]) -> Floats:
        """Near the direction of the first word."""
        rows = []
        for text in texts:
            rng = np.random.default_rng(sum(ord(letter) * place for place, letter in enumerate(text, 1)))
            noisy = direction(text.split()[0]) + 0.1 * rng.normal(size=DIMENSIONS).astype(np.float32)
            rows.append(noisy / np.linalg.norm(noisy))
        return np.array(rows, np.float32)

    def answers(self, questions: Sequence[Question], *, salt: int = 0) -> list[tuple[str, ...]]:
        rng = np.random.default_rng((self.seed, salt, 2))
        found = []
        for question in questions:
            assert question.category is not None
            given = {}
            for name, by_domain in self.strength.items():
                right = rng.random() < by_domain[question.category]
                wrong = rng.integers(1, CHOICES)
                given[name] = question.answer or "" if right else self._wrong(question, int(wrong))
            given |= {twin: given[of] for twin, of in self.twins.items()}
            found.append(tuple(given[name] for name in self.experts))
        return found

    def evidence(self, n: int, *, with_answers: bool = True) -> Evidence:
        questions = self.questions(n)
        answers = self.answers(questions)
        correct = [
            [answer == question.answer for answer in row] for question, row in zip(questions, answers, strict=True)
        ]
        return Evidence(
            experts=self.experts,
            questions=tuple(questions),
            embeddings=self.embed([question.text for question in questions]),
            correct=np.array(correct, np.float32),
            answers=tuple(answers) if with_answers else (),
        )

    def asks(self, questions: Sequence[Question]) -> list[Ask]:
        vectors = self.embed([question.text for question in questions])
        return [
            Ask(text=question.text, embedding=vector, options=len(question.options), choices=question.options)
            for question, vector in zip(questions, vectors, strict=True)
        ]

    def _wrong(self, question: Question, step: int) -> str:
        if self.free_form:
            return f"wrong {step} of {question.id}"
        return LETTERS[(LETTERS.index(question.answer or "A") + step) % CHOICES]


SPECIALISTS = World(
    strength={
        "mathy": {"algebra": 0.9, "poetry": 0.2},
        "poet": {"algebra": 0.2, "poetry": 0.9},
        "solid": {"algebra": 0.6, "poetry": 0.6},
        "weak": {"algebra": 0.2, "poetry": 0.2},
    }
)
