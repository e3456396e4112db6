"""transcribe: what is said and when, from the corpus or from a recogniser."""
