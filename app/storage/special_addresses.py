"""Addresses that lead to no server on the Internet, or to one that only some machines reach.

The special-purpose registries of IANA as a whole, whatever they call reachable in them: no picture
and no receiver of messages is there. They are written out here, since the tables of Python's
`ipaddress` are those of its release.

https://www.iana.org/assignments/iana-ipv4-special-registry (RFC 6890)
https://www.iana.org/assignments/iana-ipv6-special-registry
"""

import ipaddress
from ipaddress import IPv4Address, IPv6Address, ip_network

_SPECIAL = tuple(
    ip_network(block)
    for block in (
        "0.0.0.0/8",  # this network, RFC 791
        "10.0.0.0/8",  # private, RFC 1918
        "100.64.0.0/10",  # between a carrier and its customers, RFC 6598
        "127.0.0.0/8",  # loopback, RFC 1122
        "168.63.129.16/32",  # not of IANA: what Azure tells its machines
        "169.254.0.0/16",  # link-local, and what clouds tell their machines, RFC 3927
        "172.16.0.0/12",  # private, RFC 1918
        "192.0.0.0/24",  # protocols of the IETF, and an old address of a cloud, RFC 6890
        "192.0.2.0/24",  # documentation, RFC 5737
        "192.31.196.0/24",  # AS112, RFC 7535
        "192.52.193.0/24",  # multicast tunnels, RFC 7450
        "192.88.99.0/24",  # relays of 6to4, RFC 7526
        "192.168.0.0/16",  # private, RFC 1918
        "192.175.48.0/24",  # AS112, RFC 7534
        "198.18.0.0/15",  # benchmarks, RFC 2544
        "198.51.100.0/24",  # documentation, RFC 5737
        "203.0.113.0/24",  # documentation, RFC 5737
        "224.0.0.0/4",  # multicast, RFC 5771
        "240.0.0.0/4",  # reserved, and broadcast, RFC 1112
        # All outside of 2000::/3 is special; these are within.
        "2001::/23",  # protocols of the IETF: Teredo, benchmarks, ORCHID, AMT, RFC 2928
        "2001:db8::/32",  # documentation, RFC 3849
        "2002::/16",  # 6to4, which holds an IPv4 address, RFC 3056
        "2620:4f:8000::/48",  # AS112, RFC 7534
        "3fff::/20",  # documentation, RFC 9637
    )
)
# All that is given to anybody (RFC 4291, 2.4). Outside of it are loopback, 100::/64 and 5f00::/16,
# fc00::/7, link- and site-local and multicast addresses, and the forms that hold an IPv4 address.
_UNICAST = IPv6Address("2000::"), IPv6Address("3fff:ffff:ffff:ffff:ffff:ffff:ffff:ffff")
_NAT64 = ip_network("64:ff9b::/96")  # the last 32 bits are an IPv4 address, RFC 6052


def is_public(text: str) -> bool:
    """Whether an address is one of the Internet's, so that it matters nothing who connects to it.

    Args:
        text: an IPv4 or IPv6 address; of one with a zone, the zone does not count.
    """
    address = ipaddress.ip_address(text.partition("%")[0])
    if isinstance(address, IPv6Address):
        inner = _translated(address)
        if inner is not None:
            address = inner
        elif not _UNICAST[0] <= address <= _UNICAST[1]:
            return False
    return not any(address in block for block in _SPECIAL)


def _translated(address: IPv6Address) -> IPv4Address | None:
    """The IPv4 address to which a machine of today translates an IPv6 address, if it does."""
    if address in _NAT64:
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped
