"""Stopping guards: stop RL when metrics show that the policy gets worse; the best weights are kept."""

from __future__ import annotations

from collections.abc import Mapping

from trialign.config.rl import StoppingGuardsConfig


def stopping_reason(now: Mapping[str, float], start: Mapping[str, float], limits: StoppingGuardsConfig) -> str | None:
    """Return a message about the limit that is exceeded, or None.

    Args:
        now: the newest figures; any of `recall@50`, `entropy`, `kl` and `zero_variance`.
        start: the first figures.
        limits: the configured limits.
    """
    if "recall@50" in now and now["recall@50"] < (1.0 - limits.recall_drop) * start["recall@50"]:
        return (
            f"Recall@50 fell from {start['recall@50']:.4f} to {now['recall@50']:.4f} (rl.stopping_guards.recall_drop)"
        )
    if "entropy" in now and now["entropy"] < limits.entropy_share * start["entropy"]:
        return (
            f"entropy fell from {start['entropy']:.3f} to {now['entropy']:.3f} nats (rl.stopping_guards.entropy_share)"
        )
    if "kl" in now and now["kl"] > limits.kl:
        return f"{now['kl']:.3f} nats away from the reference (rl.stopping_guards.kl)"
    if "zero_variance" in now and now["zero_variance"] > limits.zero_variance:
        return f"in {now['zero_variance']:.1%} of the groups all rewards are equal (rl.stopping_guards.zero_variance)"
    return None
