"""How a bundle becomes a version: logged to its run as an MLflow model, then registered."""
