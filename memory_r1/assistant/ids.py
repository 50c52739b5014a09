"""Public ids of memories: opaque strings that hold their scope, and that nobody can make up.

An id is the base64 of a code, the entry's number and the scope. The code is an HMAC under a random key that the scope's
log keeps, so an id works in its own store only, changing a byte invalidates it, and it reaches no other scope. Whoever
sees an id can decode the name of its scope.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets

_PREFIX = "mem_"
_CODE = 10  # bytes of the HMAC
_NUMBER = 6  # bytes of the entry's number


def new_key() -> str:
    """Return a random key for the ids of one scope, as hexadecimal digits."""
    return secrets.token_hex(16)


def make_id(scope: str, item: int, key: str) -> str:
    """Return the public id of entry `item` of `scope`, whose key is `key`."""
    body = item.to_bytes(_NUMBER, "big") + scope.encode()
    packed = base64.urlsafe_b64encode(_code(body, key) + body).decode()
    return _PREFIX + packed.rstrip("=")


def read_id(memory_id: object) -> tuple[str, int] | None:
    """Return the scope and entry that an id names, or None if it has another form. Check it with `is_genuine`."""
    if not isinstance(memory_id, str) or not memory_id.startswith(_PREFIX):
        return None
    packed = memory_id.removeprefix(_PREFIX)
    try:
        body = base64.b64decode(packed + "=" * (-len(packed) % 4), altchars=b"-_", validate=True)[_CODE:]
        scope = body[_NUMBER:].decode()
    except ValueError:
        return None
    return (scope, int.from_bytes(body[:_NUMBER], "big")) if scope.strip() else None


def is_genuine(memory_id: str, scope: str, item: int, key: str) -> bool:
    """Return whether `make_id` made this id for `scope` with `key`."""
    return bool(key) and hmac.compare_digest(memory_id.encode(), make_id(scope, item, key).encode())


def _code(body: bytes, key: str) -> bytes:
    return hmac.digest(bytes.fromhex(key), body, hashlib.sha256)[:_CODE]
