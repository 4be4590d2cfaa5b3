"""A config has a name of its own: the hash of its values, in manifests and in rows of results."""

import hashlib
import json
from typing import Any


def config_hash(config: Any) -> str:
    """16 hex digits of a config's values; equal for a ConfigDict and for what was saved of it as JSON."""
    plain = json.loads(config.to_json()) if hasattr(config, "to_json") else config
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:16]
