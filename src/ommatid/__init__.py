"""Published vision and multimodal methods, each one trainable, gradable and re-testable by name."""

from typing import TYPE_CHECKING, Any

from ommatid import torchvision_guard

__version__ = "0.1.0"

torchvision_guard.install()

if TYPE_CHECKING:
    from ommatid.api import claim, compare, create, evaluate, export, load, predict, resume, train

__all__ = ["claim", "compare", "create", "evaluate", "export", "load", "predict", "resume", "train"]


def __getattr__(name: str) -> Any:
    # torch is imported with the first verb, not with the package.
    if name in __all__:
        from ommatid import api

        return getattr(api, name)
    raise AttributeError(f"module 'ommatid' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
