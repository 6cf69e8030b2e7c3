"""Dispatch: the right route without trying all.

Starlette tries routes one after another. The service has some twenty, which takes longer than a small answer. The
routes of a door are tried only for paths that may be its own, and those of fixed paths are looked up.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NoReturn

from starlette.routing import BaseRoute, Match, NoMatchFound, Route
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


class Fixed(BaseRoute):
    """The routes of a list whose paths have no parameters, by path and method.

    Other requests are left to the list itself: parameters, other methods, and applications that are mounted at a path.
    """

    def __init__(self, routes: Iterable[BaseRoute]):
        self._routes: dict[tuple[str, str], Route] = {}
        for route in routes:
            if isinstance(route, Route) and "{" not in route.path:
                for method in route.methods or ():
                    self._routes.setdefault((route.path, method), route)

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Return the match of the first route of the path and the method of a request."""
        if scope["type"] != "http" or scope.get("root_path"):
            return Match.NONE, {}
        route = self._routes.get((scope["path"], scope["method"]))
        if route is None:
            return Match.NONE, {}
        return Match.FULL, {"endpoint": route.endpoint, "path_params": {}, "route": route, _ROUTE: route}

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the route that matched answer."""
        route: Route = scope[_ROUTE]
        await route.app(scope, receive, send)

    def url_path_for(self, name: str, /, **path_params: Any) -> NoReturn:
        """Raise ``NoMatchFound``: the routes of the list have the names."""
        raise NoMatchFound(name, path_params)
