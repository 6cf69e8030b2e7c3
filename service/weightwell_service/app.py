"""The application: settings in, FastAPI out. Nothing is read from the environment and nothing is started at import."""

import asyncio
import gc
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager

from fastapi import FastAPI
from fastapi_offline import FastAPIOffline

from weightwell_engine.engine import Engine
from weightwell_engine.generators.factory import find_device
from weightwell_service import __version__, openapi, problems
from weightwell_service.budget import MemoryBudget
from weightwell_service.file_response import DrawingResources
from weightwell_service.routes import methods, router
from weightwell_service.service import Service
from weightwell_service.settings import Settings


def create_app(settings: Settings, engine: Engine | None = None) -> FastAPI:
    """Build the service for a deployment, with its own engine or a given one.

    Raises ``DeviceUnavailable`` if the configured device is not there.
    """
    engine = engine or Engine(find_device(settings.device), threads=settings.threads)
    streamed = ThreadPoolExecutor(settings.threads, thread_name_prefix="draw")
    whole = ThreadPoolExecutor(settings.threads, thread_name_prefix="draw-whole")
    resources = DrawingResources(streamed, whole, MemoryBudget(settings.max_resident_bytes))

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        for generator in engine.generators():
            await asyncio.get_running_loop().run_in_executor(streamed, generator.warm_up)
        # What is there now stays. To look through all of it for garbage takes a tenth of a second, and all wait for it.
        gc.collect()
        gc.freeze()
        app.state.service.started = True
        yield
        app.state.service.started = False
        gc.unfreeze()
        app.state.service.shutdown()
        for pool in (streamed, whole):
            pool.shutdown(wait=False, cancel_futures=True)

    # The pages of /docs come with the service: where jobs run there is often no way to a CDN.
    app = FastAPIOffline(
        redoc_url=None,
        swagger_ui_parameters={"defaultModelsExpandDepth": -1},
        redirect_slashes=False,
        title="Weightwell",
        version=__version__,
        summary="Initialized weight tensors: the same spec is the same bytes, everywhere.",
        description=openapi.DESCRIPTION,
        lifespan=lifespan,
        license_info={"name": "Apache-2.0", "identifier": "Apache-2.0"},
    )
    app.state.service = Service(settings, engine, resources)
    app.state.methods = methods()
    app.router.routes[:0] = router.routes
    problems.install(app)
    app.openapi = openapi.document(app)  # type: ignore[method-assign]
    return app
