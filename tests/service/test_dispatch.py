"""Dispatch: the routes of the doors are tried for their own paths, before the others."""

import asyncio
from typing import Any

import pytest
from starlette.routing import Match, NoMatchFound, Route

from weightwell_service import hub, s3
from weightwell_service.dispatch import Dispatch, Fixed
from weightwell_service.routes import router


def scope(path: str, method: str = "GET") -> dict[str, Any]:
    return {"type": "http", "method": method, "path": path, "root_path": ""}


@pytest.mark.parametrize("door", [hub, s3], ids=["hub", "s3"])
def test_a_door_owns_the_paths_of_all_its_routes(door: Any) -> None:
    assert all(door.owns(route.path) for route in door.ROUTES)


@pytest.mark.parametrize(
    "path", ["/", "/init", "/health/live", "/docs", "/s4/tiny", "/tiny/gpt2/blob/main/config.json"]
)
def test_other_paths_are_left_to_other_routes(path: str) -> None:
    for door in (hub, s3):
        assert Dispatch(door.owns, door.ROUTES).matches(scope(path)) == (Match.NONE, {})


def test_the_first_route_that_answers_the_method_is_called() -> None:
    called = []

    def route(name: str, methods: list[str]) -> Route:
        async def app(*_: Any) -> None:
            called.append(name)

        made = Route("/a/{rest:path}", lambda _: None, methods=methods)
        made.app = app
        return made

    dispatch = Dispatch(lambda path: path.startswith("/a"), [route("post", ["POST"]), route("get", ["GET"])])
    for method in ("GET", "POST"):
        match, child = dispatch.matches(scope("/a/b", method))
        assert match is Match.FULL
        assert child["path_params"] == {"rest": "b"}
        asyncio.run(dispatch.handle({**scope("/a/b", method), **child}, None, None))  # type: ignore[arg-type]
    assert called == ["get", "post"]
    assert dispatch.matches(scope("/a/b", "PUT"))[0] is Match.PARTIAL
    with pytest.raises(NoMatchFound):
        dispatch.url_path_for("b")


def test_a_fixed_path_gets_the_route_that_starlette_would_try_first() -> None:
    fixed = Fixed(router.routes)
    for route in router.routes:
        assert isinstance(route, Route)
        for method in route.methods or ():
            match, child = fixed.matches(scope(route.path, method))
            assert (match is Match.FULL) == ("{" not in route.path)
            if match is Match.FULL:
                first = next(each for each in router.routes if each.matches(scope(route.path, method))[0] is Match.FULL)
                assert child["route"] is first
                assert child["endpoint"] is route.endpoint
    for other in (
        scope("/init", "PUT"),
        scope("/init/"),
        scope("/guide/init.md"),
        scope("/init") | {"type": "lifespan"},
    ):
        assert fixed.matches(other) == (Match.NONE, {})
    assert fixed.matches(scope("/init") | {"root_path": "/mounted"}) == (Match.NONE, {})
    with pytest.raises(NoMatchFound):
        fixed.url_path_for("init")
