"""From a waveform and what is known of it to a score: a model version's folder, and the scorer that opens it."""
