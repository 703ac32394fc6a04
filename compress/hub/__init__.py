"""The Hugging Face hub: originals streamed from it, ready builds pulled and published.

Free of torch.
"""

from compress.hub.connection import require_online
from compress.hub.download import download, held_bytes, unheard
from compress.hub.meter import Meter
from compress.hub.repository import (
    HubFile,
    HubRepository,
    fetch_config,
    is_repository_name,
    list_repository,
    open_repository,
)
from compress.hub.shards import HubShards

__all__ = [
    "HubFile",
    "HubRepository",
    "HubShards",
    "Meter",
    "download",
    "fetch_config",
    "held_bytes",
    "is_repository_name",
    "list_repository",
    "open_repository",
    "require_online",
    "unheard",
]
