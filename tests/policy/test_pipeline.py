"""The comb of checks: order, first refusal, and waiting only where a check waits."""

from __future__ import annotations

from attrs import define, field
from twisted.internet.defer import Deferred, ensureDeferred
from twisted.trial.unittest import SynchronousTestCase

from relaymta.mail.address import Address
from relaymta.mail.reply import Reply
from relaymta.policy.pipeline import Pipeline
from relaymta.policy.verdict import Judgement, Transaction, Verdict

ADDRESS = Address("a", "example.org")


@define
class Check:
    """A check with a fixed judgement that writes down when it was asked."""

    name: str
    judgement: Judgement
    asked: list[str] = field(factory=list)

    def rcpt(self, transaction: Transaction, address: Address) -> Judgement:
        """Give the judgement."""
        self.asked.append(self.name)
        return self.judgement


def refusal(name: str) -> Verdict:
    """A verdict of the check `name`."""
    return Verdict(Reply(550, "5.7.1", "no"), name)


class PipelineTests(SynchronousTestCase):
    """What a stage answers."""

    def test_all_content_is_a_plain_none(self) -> None:
        """When no check has anything against it and none waits, the answer is None at once."""
        assert Pipeline([Check("a", None), Check("b", None)]).rcpt(Transaction("c"), ADDRESS) is None

    def test_the_first_refusal_ends_the_stage(self) -> None:
        """Checks behind a refusal are not asked."""
        asked: list[str] = []
        checks = [Check("a", None, asked), Check("b", refusal("b"), asked), Check("c", None, asked)]
        assert Pipeline(checks).rcpt(Transaction("c"), ADDRESS) == refusal("b")
        assert asked == ["a", "b"]

    def test_a_check_that_waits_holds_the_ones_behind_it(self) -> None:
        """The order of checks is kept also when one of them has to ask somebody."""
        asked: list[str] = []
        waiting: Deferred[Verdict | None] = Deferred()
        checks = [Check("a", waiting, asked), Check("b", refusal("b"), asked)]
        judgement = Pipeline(checks).rcpt(Transaction("c"), ADDRESS)
        result = ensureDeferred(judgement)  # type: ignore[arg-type]
        self.assertNoResult(result)
        assert asked == ["a"]
        waiting.callback(None)
        assert self.successResultOf(result) == refusal("b")

    def test_a_check_is_asked_only_at_its_stages(self) -> None:
        """A check without a method for a stage has no part in it."""
        assert Pipeline([Check("a", refusal("a"))]).mail(Transaction("c")) is None
