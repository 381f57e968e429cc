"""Keeps reasoning out of a stream: what a model thinks between <think> and </think> is not its answer."""

OPEN = "<think>"
CLOSE = "</think>"


class VisibleStream:
    """Feed it pieces of text; it gives back what may be shown, holding back what might become a tag."""

    def __init__(self) -> None:
        self._held = ""
        self._thinking = False
        self._shown_any = False

    def feed(self, text: str) -> str:
        """What can be shown now."""
        self._held += text
        shown = ""
        while self._held:
            tag = CLOSE if self._thinking else OPEN
            before, found, after = self._held.partition(tag)
            if found:
                shown += "" if self._thinking else before
                self._held, self._thinking = after, not self._thinking
                continue
            keep = _overlap(self._held, tag)
            ready = self._held[: len(self._held) - keep]
            shown += "" if self._thinking else ready
            self._held = self._held[len(self._held) - keep :]
            break
        return self._begun(shown)

    def end(self) -> str:
        """What was held back and is no tag after all."""
        held, self._held = self._held, ""
        return "" if self._thinking else self._begun(held)

    def _begun(self, shown: str) -> str:
        """Blanks before the first word are not shown."""
        if not self._shown_any:
            shown = shown.lstrip()
        self._shown_any = self._shown_any or bool(shown)
        return shown


def _overlap(text: str, tag: str) -> int:
    """The length of the longest end of `text` that begins `tag`."""
    return next((size for size in range(min(len(text), len(tag) - 1), 0, -1) if text.endswith(tag[:size])), 0)
