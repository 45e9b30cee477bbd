"""What mail tests are made of: addresses as people may write them, fields, headers, MIME messages."""

from __future__ import annotations

import string

from hypothesis import strategies as st

ATEXT = string.ascii_letters + string.digits + "!#$%&'*+/=?^_`{|}~-"
LETTERS = "äöüßéñжλ中文字日本𝒳"

atoms = st.text(ATEXT, min_size=1, max_size=10)
wide_atoms = st.text(ATEXT + LETTERS, min_size=1, max_size=6)
dot_strings = st.lists(atoms, min_size=1, max_size=4).map(".".join)
wide_dot_strings = st.lists(wide_atoms, min_size=1, max_size=2).map(".".join)
quotable = st.text([chr(c) for c in range(32, 127)] + list("äλ中"), max_size=20)
local_parts = st.one_of(dot_strings, wide_dot_strings, quotable)  # as they mean

labels = st.from_regex(r"[a-z0-9]([a-z0-9\-]{0,8}[a-z0-9])?", fullmatch=True).filter(lambda x: x[2:4] != "--")
domains = st.lists(labels, min_size=1, max_size=4).map(".".join)
literals = st.one_of(
    st.ip_addresses(v=4).map(lambda ip: f"[{ip}]"),
    st.ip_addresses(v=6).map(lambda ip: f"[IPv6:{ip.compressed}]"),
)

names = st.from_regex(r"[A-Za-z][A-Za-z0-9\-]{0,12}", fullmatch=True).map(str.encode)
_values = st.lists(
    st.binary(max_size=30).map(lambda octets: octets.translate(None, b"\r\n\0")), min_size=1, max_size=3
)
raw_fields = st.builds(
    lambda name, gap, lines: name + gap + b":" + b"\r\n ".join(lines) + b"\r\n",
    names,
    st.sampled_from([b"", b"", b"", b" ", b"\t"]),
    _values,
)
headers = st.lists(raw_fields, max_size=8).map(lambda fields: b"".join(fields) + b"\r\n")
