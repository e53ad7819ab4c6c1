"""The control socket: who comes in, and who has to go.

It has a serving loop of its own, which a thousand clients that say nothing, or nothing sensible,
do not keep busy. When there are too many, the user who has the most of them gives one up.
"""

from __future__ import annotations

import errno
from contextlib import suppress
from pathlib import Path
from time import monotonic, sleep
from typing import Any

from netd.address import Address
from netd.admission import Admission
from netd.connection import peer_credentials, peer_text
from netd.control import crowd
from netd.control.commands import Commands
from netd.control.connection import DISPLACED, ControlConnection, ControlHandler
from netd.control.dispatcher import Dispatcher
from netd.control.privileges import Caller, Privileges
from netd.control.request import CommandError, refusal
from netd.control.stanza import ControlStanza
from netd.deadline import Timeouts
from netd.gate import Gate
from netd.listener import SocketOptions
from netd.refusal import Reserve
from netd.server import Server, UnixStreamServer
from netd.service import QuietService
from netd.unit import Unit

# Clients at once.
CLIENTS = 128
# Bytes of answers that clients have not taken yet, of all together; a single one may be longer.
HELD = 32 * 2**20
# How long a request may take to come in whole, and an answer to be taken, in seconds.
TIMEOUT = 10.0
# How often it is looked whether all have been answered, in seconds.
_POLL = 0.005
_NO_ROOM = refusal(
    CommandError("busy", "you ask for too much at once (wait until you have been answered)")
)
_NO_DESCRIPTOR = refusal(
    CommandError("busy", "netd has no descriptors left (raise LimitNOFILE in netd.service)")
)


class ControlServer(UnixStreamServer):
    """The listener, and its clients."""

    dispatcher: Dispatcher
    limit = CLIENTS

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._reserve = Reserve()
        self._reserve.fill()

    def get_request(self) -> tuple[Any, Any]:
        """As for all. When there are no descriptors left, there still is one for whoever comes to
        see why."""
        try:
            return super().get_request()
        except OSError as error:
            if error.errno not in (errno.EMFILE, errno.ENFILE):
                raise
        with self._reserve.spent():
            return super().get_request()

    def close_request(self, request: Any) -> None:
        """As for all; the reserve may be had again."""
        super().close_request(request)
        self._reserve.fill()

    def server_close(self) -> None:
        """As for all, and the reserve is given back."""
        super().server_close()
        self._reserve.close()

    def _admit(self, request: Any, client_address: Any) -> Any:
        caller = Caller(*peer_credentials(request))
        if len(self.sessions) >= self.limit and not self._make_room(caller.uid):
            self._send_away_busy(request, client_address)
            return None
        origin = f"uid={caller.uid}"
        self.service.gate.admit(origin)
        request.setblocking(False)
        self.sessions[request] = ControlConnection(
            request, client_address, self.service, origin, self._get_own_loop(), self.over,
            caller=caller, on_weight=self._lighten,
        )  # fmt: skip
        return request

    def _make_room(self, newcomer: int) -> bool:
        if (guest := crowd.surplus(self._guests(), newcomer)) is None:
            return False
        guest.cut(DISPLACED)
        return True

    def _lighten(self) -> None:
        while len(owing := [guest for guest in self._guests() if guest.weight]) > 1:
            if sum(guest.weight for guest in owing) <= HELD:
                return
            crowd.heaviest(owing).cut(DISPLACED)

    def _guests(self) -> list[ControlConnection]:
        return [s for s in self.sessions.values() if isinstance(s, ControlConnection)]

    def _send_away_busy(self, request: Any, client_address: Any) -> None:
        reason = "service_limit"
        self.service.gate.count_refused(reason)
        self.service.log_refused(peer_text(request, client_address), reason)
        request.setblocking(False)
        with suppress(OSError):  # it has gone
            request.send(_NO_ROOM)
        self._shut(request, client_address)

    def _sweep(self, now: float) -> bool:
        self.dispatcher.sweep(now)
        return super()._sweep(now)


class ControlUnit(Unit):
    """The control socket, from its bound listener to its end."""

    def __init__(
        self,
        stanza: ControlStanza,
        path: Path,
        commands: Commands,
        descriptors: int,
        timeout: float = TIMEOUT,
    ) -> None:
        """`path` is where it lies; `descriptors` is the limit of the process; `timeout`, in
        seconds, is how long a request may take to come in, and an answer to be taken."""
        timeouts = Timeouts().model_copy(update={"write_timeout": timeout})
        self.clients = min(CLIENTS, descriptors // 8)
        """How many there may be at once."""
        gate = Gate(Admission(max_connections=self.clients))
        service = QuietService(
            "control", protocol="control", gate=gate, timeouts=timeouts,
            banner_fail=_NO_DESCRIPTOR.decode(),
        )  # fmt: skip
        super().__init__(service, [])
        self.place = Address("unix", str(path)), stanza.socket_options, self._make
        """What a Binder needs to bind it."""
        count_error = self.service.counters.add_error
        self._dispatcher = Dispatcher(commands, Privileges(stanza), count_error)

    def _make(self, _family: int, sockaddr: Any, options: SocketOptions) -> Server:
        server = ControlServer(
            sockaddr, ControlHandler, False, service=self.service, options=options
        )
        server.dispatcher, server.limit = self._dispatcher, self.clients
        return server

    def settle(self, end: float) -> None:
        """Waits until whoever has asked for something is answered, up to the point `end` of the
        monotonic clock: one who has ended the last session of a netd that drains hears of it."""
        while self._dispatcher.is_busy and monotonic() < end:
            sleep(_POLL)

    def close(self, end: float) -> None:
        """As that of Unit; what was under way has ended too, if it can by then."""
        super().close(end)
        self._dispatcher.close(max(0.0, end - monotonic()))
