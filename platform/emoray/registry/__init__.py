"""MLflow: runs, model versions, aliases, the promotion gate and the model card.

MLflow reads these switches while it is imported, so they are set before anything in this room imports it: no telemetry,
no progress bars, no links on standard output, no search for a git binary. A server that does not answer costs less than
a minute (three tries of 12 s), not the four of MLflow's own settings; who sets the two variables decides.
"""

import os

for _name, _value in {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "GIT_PYTHON_REFRESH": "quiet",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "12",
}.items():
    os.environ.setdefault(_name, _value)
