"""What the platform knows: corpora, audio, stages, models, training, evaluation, scoring, registry. Imports no Ray."""
