"""What a server of connections does when the process has no descriptors left for more."""

from __future__ import annotations

import errno
from typing import Any

from netd.intake import PAUSE
from netd.refusal import Reserve
from netd.serving import Serving, logger
from netd.throttle import Throttle

_NO_DESCRIPTOR = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
_no_descriptor = Throttle()
_reserve = Reserve()


class Shortage(Serving):
    """A server that goes on answering without descriptors, by the one that it has kept."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        _reserve.fill()
        super().__init__(*args, **kwargs)

    def _resume(self) -> None:
        """As for all. Who has taken the reserve's place meanwhile may have given it back."""
        super()._resume()
        if self._loop is not None and not _reserve.fill():
            self._loop.call_later(PAUSE, self._resume)

    def _sees_shortage(self, error: OSError) -> bool:
        """Without descriptors, what waits is accepted in place of the reserve, told and closed."""
        if error.errno not in _NO_DESCRIPTOR:
            return False
        self._pause()
        refused = 0
        with _reserve.spent() as had_one:
            while not self._is_enough() and self._refuse_next():
                refused += 1
        self.service.gate.count_refused("descriptors", refused)
        # With a reserve it is known whether anybody waited: accept(2) fails before it looks.
        if refused or not had_one:
            self._tell_of_shortage(error.strerror or str(error))
        return True

    def _refuse_next(self) -> bool:
        try:
            request, client_address = self.get_request()
        except Exception:
            return False  # there are no more, or none to be had; the next turn tells
        self._send_away(request, client_address)
        return True

    def _send_away(self, request: Any, client_address: Any) -> None:
        """Tells a client that there is no descriptor for it. To let it read that would take one."""
        request.setblocking(False)
        try:
            request.send(self.service.fail_text("descriptors"))
        except OSError as gone:
            logger.debug("%s: %s", self.service.name, gone)
        self._shut(request, client_address)

    def _tell_of_shortage(self, what: str) -> None:
        """Once a second for all services: it is no news about any one of them, or of a client."""
        if times := _no_descriptor.due():
            logger.error(
                "%s: clients are refused (%d times; raise LimitNOFILE or ulimit -n,"
                " or lower max_connections)",
                what, times,
            )  # fmt: skip
