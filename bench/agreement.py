"""Whether our pretraining losses are lightly's on the same features, and whose runs resume.

Losses are compared at the same weights, views and negatives. Then MoCo is stopped half-way, put
into a state dict, and goes on: how far is the encoder from that of a run that was not stopped?
lightly's memory bank is a buffer that its state dict leaves out; carried over by hand, it resumes.
"""

from bench.harness import NO_PEER, Options, Result, peers, run
from bench.tasks import ask_peer

SAME = 1e-5  # relative difference of losses


def measure(options: Options) -> Result:
    """Ask lightly, with our code on its path."""
    if not options.peers:
        return NO_PEER
    (figures,) = ask_peer(options.peers, "lightly_agreement", [None])
    off = [abs(ours - theirs) / abs(theirs) for ours, theirs in figures["losses"].values()]
    resumed = figures["resumed_off_by"]
    headline = (
        f"{sum(error <= SAME for error in off)} of {len(off)} losses are lightly's; a "
        f"resumed MoCo is off by {resumed['handful']:g} (ours), {resumed['lightly']:.2g} (lightly)"
    )
    return Result(figures, headline, max(off) <= SAME and resumed["handful"] == 0)


if __name__ == "__main__":
    run(measure, peers("lightly"))
