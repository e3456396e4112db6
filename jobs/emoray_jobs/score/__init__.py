"""`emoray score`: recordings, folders and tables, by the classes that answer online."""
