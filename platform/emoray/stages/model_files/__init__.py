"""Files of models: found on disk or fetched from the hub once per node, at the revision that a fingerprint names."""
