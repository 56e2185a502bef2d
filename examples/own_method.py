"""A method of your own, compared with plain averaging and with training alone.

python examples/own_method.py
"""

import tempfile

import dimat
from dimat.exchange import Step, Talk
from dimat.merging import mix
from dimat.methods import METHODS, Method, RoundContext, RoundResult


class Half(Method):
    """Average with the neighbors, but only in every second round: about half of the bytes."""

    exchanges = "rounds"

    def merge(self, me: RoundContext) -> Talk[RoundResult]:
        """One agent's part: say what to send and whom to hear, and go on with what arrived."""
        if me.round % 2 == 0:
            return (yield from super().merge(me))  # says nothing, hears nobody
        sent = dict.fromkeys(me.topology.listeners(me.agent), me.state)
        inbox = yield Step(sent, me.neighbors)
        states = [me.state, *(inbox[j] for j in me.neighbors)]
        return RoundResult(mix(states, me.weights), disagreement=0.0)  # None: nobody was heard


METHODS.register("half", Half)

with tempfile.TemporaryDirectory() as folder:
    result = dimat.run(
        method="half",
        controls=("wa", "local"),
        init="shared",
        data={"split": "by-class"},
        agents=4,
        rounds=9,
        pretrain_epochs=1,
        threads=1,
        out=f"{folder}/run",
        progress=False,
    )
for own in (result.main, *result.controls):
    after = own.summary["merged_accuracy_mean"] or own.summary["trained_accuracy_mean"]
    print(f"{own.method}: {100 * after:.1f} %, {own.summary['sent_bytes'] / 1e6:.1f} MB sent")
