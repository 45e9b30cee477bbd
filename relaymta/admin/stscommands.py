"""The operator's view of MTA-STS (RFC 8461): which policy is in force for a domain, now."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from relaymta.admin.control import Arguments, Command, CommandError, Rows
from relaymta.mail.address import AddressError, parse_domain
from relaymta.net.mtasts import Policies, StsPolicy


class StsCommands:
    """`policies` gives those in use, None where MTA-STS is not looked for."""

    def __init__(self, policies: Callable[[], Policies | None]) -> None:
        self._policies = policies

    def table(self) -> dict[str, Command]:
        """The commands by name."""
        return {"sts": self.show}

    async def show(self, arguments: Arguments) -> Rows:
        """What a delivery to the domain would obey; it is looked for as a delivery would."""
        policies = self._policies()
        if policies is None:
            raise CommandError("MTA-STS is not looked for: mta_sts.enabled is false")
        try:
            domain = parse_domain(str(arguments.get("domain") or ""))
        except AddressError as error:
            raise CommandError(f"that is no domain: {error}") from None
        return [_row(domain, await policies.policy(domain))]


def _row(domain: str, policy: StsPolicy | None) -> dict[str, Any]:
    if policy is None:
        return {"domain": domain, "mode": None}
    return {
        "domain": domain,
        "mode": policy.mode.value,
        "mx": list(policy.mx),
        "max_age": policy.max_age,
        "version": policy.id,
        "text": list(policy.text),
    }
