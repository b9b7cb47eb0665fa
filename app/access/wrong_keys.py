"""Addresses that have shown a wrong key, and how long their answers are kept back.

Only wrong keys are: who has the right one comes in at once, whoever guesses beside him, also from
the same address. So nobody can lock out another, and no address is ever barred.
"""

import ipaddress
from collections import OrderedDict
from typing import NamedTuple

FREE = 5  # wrong keys that are answered at once: people mistype
FORGET_S = 30.0  # after which one of them counts no more
FIRST_S = 0.25  # that the next waits, and twice as long each after it
MOST_S = 10.0
ADDRESSES = 10_000  # that are remembered


class _Guesses(NamedTuple):
    number: float
    moment: float  # of the last


class WrongKeys:
    """How often each address has shown a wrong key; moments are in seconds of any one clock."""

    def __init__(self) -> None:
        self._guesses: OrderedDict[str, _Guesses] = OrderedDict()

    def delay_s(self, address: str, moment: float) -> float:
        """Count a wrong key of an address; how long its answer is to be kept back."""
        network = _network(address)
        before = self._guesses.pop(network, _Guesses(0.0, moment))
        count = 1 + max(0.0, before.number - (moment - before.moment) / FORGET_S)
        self._guesses[network] = _Guesses(count, moment)
        if len(self._guesses) > ADDRESSES:
            self._guesses.popitem(last=False)
        if count <= FREE:
            return 0.0
        return float(min(MOST_S, FIRST_S * 2 ** min(count - FREE - 1, 32)))


def _network(address: str) -> str:
    """What one guesser has: an IPv4 address, or the smallest network that is given to anybody."""
    try:
        known = ipaddress.ip_address(address)
    except ValueError:
        return address
    if known.version == 4:
        return address
    return str(ipaddress.ip_network((int(known), 64), strict=False))
