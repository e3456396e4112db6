"""`emoray doctor`: one function per check, from the configuration to a finding."""
