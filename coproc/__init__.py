"""A coprocessor for fully homomorphic encryption. This package decides; ``nurseries`` runs."""

from importlib.metadata import version
from typing import Final

__version__: Final = version("coproc")
