"""The pool and its fitted recruiters, kept until the pool changes: a query should not read a thousand rows."""

import threading
from collections import OrderedDict

from sqlmodel import Session

from orchestrator import recruiting
from orchestrator.online import needs
from orchestrator.online.needs import Needs
from orchestrator.pool import pool
from orchestrator.pool.pool import Pool
from orchestrator.recruiting.values import Recruiter

POOLS_KEPT = 4
"""Versions: queries under way finish on the one they began with; another question set makes another."""
RECRUITERS_KEPT = 16


class PoolCache:
    """Thread-safe. One fit per pool version and strategy; whoever comes second waits for the first."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pools: OrderedDict[str, Pool] = OrderedDict()
        self._recruiters: OrderedDict[tuple[str, str], Recruiter] = OrderedDict()
        self._needs: OrderedDict[str, Needs] = OrderedDict()

    def current(self, session: Session, *, question_set: str) -> Pool:
        """The pool as it is now: one cheap query, and a load only if it changed. Raises as `pool.load`."""
        version = pool.current_version(session, question_set=question_set)
        with self._lock:
            if version not in self._pools:
                loaded = pool.load(session, question_set=question_set)
                version = loaded.version
                self._pools[version] = loaded
                self._trim()
            self._pools.move_to_end(version)
            return self._pools[version]

    def recruiter(self, of: Pool, strategy: str) -> Recruiter:
        """`strategy`, fitted on the pool's evidence. Raises `recruiting.UnknownStrategy`."""
        key = (of.version, strategy)
        with self._lock:
            if key not in self._recruiters:
                self._recruiters[key] = recruiting.fit(strategy, of.evidence)
                self._trim()
            self._recruiters.move_to_end(key)
            return self._recruiters[key]

    def needs(self, of: Pool) -> Needs:
        """The pool's vocabulary, to read off what a question needs."""
        with self._lock:
            if of.version not in self._needs:
                self._needs[of.version] = needs.read(of.evidence)
                self._trim()
            return self._needs[of.version]

    def _trim(self) -> None:
        while len(self._needs) > POOLS_KEPT:
            self._needs.popitem(last=False)
        while len(self._pools) > POOLS_KEPT:
            self._pools.popitem(last=False)
        while len(self._recruiters) > RECRUITERS_KEPT:
            self._recruiters.popitem(last=False)
