"""Follow the ledger of the git remote, so that a promotion or rollback on another machine is served here too."""

import logging
import threading
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime

from ..errors import UserError, one_line
from ..releases import git, pointers
from ..releases import ledger as book

STOP_SECONDS = 5

log = logging.getLogger(__name__)


@dataclass
class LedgerFollower:
    """Fetch the ledger every `seconds`, and move this clone's pointers to it, in a separate thread.

    With `seconds` of None, only when `wake` is called.

    `asked`: when the remote last answered, as time.time(); None if this clone has no git remote, or before the first
    answer. `problem`: why it does not answer now, or an empty string.
    """

    seconds: float | None
    asked: float | None = None
    problem: str = ""
    _tip: str | None = None
    _wake: threading.Event = field(default_factory=threading.Event)
    _stopping: bool = False
    _thread: threading.Thread | None = None

    def start(self) -> None:
        """Start following."""
        self._thread = threading.Thread(target=self._run, name="ledger", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop following."""
        self._stopping = True
        self._wake.set()
        if self._thread:
            self._thread.join(STOP_SECONDS)

    def wake(self) -> None:
        """Fetch now, not after `seconds`."""
        self._wake.set()

    def age(self) -> float | None:
        """Return how many seconds ago the remote last answered."""
        return None if self.asked is None else max(0.0, time.time() - self.asked)

    def state(self) -> dict[str, str | None]:
        """Return the state for /info."""
        asked = datetime.fromtimestamp(self.asked, UTC).isoformat(timespec="seconds") if self.asked else None
        return {"asked": asked, "problem": self.problem or None}

    def _run(self) -> None:
        if self.seconds is not None:
            self.look()
        while True:
            self._wake.wait(self.seconds)
            self._wake.clear()
            if self._stopping:
                return
            self.look()

    def look(self) -> None:
        """Fetch once. The channels keep what they serve if the remote does not answer."""
        try:
            asked = time.time() if book.fetch() else None
            ledger = pointers.follow()
            if asked and ledger.refused and ledger.tip != self._tip:
                # This clone may only lack what an entry names, such as newer allowed_signers.
                git.git("fetch", "--quiet", "--no-tags", "origin")
                ledger = pointers.follow()
            self.asked, self._tip = asked, ledger.tip
        except Exception as error:  # git, the disk, the network: the next attempt may succeed
            reason = one_line(error) if isinstance(error, UserError) else f"{type(error).__name__}: {one_line(error)}"
            if reason != self.problem:
                log.error("the ledger cannot be followed: %s", reason)
            self.problem = reason
        else:
            if self.problem:
                log.info("the ledger is followed again")
            self.problem = ""
