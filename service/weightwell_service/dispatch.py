"""Dispatch: the routes of a door are tried only for paths that may be its own.

Starlette tries routes one after another. The service has some twenty, and those of the doors would come last.
"""

from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from starlette.routing import BaseRoute, Match, NoMatchFound
from starlette.types import Receive, Scope, Send

_ROUTE = "weightwell.route"


class Dispatch(BaseRoute):
    """Routes that are tried, in order, for the paths for which ``owns`` is true. It must be true for all of theirs."""

    def __init__(self, owns: Callable[[str], bool], routes: Sequence[BaseRoute]):
        self._owns = owns
        self._routes = routes

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Return the match of the first route that answers a request, or of the first that knows its path."""
        found: tuple[Match, Scope] = (Match.NONE, {})
        if scope["type"] != "http" or not self._owns(scope["path"]):
            return found
        for route in self._routes:
            match, child = route.matches(scope)
            if match is Match.FULL:
                return match, {**child, _ROUTE: route}
            if match is Match.PARTIAL and found[0] is Match.NONE:
                found = match, {**child, _ROUTE: route}
        return found

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the route that matched answer."""
        route: BaseRoute = scope[_ROUTE]
        await route.handle(scope, receive, send)

    def url_path_for(self, name: str, /, **path_params: Any) -> NoReturn:
        """Raise ``NoMatchFound``: no route of a door has a name."""
        raise NoMatchFound(name, path_params)
