"""Embedding ahead of the stager: the next questions' texts, in threads of its own, while it does everything else.

Embedding is most of what a line costs, and lets go of the interpreter while it computes. Vectors are left in the
embedder's cache, where the stage that needs them finds them; a text that is not there is embedded then. So nothing
that happens here, or fails to, changes what is decided.
"""

from collections import defaultdict, deque
from collections.abc import Callable, Collection
from concurrent.futures import Future, ThreadPoolExecutor

import sqlalchemy as sa
from sqlmodel import Session

from orchestrator.pool.question_sets import TextEmbedder

THREADS = 2
"""One computes while the other waits for the interpreter."""
PIECE = 32
"""Texts embedded in one go: a fraction of a second, so that the first experts soon have work."""
PIECES_AHEAD = 12
"""Pieces of a run that are embedded, or wait for it, at most."""

_NEXT = sa.text(
    """
    SELECT id, CASE WHEN query->>'expert' IS NULL THEN question->>'text' END AS text FROM instance
    WHERE run_id = :run AND stage = :stage AND ready AND id > :after ORDER BY id LIMIT :count
    """
)


class Ahead:
    """For each run, the pieces under way. Used by the stager's one thread."""

    def __init__(self, *, load_embedder: Callable[[], TextEmbedder]) -> None:
        self._load_embedder = load_embedder
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="embedding")
        self._pieces: dict[str, deque[tuple[int, Future[None]]]] = defaultdict(deque)
        self._after: dict[str, int] = {}

    def embedded(self, session: Session, run_id: str, stage: str) -> int:
        """How many of the run's oldest instances in the stage can be taken without waiting; they count as taken."""
        pieces = self._pieces[run_id]
        count = 0
        while pieces and pieces[0][1].done():
            count += pieces.popleft()[0]
        self._top_up(session, run_id, stage, pieces)
        if not pieces:
            del self._pieces[run_id]
            self._after.pop(run_id, None)
        return count

    def keep(self, run_ids: Collection[str]) -> None:
        """Let go of the pieces of all other runs: they were called off."""
        for run_id in self._pieces.keys() - run_ids:
            for _, piece in self._pieces.pop(run_id):
                piece.cancel()
            self._after.pop(run_id, None)

    def close(self) -> None:
        """Finish the pieces that are being embedded; leave the others."""
        self._threads.shutdown(cancel_futures=True)

    def _top_up(self, session: Session, run_id: str, stage: str, pieces: deque[tuple[int, Future[None]]]) -> None:
        wanted = (PIECES_AHEAD - len(pieces)) * PIECE
        if wanted <= 0:
            return
        given = {"run": run_id, "stage": stage, "after": self._after.get(run_id, 0), "count": wanted}
        rows = session.execute(_NEXT, given).all()
        for start in range(0, len(rows), PIECE):
            part = rows[start : start + PIECE]
            pieces.append(
                (len(part), self._threads.submit(self._embed, [row.text for row in part if row.text is not None]))
            )
            self._after[run_id] = part[-1].id

    def _embed(self, texts: list[str]) -> None:
        self._load_embedder().embed(texts)
