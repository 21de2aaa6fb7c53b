"""Which licences, as sources state them, let anybody pass the pictures on.

What is not known to is refused.

Not legal advice: a gate against publishing by oversight. It reads names and the words in them,
never the licence itself.
"""

import re
from collections.abc import Collection, Mapping

# Reviewed one by one: each lets anyone share copies and adaptations, for any purpose, if its
# conditions (a credit, the same licence again) are kept; the card repeats the terms for that. SPDX
# identifiers in lower case, and the Hub's.
REDISTRIBUTABLE = frozenset(
    (
        "cc0-1.0 pddl pddl-1.0 unlicense 0bsd cc-by-1.0 cc-by-2.0 cc-by-2.5 cc-by-3.0 cc-by-4.0"
        " cc-by-sa-1.0 cc-by-sa-2.0 cc-by-sa-2.5 cc-by-sa-3.0 cc-by-sa-4.0 odc-by odc-by-1.0 odbl"
        " odbl-1.0 cdla-permissive-1.0 cdla-permissive-2.0 cdla-sharing-1.0 apache-2.0 mit isc"
        " bsd-2-clause bsd-3-clause mpl-2.0 lgpl-2.1 lgpl-3.0 gpl-2.0 gpl-3.0 agpl-3.0 gfdl-1.2"
        " gfdl-1.3 lal-1.3"
    ).split()
)
# Names in common use that say the same.
_ALSO_WRITTEN = {
    "cc0": "cc0-1.0",
    "apache-license-2.0": "apache-2.0",
    "apache-license-version-2.0": "apache-2.0",
    "mit-license": "mit",
    "the-mit-license": "mit",
}
# Addresses and long names, in the order in which they are tried on a name in lower case whose words
# hyphens join; Creative Commons' parts keep their order (by, nc, nd or sa).
_LONG = (
    (r"https?://(?:www\.)?creativecommons\.org/licenses/([a-z-]+)/(\d\.\d)\b.*", r"cc-\1-\2"),
    (r"https?://(?:www\.)?creativecommons\.org/publicdomain/zero/1\.0\b.*", "cc0-1.0"),
    (r"https?://(?:www\.)?opensource\.org/licenses?/([a-z0-9.-]+)/?", r"\1"),
    (r"https?://(?:www\.)?apache\.org/licenses/license-2\.0\b.*", "apache-2.0"),
    (r"https?://(?:www\.)?opendatacommons\.org/licenses/by\b.*", "odc-by"),
    (r"https?://(?:www\.)?opendatacommons\.org/licenses/(odbl|pddl)\b.*", r"\1"),
    (r"creative-commons-(?:zero|cc0)\b.*", "cc0-1.0"),
    (
        r"(?:creative-commons-)?attribution(-non-?commercial)?(-no-?deriv[a-z]*)?(-share-?alike)?"
        r"-(\d\.\d)(?:-international|-generic|-unported)?(?:-license)?(?:-\(?cc.*)?",
        lambda m: f"cc-by{'-nc' * bool(m[1])}{'-nd' * bool(m[2])}{'-sa' * bool(m[3])}-{m[4]}",
    ),
)
# What else a text says, by words of it, so that the person who asks learns why; a text without any
# of them is refused as well.
_REASONS = {
    "allows sharing for non-commercial purposes only, and whether yours is one you alone know": (
        "-nc-",
        "noncommercial",
        "non-commercial",
    ),
    "forbids sharing adaptations, which edited and generated images are": (
        "-nd-",
        "noderiv",
        "no-deriv",
    ),
    "limits who may use it": ("research", "academic", "educational", "personal", "internal"),
    "forbids passing it on": ("redistribut", "no-sharing"),
    "reserves all rights": ("reserved", "proprietary", "copyrighted"),
}


def refused(licenses: Mapping[str, int], allowed: Collection[str] = ()) -> dict[str, str]:
    """Why each of `licenses` (name -> number of pairs) must not be published; empty if all may be.

        CC-BY-4.0                    passes
        CC-BY-4.0 AND CC-BY-NC-4.0   an edit of two photographs: refused, for the second
        MIT OR own terms             passes: the publisher may choose

    Licences that allow non-commercial sharing (NC) are refused although publishing a data set may
    be that: only who publishes can know. So are those that forbid adaptations (ND): most pairs have
    a side that was made from the other. What is stated nowhere cannot be allowed either: nobody
    gave that permission.

    Args:
        allowed: Names that the publisher answers for: a whole text, or one part of it between AND
            and OR.
    """
    names = {canonical(name) for name in allowed} - {""}
    reasons = {name: _reason(name, names) for name in licenses}
    return {name: reason for name, reason in reasons.items() if reason}


def exceptions(licenses: Mapping[str, int], allowed: Collection[str]) -> dict[str, int]:
    """Those of `licenses` that only `allowed` lets pass, with their numbers of pairs."""
    passed = refused(licenses).keys() - refused(licenses, allowed).keys()
    return {name: number for name, number in licenses.items() if name in passed}


def _reason(text: str, allowed: Collection[str]) -> str:
    """Why a licence text is refused; "" if it is not.

    AND binds closer than OR, as in SPDX expressions; brackets are not read.
    """
    if not text.strip():
        return "is not stated"
    if canonical(text) in allowed or "(" in text:
        return _reason_of_part(text, allowed)
    choices = [
        [_reason_of_part(part, allowed) for part in re.split(r"\s+AND\s+", choice)]
        for choice in re.split(r"\s+OR\s+", text)
    ]
    reasons = [next(filter(None, choice), "") for choice in choices]
    return "" if "" in reasons else reasons[0]


def _reason_of_part(name: str, allowed: Collection[str]) -> str:
    known = canonical(name)
    if known in REDISTRIBUTABLE or known in allowed:
        return ""
    reasons = (
        reason for reason, words in _REASONS.items() if any(word in f"-{known}-" for word in words)
    )
    return next(reasons, "is not among the licences known to allow it (pipeline/cards/licenses.py)")


def canonical(name: str) -> str:
    """One spelling per licence: " CC BY 4.0 ", "CC-BY-4.0" and its address are one."""
    spelled = (
        re.sub(r"[\s_-]+", "-", name.strip().lower())
        .removesuffix("-only")
        .removesuffix("-or-later")
    )
    for pattern, name_of in _LONG:
        spelled = re.sub(rf"\A(?:{pattern})\Z", name_of, spelled)
    return _ALSO_WRITTEN.get(spelled, spelled)
