# SPDX-License-Identifier: Apache-2.0
"""Topics: four words, whatever the names are made of, and matched by the patterns that are made for them."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from xenops.bus.memory import matches
from xenops.events import Kind, pattern, topic

NAMES = st.text(st.characters(codec="ascii", categories=["L", "N"], include_characters=".-_"), min_size=1, max_size=12)


@given(NAMES, NAMES, st.sampled_from(Kind), NAMES)
def test_a_topic_is_matched_by_each_of_its_patterns(host: str, instance: str, kind: Kind, id: str) -> None:
    words = topic(host, instance, kind, id).split(".")
    assert len(words) == 4
    for h, i, k, n in itertools.product((host, "*"), (instance, "*"), (kind, None), (id, "*")):
        assert matches(pattern(h, i, k, n).split("."), words)
    other = next(k for k in Kind if k is not kind)
    assert not matches(pattern(kind=other).split("."), words)


@given(st.lists(st.sampled_from(["a", "b", "*", "#"]), max_size=5), st.lists(st.sampled_from(["a", "b"]), max_size=5))
def test_patterns_match_as_the_standard_says(words: list[str], topic_words: list[str]) -> None:
    def expected(p: tuple[str, ...], t: tuple[str, ...]) -> bool:
        table = {(len(p), len(t)): True}
        for n in range(len(p), -1, -1):
            for m in range(len(t), -1, -1):
                if (n, m) in table:
                    continue
                if n == len(p):
                    table[n, m] = False
                elif p[n] == "#":
                    table[n, m] = table[n + 1, m] or (m < len(t) and table[n, m + 1])
                else:
                    table[n, m] = m < len(t) and p[n] in ("*", t[m]) and table[n + 1, m + 1]
        return table[0, 0]

    assert matches(words, topic_words) == expected(tuple(words), tuple(topic_words))
