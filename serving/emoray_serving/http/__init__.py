"""The HTTP side of the application: routes, requests, replies, errors and their schemas."""
