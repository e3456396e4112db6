"""`emoray submit`: a verb as a job on a Ray cluster, and what travels with it."""
