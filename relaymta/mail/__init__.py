"""The words of mail: addresses, envelopes, replies, messages; pure values, no clock, no socket, no shelf."""
