"""What all stages do at which a client shows who it is: they look at the keys in force, and let
nobody in who may not use the service."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Generator
from dataclasses import replace
from functools import partial

from netd import log
from netd.auth.keyring import Key, Keyring, User
from netd.auth.keys import Keys
from netd.auth.source import Source
from netd.errors import Unauthenticated
from netd.identity import NOBODY
from netd.prelude import PAUSE, Prelude


class Porter:
    """Knows the users of a service."""

    def __init__(self, service: str, source: Source, load: Callable[[Source], Keyring]) -> None:
        """Raises ConfigError when the keys cannot be had."""
        self._service = service
        self.keys = Keys(service, source, load)
        """The keys in force."""
        self._logger = logging.getLogger(f"netd.{service}")

    def keyring(self, prelude: Prelude) -> Generator[int, None, Keyring]:
        """The keys in force, for which a client waits while they are read anew."""
        while (keyring := self.keys.current()) is None:
            self.keys.call_after(partial(prelude.loop.call_soon, partial(_go_on, prelude)))
            yield PAUSE
        return keyring

    def let_in(self, prelude: Prelude, user: User, key: Key | None = None) -> None:
        """Takes note of a user who has shown to be that. Raises Unauthenticated, and tells the log
        what the user is not told."""
        try:
            if key is not None:
                key.check(time.time())
            user.check(self._service)
        except Unauthenticated as error:
            self._logger.info("%s: %s", log.output().address(prelude.peer), error)
            raise
        if prelude.identity is NOBODY:
            prelude.identity = user.identity  # for all its connections
        else:
            prelude.identity = replace(prelude.identity, user=user.name, rights=user.rights)


def _go_on(prelude: Prelude) -> None:
    """Goes on with a prelude that has paused, unless it was cut meanwhile."""
    if prelude.interest >= 0:
        prelude.proceed()
