"""Blocks of addresses, and what one source is."""

from __future__ import annotations

import ipaddress
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from netd.admission import Admission
from netd.networks import (
    AccessList,
    SourcePrefix,
    most_specific,
    parse_network,
    source_prefix,
    unmapped,
)


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ("192.0.2.5/24", "'192.0.2.5/24' has host bits set (write 192.0.2.0/24, or 192.0.2.5)"),
        ("2001:db8::1/32",
         "'2001:db8::1/32' has host bits set (write 2001:db8::/32, or 2001:db8::1)"),
        ("example.org", "'example.org' is not an address or CIDR block"
         " (write it like 192.0.2.0/24 or ::1)"),
        ("192.0.2.0/33", "is not an address or CIDR block"),
        ("192.0.2.256", "is not an address or CIDR block"),
        ("192.0.2", "is not an address or CIDR block"),
        ("010.0.0.1", "is not an address or CIDR block"),
        (" ::1", "is not an address or CIDR block"),
        ("", "is not an address or CIDR block"),
        (5, "5 is not an address or CIDR block"),
        (True, "True is not an address or CIDR block"),
        (None, "None is not an address or CIDR block"),
        (b"\xc0\x00\x02\x00", "is not an address or CIDR block"),
        (["192.0.2.0", 24], "is not an address or CIDR block"),
        ("::ffff:192.0.2.0/120", "stands for peers that have IPv4 addresses (write 192.0.2.0/24)"),
        ("::ffff:0:0/96", "stands for peers that have IPv4 addresses (write 0.0.0.0/0)"),
        ("fe80::%eth0/64", "names an interface, which no rule heeds (omit %eth0)"),
    ],
)  # fmt: skip
def test_a_wrong_block_is_told_with_its_remedy(wrong: object, text: str) -> None:
    """A rule that could not do what it says is refused, and the text tells the right one."""
    with pytest.raises(ValueError, match=re.escape(text)):
        parse_network(wrong)
    with pytest.raises(ValidationError, match=re.escape(text)):
        Admission.model_validate({"only_from": [wrong]})


@pytest.mark.parametrize(
    ("text", "block"),
    [
        ("192.0.2.0/24", "192.0.2.0/24"), ("192.0.2.7", "192.0.2.7/32"), ("::1", "::1/128"),
        ("192.0.2.0/255.255.255.0", "192.0.2.0/24"), ("::/0", "::/0"),
        ("::ffc0:0:0/90", "::ffc0:0:0/90"),
    ],
)  # fmt: skip
def test_a_block_is_read(text: str, block: str) -> None:
    """An address alone is a block of one."""
    assert str(parse_network(text)) == block
    assert parse_network(parse_network(text)) == parse_network(text)


@given(st.one_of(st.text(), st.integers(), st.binary(), st.from_regex(r"[0-9a-f.:%/]{1,20}")))
def test_whatever_stands_for_a_block_is_one_or_a_value_error(text: object) -> None:
    """No value of a configuration makes the parser fail in another way."""
    try:
        block = parse_network(text)
    except ValueError as error:
        assert str(error).endswith(")")  # noqa: PT017 - or it is none
    else:
        assert parse_network(str(block)) == block


def test_a_scope_does_not_make_another_source() -> None:
    """The same host is seen by two interfaces."""
    name = source_prefix(unmapped("fe80::1%eth0"), SourcePrefix())
    assert name == source_prefix(unmapped("fe80::2"), SourcePrefix()) == "fe80::/64"


@given(st.ip_addresses(v=4), st.lists(st.integers(0, 32), max_size=6))
def test_the_most_specific_block_is_the_smallest_that_holds_the_address(
    address: ipaddress.IPv4Address, lengths: list[int]
) -> None:
    """Whatever else there is, of its own family or of the other one."""
    own = [ipaddress.ip_network((address, bits), strict=False) for bits in lengths]
    others = [parse_network("::/0"), ipaddress.ip_network((int(address) ^ 1, 32))]
    found = most_specific(address, [*others, *own])
    assert found == (max(own, key=lambda block: block.prefixlen) if own else None)


def test_the_access_list_shows_by_what_it_judges() -> None:
    """The blocks that decided, as text."""
    access = AccessList(
        [parse_network("192.0.2.0/24")], [parse_network("192.0.2.128/25")], SourcePrefix()
    )
    found = access.step("192.0.2.200")
    assert (found["verdict"], found["reason"]) == ("refuse", "address")
    assert found["detail"] == {"only_from": "192.0.2.0/24", "no_access": "192.0.2.128/25"}
    assert access.step("192.0.2.1")["detail"] == {"only_from": "192.0.2.0/24", "no_access": None}
    assert access.step("uid=0")["verdict"] == "pass"
    assert AccessList([], [], SourcePrefix()).step("192.0.2.1")["verdict"] == "off"
