"""Which addresses are no places on the Internet."""

import ipaddress
import random

import pytest

from app.storage.special_addresses import is_public


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "10.1.2.3",
        "172.17.0.1",
        "192.168.0.1",
        "169.254.169.254",
        "168.63.129.16",
        "100.64.0.1",
        "100.100.100.200",
        "0.0.0.0",
        "192.0.0.8",
        "192.0.0.192",
        "192.0.2.1",
        "192.31.196.1",
        "192.52.193.1",
        "192.88.99.1",
        "192.175.48.1",
        "198.19.255.255",
        "198.51.100.1",
        "203.0.113.255",
        "224.0.0.1",
        "239.255.255.255",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "::127.0.0.1",
        "::8.8.8.8",
        "::ffff:127.0.0.1",
        "::ffff:192.0.0.192",
        "::ffff:0:127.0.0.1",
        "::ffff:0:8.8.8.8",
        "64:ff9b::7f00:1",
        "64:ff9b::c000:c0",
        "64:ff9b:1::1",
        "64:ff9b:1::808:808",
        "100::1",
        "100:0:0:1::1",
        "2001::1",
        "2001:2::1",
        "2001:10::1",
        "2001:1ff:ffff::1",
        "2001:db8::1",
        "2002:7f00:1::",
        "2002:808:808::",
        "2620:4f:8000::1",
        "3fff::1",
        "3fff:fff:ffff::1",
        "4000::1",
        "5f00::1",
        "fc00::1",
        "fd00:ec2::254",
        "fe80::1%lo",
        "fec0::1",
        "feff::1",
        "ff02::1",
    ],
)
def test_an_address_that_is_not_public_is_known_as_such(address):
    assert not is_public(address)


@pytest.mark.parametrize(
    "address",
    [
        "93.184.215.14",
        "8.8.8.8",
        "168.63.129.17",
        "192.0.1.1",
        "192.88.98.255",
        "::ffff:93.184.215.14",
        "64:ff9b::5db8:d70e",
        "2001:200::1",
        "2606:4700::1111",
        "2a00:1450::1",
        "3fff:1000::1",
    ],
)
def test_a_public_address_is_known_as_such(address):
    assert is_public(address)


def test_what_python_takes_for_special_is_not_public():
    """Whichever release of Python it is: its table may grow before ours."""
    generator = random.Random(0)
    drawn = [ipaddress.IPv4Address(generator.getrandbits(32)) for _ in range(5000)]
    special = [address for address in drawn if not address.is_global or address.is_multicast]

    assert special
    assert not [address for address in special if is_public(str(address))]
