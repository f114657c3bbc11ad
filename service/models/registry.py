"""Registry: the models of one worker, loaded or not, and the change from one catalogue to the next.

All methods are called on the event loop, but for `prepare` and `discard`, which a thread calls.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from service.errors import Unavailable
from service.inference.loading import LoadedModel, StartError
from service.models.catalogue import Catalogue, Entry, Key
from service.models.commit import Commit
from service.models.loader import lower_priority

logger = logging.getLogger("vae-service")

RETRY_AFTER_S = 10
"""Seconds before a model of first use that could not be loaded is tried again."""


class Served(Protocol):
    """What requests are answered with; the API's ModelContext."""

    @property
    def sha256(self) -> str:
        """Hash of the checkpoint."""

    def close(self) -> None:
        """Free what it holds besides memory."""


Context = TypeVar("Context", bound=Served)


class Model(Generic[Context]):
    """An entry of the catalogue in this worker, and the requests that it answers."""

    __slots__ = (
        "context",
        "entry",
        "failed_until",
        "is_retired",
        "key",
        "last_used",
        "loading",
        "name",
        "places",
        "requests",
        "version",
    )

    def __init__(self, entry: Entry, context: Context | None = None) -> None:
        self.entry = entry
        self.name, self.version = self.key = entry.key
        self.context = context
        """None while it is not loaded."""
        self.requests = 0
        """Requests that were let in and not answered yet: so long it stays."""
        self.places = 0
        """Those of them that count towards the limits."""
        self.is_retired = False
        self.last_used = 0.0
        self.failed_until = 0.0
        self.loading: asyncio.Future[Context] | None = None

    def enter(self) -> None:
        """Count a request."""
        self.requests += 1

    def leave(self) -> None:
        """Count a request no longer; the last one of a retired model closes it."""
        self.requests -= 1
        if not self.requests:
            self.last_used = time.monotonic()
            if self.is_retired:
                self._close()

    def retire(self) -> None:
        """Let no further request in; the model closes once the last one is answered."""
        self.is_retired = True
        if not self.requests:
            self._close()

    def unload(self) -> None:
        """Free its memory; the next request loads it again."""
        self._close()

    def _close(self) -> None:
        if self.context is not None:
            self.context.close()
            self.context = None


class Registry(Generic[Context]):
    """Which model answers a request: one of the catalogue that was committed last."""

    def __init__(
        self,
        commit: Commit,
        catalogue: Catalogue,
        loaded: dict[Key, LoadedModel],
        create: Callable[[Entry, LoadedModel | None], Context],
        *,
        memory_limit: int | None = None,
    ) -> None:
        """Create the models of `catalogue`, which is committed; raises StartError.

        Args:
            commit: Number of the catalogue that all workers answer by.
            catalogue: The first one.
            loaded: Those of its models that are loaded already; they are taken out, so that each can be freed.
            create: Returns what answers requests; loads the model unless it is given. Called in threads too.
            memory_limit: Bytes of files that may be loaded at a time; None for any number.

        """
        self.commit = commit
        self._create = create
        self._memory_limit = memory_limit
        self.on_change: Callable[[], None] = lambda: None
        """Called when a model that requests may have looked up is loaded, unloaded or retired."""
        self._executor = ThreadPoolExecutor(1, "models", lower_priority)
        self._prepared: tuple[Catalogue, dict[Key, Model[Context]]] | None = None
        self.no_model: Model[Context] = Model(Entry("", "", Path()))
        """Stands for the model of routes that need none."""
        self.catalogue = catalogue
        self._models = {
            entry.key: Model(entry, None if entry.is_lazy else create(entry, loaded.pop(entry.key, None)))
            for entry in catalogue.entries
        }

    def __iter__(self) -> Iterator[Model[Context]]:
        """The models of the catalogue."""
        self._update()
        return iter(self._models.values())

    def __len__(self) -> int:
        return len(self._models)

    def find(self, name: str | None = None, version: str | None = None) -> Model[Context]:
        """Return the model that a request means; without arguments the default one. Raises NotFound."""
        self._update()
        return self._models[self.catalogue.find(name, version)]

    async def load(self, model: Model[Context]) -> Context:
        """Return the context of a model, which is loaded once for all that wait for it.

        Raises Unavailable where it does not fit into the memory now, or cannot be loaded.
        """
        if model.context is None:
            loading = model.loading or self._begin_loading(model)
            try:
                return await asyncio.shield(loading)
            except Exception as error:  # it is logged once, by _finish_loading
                raise Unavailable(f"The model {model.entry} cannot be loaded; the log says why.", "failure") from error
        return model.context

    def switch(self) -> None:
        """Answer by the catalogue that is committed, if it is not the one already."""
        if self._prepared is None or self._prepared[0].number != self.commit.generation.value:
            return
        before = self._models
        (self.catalogue, self._models), self._prepared = self._prepared, None
        kept = set(map(id, self._models.values()))
        for model in before.values():
            if id(model) not in kept:
                model.retire()
        self._make_room(0)
        self.on_change()
        logger.info("Answering by generation %d of the models.", self.catalogue.number)

    def prepare(self, catalogue: Catalogue) -> tuple[dict[Key, str], dict[Key, str]]:
        """Load what `catalogue` has and this worker has not; called in a thread.

        Returns the sentence of each model that cannot be loaded, and the hash of each that was. If all were, `switch`
        answers by them as soon as the catalogue is committed.
        """
        self.discard()
        before = dict(self._models)
        models: dict[Key, Model[Context]] = {}
        problems: dict[Key, str] = {}
        for entry in catalogue.entries:
            known = before.get(entry.key)
            if known and known.entry == entry:
                models[entry.key] = known
                continue
            model = models[entry.key] = Model(entry)
            if entry.is_lazy and known is None:
                continue
            try:
                model.context = self._create(entry, None)
            except StartError as error:
                problems[entry.key] = str(error)
            except Exception as error:
                logger.exception("The model %s cannot be computed.", entry)
                problems[entry.key] = f"It cannot be computed: {type(error).__name__}; the log has more."
        hashes = {key: model.context.sha256 for key, model in models.items() if model.context}
        self._prepared = catalogue, models
        if problems:
            self.discard()
        else:
            for key, model in models.items():  # those that were loaded to check them only
                known = before.get(key)
                if model is not known and model.entry.is_lazy and known and known.context is None:
                    model.unload()
        return problems, hashes

    def discard(self) -> None:
        """Forget what `prepare` has loaded for a catalogue that is not committed; called in a thread."""
        prepared, self._prepared = self._prepared, None
        if prepared is not None:
            kept = set(map(id, self._models.values()))
            for model in prepared[1].values():
                if id(model) not in kept:
                    model.unload()

    def close(self) -> None:
        """End the threads of all models, without waiting for what they compute."""
        self._executor.shutdown(wait=False, cancel_futures=True)
        self.discard()
        for model in self._models.values():
            model.unload()

    def _update(self) -> None:
        if self.commit.generation.value != self.catalogue.number:
            self.switch()

    def _begin_loading(self, model: Model[Context]) -> asyncio.Future[Context]:
        entry = model.entry
        if time.monotonic() < model.failed_until:
            raise Unavailable(f"The model {entry} could not be loaded; the log says why.", "failure")
        if not self._make_room(entry.size):
            raise Unavailable(
                f"The model {entry} does not fit into the memory while others are in use; try again in a moment.",
                "memory",
            )
        loop = asyncio.get_running_loop()
        model.loading = loop.run_in_executor(self._executor, self._create, entry, None)
        model.loading.add_done_callback(lambda done: self._finish_loading(model, done))
        return model.loading

    def _finish_loading(self, model: Model[Context], done: asyncio.Future[Context]) -> None:
        model.loading = None
        if done.cancelled():
            return
        if error := done.exception():
            model.failed_until = time.monotonic() + RETRY_AFTER_S
            logger.error("The model %s cannot be loaded: %s", model.entry, error)
            return
        model.context = done.result()
        model.last_used = time.monotonic()
        if model.is_retired and not model.requests:
            model.unload()
        self.on_change()

    def _make_room(self, size: int) -> bool:
        """Unload models of first use that are idle, the least recently used first, until `size` bytes fit."""
        if self._memory_limit is None:
            return True
        held = [model for model in self._models.values() if model.context is not None or model.loading is not None]
        used = sum(model.entry.size for model in held)
        idle = (m for m in held if m.entry.is_lazy and not m.requests and m.loading is None)
        for model in sorted(idle, key=lambda each: each.last_used):
            if used + size <= self._memory_limit:
                break
            logger.info("Unloading the model %s, which is idle, to make room.", model.entry)
            used -= model.entry.size
            model.unload()
            self.on_change()
        return used + size <= self._memory_limit
