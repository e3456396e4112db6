"""promote, rollback, history: the gate between challenger and champion, the way back, and what was decided."""
