"""How JSON is written where an answer is guided; nothing heavy is imported here."""

from __future__ import annotations

WHITESPACE = r"[\x20\x0A\x0D\x09]{1,96}"
"""Between the parts of JSON. It ends: small models go on with white space for as long as they may. 96 is deep
indentation."""
