"""From a recipe to a verified bundle. The pipeline is `pipeline.compile_recipe`; the command is `deploy-compile`."""

from deploy_runtime import __version__

__all__ = ["__version__"]
