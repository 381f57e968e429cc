"""Benchmarks by name: JSONL files in a folder (`MUSTER_BENCHMARKS_DIR`), a question with its answer a line."""

import re

from orchestrator.pool import question_sets
from orchestrator.settings import Settings
from skills.question import Question

SUFFIX = ".jsonl"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class UnknownBenchmark(LookupError):
    """Neither a file nor a question set has this name."""

    def __init__(self, name: str, settings: Settings) -> None:
        known = ", ".join(names(settings)) or "none"
        super().__init__(
            f"there is no benchmark {name!r}: the folder {settings.benchmarks_dir} (MUSTER_BENCHMARKS_DIR) has "
            f"{known}; GET /v1/question-sets lists question sets, which will do, too"
        )


def names(settings: Settings) -> list[str]:
    """What is in the folder."""
    return sorted(path.stem for path in settings.benchmarks_dir.glob(f"*{SUFFIX}") if _NAME.fullmatch(path.stem))


def read(settings: Settings, name: str) -> list[Question] | None:
    """The questions of a file in the folder; None if there is no such file. Raises `question_sets.BadQuestionSet`."""
    path = settings.benchmarks_dir / f"{name}{SUFFIX}"
    if not _NAME.fullmatch(name) or not path.is_file():
        return None
    try:
        with path.open(encoding="utf-8-sig") as lines:
            return question_sets.parse(lines)
    except UnicodeDecodeError as error:
        raise question_sets.BadQuestionSet(f"{path} is not UTF-8 text: {error}") from None
