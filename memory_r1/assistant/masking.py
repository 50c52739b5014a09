"""Find secrets such as keys and passwords by the rules of detect-secrets, and mask them.

The library's rules read source code. Of its rules for keywords, those for configuration files fit a chat best
("password: ..."); its limits on entropy apply here to every long word, quoted or not. "My password is ..." in plain
words fits no rule.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from typing import Any

_WORD = re.compile(r"[A-Za-z0-9+/=_-]{16,}")
_KEY_BLOCK = re.compile(r"-*BEGIN [A-Z ]*PRIVATE KEY( BLOCK)?.*?(-----END [A-Z ]*-----|\Z)", re.DOTALL)
_NO_SECRETS = {"IPPublicDetector"}

Found = tuple[int, int, str]
"""Start and end of a secret in the text, and its kind."""


def mask_secrets(text: str) -> tuple[str, list[str]]:
    """Return the text with every secret replaced by `[masked: KIND]`, and the kinds found, in order."""
    parts, kinds, end = [], [], 0
    for start, stop, kind in sorted(_find(text), key=lambda found: (found[0], -found[1])):
        if stop <= end:
            continue
        if start >= end:
            parts += [text[end:start], f"[masked: {kind}]"]
            kinds.append(kind)
        end = stop
    return "".join([*parts, text[end:]]), kinds


def _find(text: str) -> Iterator[Found]:
    patterns, keywords, entropies = _rules()
    yield from ((match.start(), match.end(), "Private Key") for match in _KEY_BLOCK.finditer(text))
    for kind, pattern in patterns:
        yield from ((match.start(), match.end(), kind) for match in pattern.finditer(text))
    for pattern, group in keywords:
        for match in pattern.finditer(text):
            word = match[group].split()[0]
            # "I have a secret: she ..." is talk; so may be "the password: ...", but that is not worth the risk.
            if not (match[0].lower().startswith("secret") and word.isalpha()):
                start = match.start(group) + match[group].index(word)
                quoted = match[group - 1] in {"'", '"', "`"}
                yield start, match.end(group) if quoted else start + len(word), "Secret Keyword"
    for match in _WORD.finditer(text):
        for rule in entropies:
            if set(match[0]) <= set(rule.charset) and rule.calculate_shannon_entropy(match[0]) > rule.entropy_limit:
                yield match.start(), match.end(), rule.secret_type


@cache
def _rules() -> tuple[list[tuple[str, re.Pattern[str]]], list[tuple[re.Pattern[str], int]], list[Any]]:
    """Return the library's patterns by kind, its keyword patterns with the group of the value, its entropy rules."""
    from detect_secrets.core.plugins.util import get_mapping_from_secret_type_to_class
    from detect_secrets.plugins.base import RegexBasedDetector
    from detect_secrets.plugins.high_entropy_strings import HighEntropyStringsPlugin
    from detect_secrets.plugins.keyword import (
        CONFIG_DENYLIST_REGEX_TO_GROUP,
        QUOTES_REQUIRED_DENYLIST_REGEX_TO_GROUP,
    )

    kinds: list[Any] = [*get_mapping_from_secret_type_to_class().values()]
    kinds = [kind for kind in kinds if kind.__name__ not in _NO_SECRETS]
    regular = [kind for kind in kinds if issubclass(kind, RegexBasedDetector)]
    patterns = [(kind.secret_type, pattern) for kind in regular for pattern in kind.denylist]
    keywords = {**CONFIG_DENYLIST_REGEX_TO_GROUP, **QUOTES_REQUIRED_DENYLIST_REGEX_TO_GROUP}
    entropies = [kind() for kind in kinds if issubclass(kind, HighEntropyStringsPlugin)]
    # A hostile message could keep the library's patterns busy for minutes. So their repetitions are bounded, and the
    # worst of them, for calls that end in a semicolon, is left out.
    bounded = [
        (re.compile(rule.pattern.replace("*", "{0,100}"), rule.flags), group)
        for rule, group in keywords.items()
        if not rule.pattern.endswith(";")
    ]
    return patterns, bounded, entropies
