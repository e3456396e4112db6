"""MLflow: runs, model versions, aliases, the promotion gate and the model card.

MLflow reads these switches while it is imported, so they are set before anything in this room imports it: no telemetry,
no progress bars, no links on standard output, no search for a git binary.
"""

import os

for _name, _value in {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "GIT_PYTHON_REFRESH": "quiet",
}.items():
    os.environ.setdefault(_name, _value)
