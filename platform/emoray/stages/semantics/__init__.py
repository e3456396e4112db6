"""semantics: a description of what is said and how, from measured prosody or a language model."""
