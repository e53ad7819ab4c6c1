"""A listener at work: bound, watched by a serving loop, taken from, paused, drained, closed."""

from __future__ import annotations

import logging
import os
import socket
import socketserver
import threading
from abc import abstractmethod
from select import EPOLLIN
from time import thread_time
from typing import Any

from netd import listener
from netd.listener import SocketOptions
from netd.loop import SWEEP, Loop
from netd.throttle import Throttle

logger = logging.getLogger("netd")

# Requests taken in one turn; then the connections have theirs.
TAKEN_PER_TURN = 16
# Turns in which a draining listener empties its backlog; a flood may never let it end.
DRAIN_TURNS = 512
# A listener from which nothing can be taken is left alone for this long, in seconds. It stays
# readable meanwhile: without a pause the serving thread would spin.
PAUSE = 0.2
# Seconds of a processor that the rest of its turn may take then: half a hundredth of the time,
# however slow the machine is and however many clients come again at once.
REST = PAUSE / 200
_get_failed = Throttle()


class Intake(socketserver.ThreadingMixIn, socketserver.TCPServer):
    """The listener's half of a server; `netd.serving` has the other, what becomes of a request."""

    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = SocketOptions().backlog
    RequestHandlerClass: Any

    def __init__(
        self,
        server_address: Any,
        RequestHandlerClass: Any,  # noqa: N803
        bind_and_activate: bool,
        options: SocketOptions | None,
        bound: socket.socket | None,
    ) -> None:
        self.interest = 0
        """What the loop waits for, an epoll event mask; 0 while it does not."""
        self.socket_options = options or SocketOptions(
            backlog=max(1, self.request_queue_size), reuse_port=self.allow_reuse_port
        )
        self.request_queue_size = self.socket_options.backlog
        self.place: Any = None
        """Where it was asked to listen, and how: who is asked for the same can be its successor."""
        self._loop: Loop | None = None
        self._own_loop = False
        self._queues = False
        self._turn_ends: float | None = None
        self._file: tuple[str, int, int] | None = None
        self._shutdown = threading.Event()
        self._stopped = threading.Event()
        self._stopped.set()
        if bound is not None:
            self.address_family = bound.family
        elif isinstance(server_address, tuple) and ":" in server_address[0]:
            self.address_family = socket.AF_INET6
        super().__init__(server_address, RequestHandlerClass, bind_and_activate and bound is None)
        if bound is not None:
            self.socket.close()
            self.socket = bound
            listener.set_options(bound, self.socket_options)
            self.server_address = bound.getsockname()
            if bind_and_activate:
                self.server_activate()

    @property
    def name(self) -> str:
        """Where it listens, as an administrator writes it."""
        return str(listener.name_of(self.socket)) if self.fileno() >= 0 else "closed"

    def server_bind(self) -> None:
        """Binds with the options of the service; the address then is the real one."""
        listener.bind(self.socket, self.server_address, self.socket_options)
        self.server_address = self.socket.getsockname()
        if self.address_family == socket.AF_UNIX:
            path: str = self.socket.getsockname()
            status = os.stat(path)
            self._file = (path, status.st_dev, status.st_ino)

    @property
    def has_its_file(self) -> bool:
        """Whether the file of a UNIX socket is still there, and not somebody else's by now."""
        if self._file is None:
            return True
        path, device, inode = self._file
        try:
            status = os.lstat(path)
        except OSError:
            return False
        return (status.st_dev, status.st_ino) == (device, inode)

    # -- serving

    def attach(self, loop: Loop) -> None:
        """Has the listener and its connections served by a loop, from now on."""
        self._loop = loop
        self._queues = self.service.gate.queues  # now, under the rules that hold from now on
        self.socket.setblocking(False)
        loop.sweep_with(self._sweep)
        loop.watch(self, EPOLLIN)

    def serve_forever(self, poll_interval: float = SWEEP) -> None:
        """Serves until `shutdown`, on a loop of its own. `service_actions` is called at each
        round of it, every `poll_interval` seconds at least, if a subclass defines it."""
        loop, timeout = self._get_own_loop(), self.socket.gettimeout()
        self._stopped.clear()
        try:
            if not self._shutdown.is_set():
                self.attach(loop)
                ticks = type(self).service_actions is not socketserver.BaseServer.service_actions
                loop.run(self.service_actions if ticks else None, poll_interval)
        finally:
            self._detach()
            if self.fileno() >= 0:
                self.socket.settimeout(timeout)
            self._shutdown.clear()
            self._stopped.set()

    def handle_request(self) -> None:
        """Handles one request, waiting for it at most `timeout` seconds if that is set. If steps
        handle it, this goes on until its session has ended."""
        super().handle_request()
        if self._needs_loop():
            loop = self._get_own_loop()
            loop.sweep_with(self._sweep)
            loop.run(lambda: None if self._needs_loop() else loop.stop())

    def _handle_request_noblock(self) -> None:
        """What `handle_request` of socketserver does with the one request that has come."""
        try:
            request, client_address = self.get_request()
        except OSError:
            return  # that client is gone already
        self._take(request, client_address)

    def shutdown(self) -> None:
        """Has `serve_forever` return, at once, and waits until it has. Before it serves, this
        makes the next `serve_forever` return without serving."""
        self._shutdown.set()
        if not self._stopped.is_set() and self._loop is not None:
            self._loop.stop()
        self._stopped.wait()

    def drain(self) -> None:
        """Takes what has come in, then nothing more; from any thread. Sessions go on."""
        if self._loop is not None:
            self._loop.call_soon(self.take_in_the_last)

    def hand_over(self, successor: Intake) -> None:
        """Takes nothing in from now on, as another one has its socket too, and leaves the file to
        that; sessions go on. To be called on the thread of the loop, if it has one."""
        successor._file, self._file = self._file, None
        self._detach()
        self._close_listener()

    @property
    def is_idle(self) -> bool:
        """Whether there is nobody whom it serves, or sees off."""
        return not self.sessions and not self._needs_loop()

    def server_close(self) -> None:
        """Closes the listener. On a loop that others use too: to be called on its thread, or when
        that has ended."""
        self._detach()
        self._close_listener()

    def take_in_the_last(self) -> None:
        """Takes in what waits, then closes the listener; on the thread of the loop."""
        if self.fileno() >= 0:
            self.socket.setblocking(False)
            self._queues = False  # whoever waits for room hears that there will be none
            for _ in range(DRAIN_TURNS):
                if not self.take_in():
                    break
        self._detach()
        self._close_listener()

    def _detach(self) -> None:
        """Before it is closed: a socket that systemd holds too would stay in the epoll."""
        if self._loop is not None:
            self._loop.call_off(self._resume)
            if self.interest > 0:
                self._loop.watch(self, 0)

    def _pause(self) -> None:
        """Leaves the listener alone for a while, from the end of this turn, which is near."""
        if self._turn_ends is None:
            self._turn_ends = thread_time() + REST
        if self._loop is not None and self.interest > 0:
            self._loop.watch(self, 0)
            self._loop.call_later(PAUSE, self._resume)

    def _is_enough(self) -> bool:
        return self._turn_ends is not None and thread_time() > self._turn_ends

    def _resume(self) -> None:
        if self._loop is not None and self.interest == 0 and self.fileno() >= 0:
            self._loop.watch(self, EPOLLIN)

    def _waits_for_room(self) -> bool:
        """Whether the service is full; then the listener is left alone until it is not."""
        if self._loop is None or not self.service.gate.wait_for_room(self._has_room):
            return False
        if self.interest > 0:
            self._loop.watch(self, 0)
        return True

    def _has_room(self) -> None:
        """The gate's call, on the thread of the session that has ended."""
        if self._loop is not None:
            self._loop.call_soon(self._resume)

    def _get_own_loop(self) -> Loop:
        if self._loop is None:
            self._loop, self._own_loop = Loop(), True
        return self._loop

    def _close_listener(self) -> None:
        if self._file is not None and self.has_its_file:
            try:
                os.unlink(self._file[0])
            except OSError as error:
                logger.debug("%s: not removed: %s", self._file[0], error)
        self._file = None
        self.socket.close()

    # -- taking in

    def ready(self, _events: int) -> None:
        """The loop's call: the listener is readable."""
        self.take_in()

    def take_in(self) -> bool:
        """Takes in what has come, up to TAKEN_PER_TURN; whether there may be more."""
        taken, self._turn_ends = 0, None
        for _ in range(TAKEN_PER_TURN):
            if self._queues and self._waits_for_room():
                return False
            try:
                request, client_address = self.get_request()
            except BlockingIOError:
                return False
            except OSError as error:
                if self._sees_shortage(error):
                    return False
                continue  # that client is gone already
            except Exception:
                self.service.counters.add_error()
                if times := _get_failed.due():
                    logger.exception("%s: get_request failed (%d times)", self.service.name, times)
                continue
            taken += 1
            self._take(request, client_address)
            if self._turn_ends is not None and self._is_enough():
                return True
        if not taken:
            self._pause()
        return taken > 0

    # -- for the other half to fill in

    service: Any
    sessions: dict[Any, Any]

    @abstractmethod
    def _take(self, request: Any, client_address: Any) -> None:
        """Handles a request; raises nothing."""

    def _sees_shortage(self, _error: OSError) -> bool:
        """Whether it means that nothing can be taken for a while; then it has been seen to."""
        return False

    def _needs_loop(self) -> bool:
        """Whether a client is served by the loop, and not by a thread."""
        return False

    @abstractmethod
    def _sweep(self, now: float) -> bool:
        """Ends what is overdue; whether there is anything left to watch."""
