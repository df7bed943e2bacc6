"""The channels' names, for code that must not wait for the ledger's imports."""

from typing import Literal, get_args

# In the order in which a release goes through them.
ChannelName = Literal["staging", "canary", "production"]
CHANNELS: tuple[ChannelName, ...] = get_args(ChannelName)
