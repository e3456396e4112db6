"""Ray: joining it or starting one here, talking to its job server, and what machines it has."""
