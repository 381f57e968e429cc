"""Evidence: labelled questions and how each expert of the pool answered them. Profiles are read off it."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from skills.question import Question

Floats = npt.NDArray[np.float32]
Masks = npt.NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """All that recruiting learns from. n questions, m experts, d embedding dimensions.

    A strategy is fitted on this value and on nothing else, whether it comes from the database
    (profiles of live experts) or from a recorded folder (`muster replay`).
    """

    experts: tuple[str, ...]
    """m names; columns below are in this order."""
    questions: tuple[Question, ...]
    """n labelled questions, with their annotated skills (maybe none)."""
    embeddings: Floats
    """(n, d), unit rows: the embedded `Question.text`."""
    correct: Floats
    """(n, m): 1 right, 0 wrong, NaN never asked."""
    answers: tuple[tuple[str, ...], ...] = ()
    """n rows of m parsed answers, "" where none could be read. Empty tuple: not kept."""
    texts: tuple[tuple[str | None, ...], ...] = ()
    """n rows of m completions. Empty tuple: not kept; an entry may be None."""
    tokens: Floats | None = None
    """(n, m) tokens that each completion had, NaN where unknown. None: not kept. Only costs are read off it."""
    skill_names: tuple[str, ...] = ()
    """The vocabulary: the distinct skills of `questions`, v of them."""
    skill_embeddings: Floats | None = None
    """(v, d), unit rows."""
