"""The version of the package: pyproject.toml, the documentation and saved results read it here."""

__all__ = ["__version__"]

__version__ = "0.1.0"
