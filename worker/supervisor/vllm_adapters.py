"""The adapters on a vLLM server. It loads each one from the sampler's cache before its first request, under the hash of
its files. The least recently used are unloaded."""

import asyncio
import json
import secrets
from collections import Counter, OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from weakref import WeakValueDictionary

import httpx
import msgspec
import structlog

from api.spec.techniques import TechniqueBase

log = structlog.get_logger(__name__)

ADMIN_S = 120.0
"""Seconds that the server may take to load an adapter."""
UNLOAD_S = 5.0
"""Seconds that the server may take to unload an adapter."""
LIST_S = 2.0
"""Seconds that the server may take to list its models and adapters."""
MAX_ADAPTERS = 64
"""Number of adapters that are kept on the server. Beyond it, the least recently used are unloaded."""
UNSUPPORTED = (
    *("use_dora", "rank_pattern", "alpha_pattern", "target_parameters", "modules_to_save", "trainable_token_indices"),
    *("lora_bias", "layer_replication", "megatron_config", "eva_config"),
)
"""Fields of adapter_config.json with which vLLM refuses an adapter, or computes other answers."""


class _Listed(msgspec.Struct):
    id: str


class _Models(msgspec.Struct):
    data: list[_Listed]


class NotLoaded(Exception):
    """The server could not load the adapter, or does not have it any longer."""


class VllmAdapters:
    """Loads and unloads adapters. Its methods run in the event loop of `client`."""

    def __init__(self, client: httpx.AsyncClient, url: str) -> None:
        self._client, self._url = client, url
        self._loaded: OrderedDict[str, int] = OrderedDict()
        """The adapters on the server, the least recently used first: {name: number of its loading}."""
        self._numbers, self._prefix = count(), secrets.token_hex(4)
        self._in_use: Counter[str] = Counter()
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        """A lock for each adapter that is being loaded or unloaded."""

    @contextmanager
    def in_use(self, folder: Path) -> Iterator[str]:
        """Yield the name of the adapter on the server. It is not unloaded within the context."""
        # Each process has names of its own, so that none unloads what another one uses.
        name = f"attune-{self._prefix}-{folder.name}"
        self._in_use[name] += 1
        try:
            yield name
        finally:
            self._in_use[name] -= 1

    async def load(self, name: str, folder: Path, *, lost: int | None = None) -> int:
        """Load the adapter unless the server has it, and return the number of this loading. Raises NotLoaded.

        `lost`: number of a loading after which the server had not the adapter.
        """
        number = self._loaded.get(name)
        if number is not None and number != lost:
            self._loaded.move_to_end(name)
            return number
        async with self._locks.setdefault(name, asyncio.Lock()):
            number = self._loaded.get(name)
            if number is None or number == lost:
                number = await self._load_anew(name, folder)
        await self._evict()
        return number

    async def _load_anew(self, name: str, folder: Path) -> int:
        self._loaded.pop(name, None)
        asked = {"lora_name": name, "lora_path": str(folder)}
        response = await self._client.post(f"{self._url}/load_lora_adapter", json=asked, timeout=ADMIN_S)
        # The server refuses a name that it has, such as that of a loading whose request was cancelled. A name stands
        # for the same files always.
        if not response.is_success and not await self._lists(name):
            raise NotLoaded(f"{name} was not loaded, with status {response.status_code}: {response.text[:500]}")
        self._loaded[name] = number = next(self._numbers)
        return number

    async def _lists(self, name: str) -> bool:
        response = await self._client.get(f"{self._url}/models", timeout=LIST_S)
        try:
            return name in {model.id for model in msgspec.json.decode(response.content, type=_Models).data}
        except (msgspec.DecodeError, RecursionError):
            return False

    async def _evict(self) -> None:
        """Unload the least recently used adapters beyond MAX_ADAPTERS. One that the server keeps is tried again later:
        it is no concern of the request at hand."""
        idle = [each for each in self._loaded if not self._in_use[each]]
        for oldest in idle[: max(0, len(self._loaded) - MAX_ADAPTERS)]:
            try:
                async with self._locks.setdefault(oldest, asyncio.Lock()):
                    if oldest in self._loaded and not self._in_use[oldest]:
                        await self._unload(oldest)
            except httpx.HTTPError as error:
                log.warning("vllm_adapter_kept", name=oldest, error=type(error).__name__)

    async def _unload(self, name: str) -> None:
        number, kept = self._loaded.pop(name), True
        try:
            asked = {"lora_name": name}
            response = await self._client.post(f"{self._url}/unload_lora_adapter", json=asked, timeout=UNLOAD_S)
            kept = response.is_server_error
            log.info("vllm_adapter_unloaded", name=name, status=response.status_code)
        finally:
            if kept:
                self._loaded[name] = number

    async def unload_all(self) -> None:
        try:
            for name in list(self._loaded):
                await self._unload(name)
        except httpx.HTTPError as error:
            log.warning("vllm_away", error=type(error).__name__)


def is_loadable(folder: Path, technique: TechniqueBase | None) -> bool:
    """Return whether vLLM computes the answers of this adapter: it is a LoRA adapter of weights in full precision, and
    without extensions of peft."""
    if technique is None or technique.quantizes:
        return False
    try:
        config = json.loads((folder / "adapter_config.json").read_bytes())
    except (FileNotFoundError, ValueError):
        return False
    extended = any(config.get(field) for field in UNSUPPORTED) or config.get("bias", "none") != "none"
    return config.get("peft_type") == "LORA" and not extended
