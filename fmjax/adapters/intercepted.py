"""A module whose calls go through an adapter."""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn


@dataclasses.dataclass(frozen=True)
class Intercepted:
    """A module with an interceptor around every call within it; otherwise as the module.

    Attributes:
      module: what is called; its fresh weights are made without the interceptor.
      around: (call, arguments, keywords, context) -> what the call gives; see flax.linen.intercept_methods.
    """

    module: nn.Module
    around: Callable

    def apply(self, *args: Any, **kwargs: Any) -> Any:
        """As the module's."""
        with nn.intercept_methods(self.around):
            return self.module.apply(*args, **kwargs)

    def clone(self, **changes: Any) -> "Intercepted":
        """The module with other fields, its calls still intercepted."""
        return dataclasses.replace(self, module=self.module.clone(**changes))

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "module":  # while it is copied, there is no module yet
            raise AttributeError(name)
        return getattr(self.module, name)
