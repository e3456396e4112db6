"""The online application on Ray Serve: gateway, transcriber, describer and scorer."""
