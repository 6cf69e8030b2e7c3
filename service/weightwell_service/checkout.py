"""Checkouts: a repository at a revision, as the doors of the Hub and of S3 serve it."""

from collections.abc import Callable, Iterable, Mapping
from typing import Self, TypeVar

from fastapi import Request

from weightwell_engine.virtual_file import VirtualFile
from weightwell_service.file_response import IMMUTABLE, REVALIDATE
from weightwell_service.repositories.repository import Draft, Repository
from weightwell_service.repositories.revision import Revision
from weightwell_service.repositories.twin import Twin
from weightwell_service.service import Service
from weightwell_service.small_file import etag_of

# Every client of S3, and some of the Hub's, expect a date. Weights have none: they are drawn when they are read. So all
# files have one date, which never changes; the entity tag says whether a file is the same.
DATE = "1980-01-01T00:00:00.000Z"

# Approximate bytes of a tensor in a manifest, for the queue in which a manifest is parsed.
_ENTRY = 100

# The most sizes of files that are kept: those of some large models, whose plans take seconds.
_SIZES = 10_000

T = TypeVar("T")


class Checkout:
    """A repository at a revision. ``cache_control``: how long a cache may keep its files without asking again.

    The methods that take a request wait for a plan, and look meanwhile whether the client has disconnected. That reads
    the body of the request: a caller that needs the body reads it before.
    """

    def __init__(self, service: Service, repository: Repository | Twin, revision: Revision, *, is_commit: bool):
        self.service = service
        self.repository = repository
        self.revision = revision
        self.commit = repository.commit(revision)
        # A commit never changes; a name of a revision does, if the operator changes the repository.
        self.cache_control = IMMUTABLE if is_commit else REVALIDATE

    @classmethod
    def of(cls, service: Service, repository: Repository | Twin, wanted: str) -> Self | None:
        """Return the checkout of the name of a revision, or of a commit; None if there is no such revision."""
        revision = repository.revision(wanted)
        if revision is None:
            return None
        return cls(service, repository, revision, is_commit=wanted == repository.commit(revision))

    @property
    def paths(self) -> list[str]:
        """The paths of all files, in order."""
        return self.repository.paths(self.revision)

    async def file(self, request: Request, path: str) -> VirtualFile | bytes | None:
        """Return a weight file, or the content of a small file; None if there is no such file."""
        content = await self.repository.content(path, self.revision)
        if content is not None:
            return content
        draft = await self.draft(path)
        return None if draft is None else await self._weights(request, path, draft)

    async def draft(self, path: str) -> Draft | None:
        """Return how a weight file is drawn; None if there is no such file."""
        return await self.repository.draft(path, self.revision)

    async def planned(self, request: Request, draft: Draft, plan: Callable[[], T]) -> T:
        """Return what a function returns that reads a draft. It runs in a thread, after others of the same length."""
        return await self.service.lanes.of(_ENTRY * draft.tensors).run(plan, request.is_disconnected)

    async def sizes(self, request: Request, paths: Iterable[str]) -> Mapping[str, tuple[int, str]]:
        """Return the size in bytes and the entity tag of each of some files that exist."""
        wanted = {path: self._key(path) for path in paths}
        known = self.service.sizes
        await self.repository.fetch([path for path, key in wanted.items() if key not in known], self.revision)
        found = {}
        for path, key in wanted.items():
            if (size := known.get(key)) is None:
                file = await self.file(request, path)
                if file is None:
                    continue
                size = (file.nbytes, file.etag) if isinstance(file, VirtualFile) else (len(file), etag_of(file))
                while len(known) >= _SIZES:
                    known.pop(next(iter(known)), None)
                known[key] = size
            found[path] = size
        return found

    def _key(self, path: str) -> bytes:
        """Return the name of a file of a commit, which is that of its plan."""
        return f"{self.repository.name}/{self.commit}/{path}".encode()

    async def _weights(self, request: Request, path: str, draft: Draft) -> VirtualFile:
        """Return a weight file. Its plan is kept, so that many ranges of it are planned once."""
        key = self._key(path)
        if (file := self.service.open_recent(key)) is not None:
            return file
        return await self.planned(request, draft, lambda: self.service.open_spec(key, draft.read))
