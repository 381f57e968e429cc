"""How alike two questions are, and estimates that questions alike lend each other. Pure numpy.

Likeness is a kernel of three views: the question's embedding, the mean embedding of its skills, and what its surface
shows (length, digits, formulas, choices). Estimates are kernel ridge regressions (Saunders, Gammerman and Vovk 1998)
over Nyström features (Williams and Seeger 2001), with the ridge chosen by exact leave-one-out: few or odd profile
questions give back the overall means.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from orchestrator.recruiting.values import Ask
from skills.evidence import Evidence, Floats, Masks

LANDMARKS = 500
"""Profile questions that stand for all where there are more: 1,000 and 2,000 recruited no better on recorded data."""
SURFACE_WEIGHT = 0.3
"""Beside 1 for the embedding and 1 for the skills."""
OFF_DOMAIN_SIMILARITY = 0.2
"""A question whose embedding is further from every profile question than this cosine is off-domain."""
_BANDWIDTH = 8.0
_CLIP = 2.5
RIDGES = (3.0, 5.0, 10.0, 15.0, 20.0, 30.0, 60.0, 120.0)
_DIGITS = re.compile(r"\d")
_FORMULA = re.compile(r"[$\\=]")


def surface(text: str, choices: Sequence[str], options: int = 0) -> list[float]:
    """Six numbers that the bare text shows: length, digits, formulas, and how many choices of what kind."""
    n = len(choices)
    return [
        float(np.log1p(len(text))),
        len(_DIGITS.findall(text)) / max(1, len(text)),
        sum(_DIGITS.search(choice) is not None for choice in choices) / n if n else 0.0,
        float(np.log1p(sum(map(len, choices)) / n)) if n else 0.0,
        max(n, options) / 10,
        float(_FORMULA.search(text) is not None),
    ]


@dataclass(frozen=True, kw_only=True)
class View:
    """n questions, seen three ways."""

    text: Floats
    """(n, d) unit rows."""
    skills: Floats
    """(n, d) unit rows; zero where no skill is known."""
    surface: Floats
    """(n, 6)"""

    def take(self, rows: npt.NDArray[np.intp]) -> "View":
        return View(text=self.text[rows], skills=self.skills[rows], surface=self.surface[rows])


def view_of_evidence(evidence: Evidence) -> View:
    """The labelled questions."""
    rows = {name: row for row, name in enumerate(evidence.skill_names)}
    skills = np.zeros_like(evidence.embeddings)
    if evidence.skill_embeddings is not None and rows:
        for n, question in enumerate(evidence.questions):
            named = [rows[name] for name in question.skills if name in rows]
            if named:
                skills[n] = evidence.skill_embeddings[named].mean(axis=0)
    surfaces = [surface(question.text, question.options) for question in evidence.questions]
    return View(
        text=evidence.embeddings,
        skills=_unit(skills),
        surface=np.array(surfaces, np.float32).reshape(len(evidence.questions), 6),
    )


def view_of_asks(asks: Sequence[Ask]) -> View:
    """Questions to recruit for."""
    text = np.stack([ask.embedding for ask in asks])
    skills = np.zeros_like(text)
    for n, ask in enumerate(asks):
        if ask.skill_embeddings is not None and len(ask.skill_embeddings):
            skills[n] = ask.skill_embeddings.mean(axis=0)
    surfaces = [surface(ask.text, ask.choices, ask.options) for ask in asks]
    return View(text=text, skills=_unit(skills), surface=np.array(surfaces, np.float32))


@dataclass(frozen=True, kw_only=True)
class Likeness:
    """The kernel to up to `LANDMARKS` profile questions."""

    landmarks: View = field(repr=False)
    centre: Floats = field(repr=False)
    spread: Floats = field(repr=False)
    """(6,) of the surface, so that its six numbers count alike."""
    root: Floats = field(repr=False)
    """(landmarks, D): kernel rows times this are features whose inner products give the kernel back."""

    def kernel(self, view: View) -> Floats:
        """(n, landmarks), each from about 0 to 1. Where either question has no skills, its text counts twice."""
        own = self._surface(view.surface)
        others = self._surface(self.landmarks.surface)
        distance = (own**2).sum(1)[:, None] + (others**2).sum(1)[None] - 2 * own @ others.T
        text = _curved(view.text @ self.landmarks.text.T)
        total = text + SURFACE_WEIGHT * np.exp(-distance / _BANDWIDTH)
        named = np.asarray(view.skills.any(axis=1))
        if named.any() and self.landmarks.skills.any():
            both = named[:, None] & np.asarray(self.landmarks.skills.any(axis=1))[None]
            total += np.where(both, _curved(view.skills @ self.landmarks.skills.T), text)
        else:
            total += text
        return np.asarray(total / (2 + SURFACE_WEIGHT), np.float32)

    def off_domain(self, view: View) -> Masks:
        """(n,) no profile question is anything like it."""
        return np.asarray((view.text @ self.landmarks.text.T).max(axis=1) < OFF_DOMAIN_SIMILARITY)

    def _surface(self, rows: Floats) -> Floats:
        return np.asarray(np.clip((rows - self.centre) / self.spread, -_CLIP, _CLIP), np.float32)


def fit(view: View) -> Likeness:
    """The kernel over these profile questions."""
    n = len(view.text)
    rows = np.arange(n) if n <= LANDMARKS else np.sort(np.random.default_rng(0).permutation(n)[:LANDMARKS])
    bare = Likeness(
        landmarks=view.take(rows),
        centre=view.surface.mean(axis=0),
        spread=view.surface.std(axis=0) + np.float32(1e-3),
        root=np.zeros((0, 0), np.float32),
    )
    eigenvalues, vectors = np.linalg.eigh(bare.kernel(bare.landmarks).astype(np.float64))
    kept = eigenvalues > eigenvalues[-1] * 1e-7
    root = (vectors[:, kept] / np.sqrt(eigenvalues[kept])).astype(np.float32)
    return Likeness(landmarks=bare.landmarks, centre=bare.centre, spread=bare.spread, root=root)


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """t quantities, each known on the profile questions, estimated for any question: `mean + kernel @ slope`."""

    mean: Floats
    """(t,)"""
    slope: Floats
    """(landmarks, t)"""
    held_out: Floats
    """(n, t): every profile question's estimate from the others alone."""
    ridge: float
    residual: Floats
    """(t,) standard deviation of what is known about its held-out estimate."""

    def at(self, kernel: Floats) -> Floats:
        """(a, t) for the questions of these kernel rows."""
        return np.asarray(self.mean + kernel @ self.slope, np.float32)


class Smoother:
    """Fits estimates on one set of profile questions; the decomposition is done once for all of them."""

    def __init__(self, likeness: Likeness, view: View) -> None:
        self.root = likeness.root
        features = likeness.kernel(view) @ self.root
        eigenvalues, vectors = np.linalg.eigh(features.T.astype(np.float64) @ features)
        self._eigenvalues = np.maximum(eigenvalues, 0.0)
        self._vectors = vectors.astype(np.float32)
        self._basis = features @ self._vectors

    def fit(self, known: Floats, *, ridge: float | None = None, relative: bool = False) -> Estimate:
        """Estimate the columns of `known` (n, t), all with the same ridge.

        Without `ridge`, the one of `RIDGES` whose held-out errors are smallest; with `relative`, of errors against the
        row's mean: what matters where columns are only compared with one another.
        """
        mean = known.mean(axis=0)
        rest = np.asarray(known - mean, np.float32)
        projected = np.asarray(self._basis.T @ rest, np.float32)
        best: tuple[float, float, Floats] | None = None
        for candidate in RIDGES if ridge is None else (ridge,):
            held_out = self._held_out(rest, projected, candidate)
            errors = rest - held_out
            if relative:
                errors = errors - errors.mean(axis=1, keepdims=True)
            loss = float((errors**2).sum())
            if best is None or loss < best[0]:
                best = (loss, candidate, held_out)
        assert best is not None
        _, chosen, held_out = best
        weights = self._vectors @ (projected * self._shrink(chosen)[:, None])
        return Estimate(
            mean=np.asarray(mean, np.float32),
            slope=np.asarray(self.root @ weights, np.float32),
            held_out=np.asarray(mean + held_out, np.float32),
            ridge=chosen,
            residual=np.asarray((rest - held_out).std(axis=0), np.float32),
        )

    def uncertainty(self, ridge: float) -> Floats:
        """(landmarks, landmarks) M: one estimate's variance at a kernel row k is residual^2 (1/ridge + k M k).

        The posterior variance of the Gaussian process whose mean is the ridge regression: 1/ridge where no profile
        question is near (k = 0), less where many are.
        """
        within = (self._vectors * (self._shrink(ridge) - np.float32(1 / ridge))) @ self._vectors.T
        return np.asarray(self.root @ within @ self.root.T, np.float32)

    def _shrink(self, ridge: float) -> Floats:
        return np.asarray(1 / (self._eigenvalues + ridge), np.float32)

    def _held_out(self, rest: Floats, projected: Floats, ridge: float) -> Floats:
        """Exact leave-one-out predictions, from the hat matrix's diagonal."""
        shrink = self._shrink(ridge)
        leverage = (self._basis**2 @ shrink)[:, None]
        fitted = self._basis @ (projected * shrink[:, None])
        return np.asarray((fitted - leverage * rest) / np.maximum(1 - leverage, 1e-3), np.float32)


def _curved(cosine: Floats) -> Floats:
    """Half linear, half quadratic: near questions count more, far ones still a little."""
    return np.asarray(0.5 * (cosine + np.square(np.maximum(cosine, 0))), np.float32)


def _unit(rows: Floats) -> Floats:
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(np.divide(rows, length, out=np.zeros_like(rows), where=length > 0), np.float32)
