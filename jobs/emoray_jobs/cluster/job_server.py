"""The head of a Ray cluster: the address of its job server, the token that it requires, and its version of Ray."""

from __future__ import annotations

import ipaddress
import os
import socket
from pathlib import Path
from urllib.parse import urlsplit

from emoray.errors import ConfigError, ServiceError


def is_loopback(address: str) -> bool:
    """Whether an http address is of this machine."""
    host = urlsplit(address).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def is_this_machine(address: str, timeout_s: float) -> bool:
    """Whether all nodes of a cluster run on this machine, and so see its folders.

    A loopback address alone does not say so: it may be the end of a tunnel.
    """
    import httpx

    if not is_loopback(address):
        return False
    try:
        answer = httpx.get(
            f"{address}/nodes",
            params={"view": "hostNameList"},
            headers=auth_headers(),
            timeout=timeout_s,
            trust_env=False,
        )
        return set(answer.raise_for_status().json()["data"]["hostNameList"]) == {socket.gethostname()}
    except (httpx.HTTPError, ValueError, KeyError, TypeError):
        return False


def resolve_address(*candidates: str | None) -> str:
    """The job server's address: the first that is given, else `RAY_API_SERVER_ADDRESS`; `http://` may be left out.

    Raises:
        ConfigError: There is none, or it is of another kind (`ray://…`).
    """
    address = next(filter(None, [*candidates, os.environ.get("RAY_API_SERVER_ADDRESS")]), None)
    if address is None:
        raise ConfigError("no cluster named", where="submit.address", remedy="Add --address http://HEAD:8265")
    address = (address if "://" in address else f"http://{address}").rstrip("/")
    if urlsplit(address).scheme not in ("http", "https"):
        remedy = "Jobs go through the dashboard's port: --address http://HEAD:8265"
        raise ConfigError(f"{address} is not an http address", where="submit.address", remedy=remedy)
    return address


def auth_token() -> tuple[str | None, str]:
    """Ray's token, looked for where Ray itself looks, and the place that decided.

    Raises:
        ConfigError: `RAY_AUTH_TOKEN_PATH` names a file that cannot be read.
    """
    if os.environ.get("RAY_AUTH_MODE", "").lower() == "disabled":
        return None, "RAY_AUTH_MODE=disabled"
    if os.environ.get("RAY_AUTH_TOKEN"):
        return os.environ["RAY_AUTH_TOKEN"].strip(), "RAY_AUTH_TOKEN"
    named = os.environ.get("RAY_AUTH_TOKEN_PATH")
    path = Path(named) if named else Path.home() / ".ray" / "auth_token"
    try:
        return path.read_text(encoding="utf-8").strip() or None, str(path)
    except OSError as error:
        if isinstance(error, FileNotFoundError) and not named:
            return None, str(path)
        raise ConfigError(
            f"cannot read Ray's token: {error.strerror}",
            where=f"RAY_AUTH_TOKEN_PATH={named}" if named else str(path),
            remedy="Put the cluster's token there (on the head: ray get-auth-token)",
        ) from error


def auth_headers() -> dict[str, str]:
    """HTTP headers that carry the token, if there is one."""
    token, _ = auth_token()
    return {"Authorization": f"Bearer {token}"} if token else {}


def server_version(address: str, timeout_s: float) -> str:
    """Ray version of the job server at an address of `resolve_address`.

    Raises:
        ServiceError: It does not answer, refuses the token, or is no job server.
    """
    import httpx

    try:
        answer = httpx.get(
            f"{address}/api/version", headers=auth_headers(), timeout=timeout_s, trust_env=not is_loopback(address)
        )
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise ServiceError(
            f"no Ray job server answers ({error or type(error).__name__})",
            where=address,
            remedy="Check host and port (the dashboard's, 8265), and that it can be reached from here",
            kind="no_cluster",
        ) from error
    if answer.status_code in (401, 403):
        _, place = auth_token()
        remedy = (
            f"Let RAY_AUTH_TOKEN_PATH name a file with its token (looked in: {place}; on the head: ray get-auth-token)"
        )
        raise ServiceError("the cluster refuses this client's token", where=address, remedy=remedy, kind="unauthorized")
    try:
        return str(answer.raise_for_status().json()["ray_version"])
    except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
        raise ServiceError(
            f"something else than a Ray job server answers (HTTP {answer.status_code})",
            where=address,
            remedy="Give the dashboard's address, http://HEAD:8265",
            kind="no_cluster",
        ) from error
