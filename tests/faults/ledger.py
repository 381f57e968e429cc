"""What the suite found, fault by fault: the table that `make faults` prints at its end."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

HEADER = ("fault", "", "tries", "survived", "lost lines", "recomputed units")


@dataclass(kw_only=True)
class Fault:
    """One fault of the list, and how the service bore it."""

    number: str
    name: str
    tries: int = 0
    survived: int = 0
    lost: int = 0
    recomputed: int = 0
    note: str = ""
    """What was measured, told below the table."""

    @contextmanager
    def attempt(self) -> Iterator[None]:
        """One try: survived if nothing is raised."""
        self.tries += 1
        yield
        self.survived += 1


class Ledger:
    """Every fault that was tried."""

    def __init__(self) -> None:
        self._faults: dict[str, Fault] = {}

    def fault(self, number: str, name: str) -> Fault:
        return self._faults.setdefault(number, Fault(number=number, name=name))

    def table(self) -> list[str]:
        """The lines of the table, by number; empty if nothing was tried."""
        tried = [fault for fault in self._faults.values() if fault.tries]
        faults = sorted(tried, key=lambda fault: (int(fault.number.rstrip("abcdefgh")), fault.number))
        if not faults:
            return []
        rows = [
            HEADER,
            *((f.number, f.name, *map(str, (f.tries, f.survived, f.lost, f.recomputed))) for f in faults),
            (
                "",
                "all",
                *(str(sum(getattr(f, name) for f in faults)) for name in ("tries", "survived", "lost", "recomputed")),
            ),
        ]
        widths = [max(len(row[column]) for row in rows) for column in range(len(HEADER))]
        notes = [f"{fault.number}: {fault.note}" for fault in faults if fault.note]
        table = [
            "  ".join(
                cell.ljust(width) if column < 2 else cell.rjust(width)
                for column, (cell, width) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in rows
        ]
        return [*table, *notes]
