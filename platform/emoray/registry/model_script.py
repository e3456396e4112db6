"""Run by MLflow when a version is loaded (models from code: no part of a version is a pickle)."""

from mlflow.models import set_model

from emoray.registry.pyfunc import EmorayModel

set_model(EmorayModel())
