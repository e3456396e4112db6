"""The synthetic corpus: sentences, planted labels, and speech by espeak-ng."""
