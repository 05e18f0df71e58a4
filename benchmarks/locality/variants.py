"""What is compared: routers and measures, each as the settings that make it."""
from __future__ import annotations

import dataclasses

from benchmarks.cluster.measured import NUM_NODES


@dataclasses.dataclass(frozen=True)
class Variant:
    """`model`: settings that the loss depends on; `links`: how its tokens travel, which it does not."""
    name: str
    model: dict
    links: dict = dataclasses.field(default_factory=dict)
    # Settings of the model for a short run from its last checkpoint: where the training has got to.
    at_the_end: dict = dataclasses.field(default_factory=dict)
    trained_as: str = ""  # the variant whose weights it takes; empty: its own

    @property
    def chooses_exchange(self) -> bool:
        return self.links.get("parallel.exchange.type") == "auto"

    @property
    def weights(self) -> str:
        return self.trained_as or self.name


FLAT = {"parallel.exchange.type": "flat", "parallel.exchange.chunks": 1}
AUTO = {"parallel.exchange.type": "auto", "parallel.exchange.chunks": 0}
PLACED = {"parallel.place_sequences": True}
MOVED = {"parallel.place_experts_interval": 8}  # before the first step that counts
BY_DOMAIN = {"moe.num_domain_groups": NUM_NODES}

SWITCH = Variant("switch", {"moe.router.type": "switch"}, FLAT)
HASH = Variant("hash", {"moe.router.type": "hash", "moe.hash.table": "balanced", "moe.router.aux_loss_coeff": 0.0}, FLAT)
# The defaults of these routers with one expert, by name: losses are kept for the settings that made them.
SHARP = {"moe.locmoe.temperature": 0.3, "moe.locmoe.output_weight": "probability"}
PLUS_SHARP = {"moe.locmoe_plus.temperature": 0.3, "moe.locmoe_plus.output_weight": "probability"}
# The domains' shares of a batch change, and with them what their experts get: a capacity that follows.
FOLLOWING = {"moe.router.capacity_factor": 0.0, "moe.locmoe.capacity_policy": "target_drop",
             "moe.locmoe.target_drop_share": 0.01}
LOCMOE = Variant("locmoe", {"moe.router.type": "locmoe"} | SHARP | BY_DOMAIN | FOLLOWING, AUTO | PLACED)
# Over training an expert comes to take fewer of the tokens that name it.
LOCMOE_PLUS = Variant(
    "locmoe_plus",
    {"moe.router.type": "locmoe_plus", "moe.locmoe_plus.rho_end": 0.15, "moe.locmoe_plus.shift_begin": 0.1,
     "moe.locmoe_plus.shift_end": 0.5} | PLUS_SHARP | BY_DOMAIN,
    AUTO | PLACED, {"moe.locmoe_plus.shift_begin": 0.0, "moe.locmoe_plus.shift_end": 0.0})
# Without domains: what two-level routing costs or gains.
LOCMOE_ONE_LEVEL = Variant("locmoe, one level", {"moe.router.type": "locmoe"} | SHARP | FOLLOWING, FLAT)
# The paper's capacity.
LOCMOE_BOUND = Variant("locmoe, one level, capacity by the bound",
                       LOCMOE_ONE_LEVEL.model | {"moe.locmoe.capacity_policy": "bound"}, FLAT)

MAIN = (SWITCH, HASH, LOCMOE, LOCMOE_PLUS)
# As it is for the first tenth of a training: what a whole one takes is told by both ends.
LOCMOE_PLUS_AT_FIRST = dataclasses.replace(
    LOCMOE_PLUS, name="locmoe_plus, before it takes fewer", trained_as="locmoe_plus",
    at_the_end={"moe.locmoe_plus.shift_begin": 1.0, "moe.locmoe_plus.shift_end": 1.0})
# Its way from there to the end: linear from 0.1 to 0.5 of the training.
SHIFTED_SHARE = 0.7
# One measure at a time, added to Switch or taken from LocMoE.
ALONE = (
    dataclasses.replace(SWITCH, name="switch, sequences placed", links=FLAT | PLACED, trained_as="switch"),
    dataclasses.replace(SWITCH, name="switch, sequences and experts placed", links=FLAT | PLACED | MOVED,
                        trained_as="switch"),
    dataclasses.replace(SWITCH, name="switch, auto exchange", links=AUTO, trained_as="switch"),
    LOCMOE,
    dataclasses.replace(LOCMOE, name="locmoe, sequences as they come", links=AUTO, trained_as="locmoe"),
    dataclasses.replace(LOCMOE, name="locmoe, experts placed, too", links=AUTO | PLACED | MOVED, trained_as="locmoe"),
    dataclasses.replace(LOCMOE, name="locmoe, no overlap", links=AUTO | PLACED | {"parallel.exchange.chunks": 1},
                        trained_as="locmoe"),
    LOCMOE_ONE_LEVEL,
    LOCMOE_PLUS_AT_FIRST,
)

# How the pooled gate's values become probabilities and weights, and what balances them; one level, a shorter training.
_WEIGHT, _TEMPERATURE, _BIAS = "moe.locmoe.output_weight", "moe.locmoe.temperature", "moe.locmoe.bias_update_rate"
_NO_LOSS = {"moe.router.aux_loss_coeff": 0.0}


def _gate(name: str, settings: dict) -> Variant:
    return Variant(f"gate: {name}", {"moe.router.type": "locmoe"} | SHARP | settings)


GATES = (
    SWITCH, HASH,
    _gate("p at temperature 0.3 (the default)", {}),
    _gate("p at temperature 1 (the paper's)", {_TEMPERATURE: 1.0}),
    _gate("weight 1 at temperature 1", {_WEIGHT: "one", _TEMPERATURE: 1.0}),
    _gate("weight 1 with p's gradient at temperature 1", {_WEIGHT: "straight_through", _TEMPERATURE: 1.0}),
    _gate("p at temperature 0.3, loss-free bias", {_BIAS: 0.01} | _NO_LOSS),
    _gate("p at temperature 0.3, the paper's ReLU", {"moe.locmoe.relu": True}),
    _gate("p at temperature 0.3, the paper's mean", {"moe.locmoe.gate_scale": "mean"}),
)

# Ways to give an expert fewer tokens, at five points each: what each costs in loss. No domains, which are another
# measure.
SHARES_OF_TOP_1 = (1.1, 0.8, 0.6, 0.45, 0.35)


def _limited(name: str, router: dict) -> tuple[Variant, ...]:
    return tuple(Variant(f"{name}, {factor:g}", router | {"moe.router.capacity_factor": factor})
                 for factor in SHARES_OF_TOP_1)


FRONTIER = {
    "LocMoE+": tuple(
        dataclasses.replace(LOCMOE_PLUS, name=f"locmoe_plus, rho_end {rho:g}",
                            model=LOCMOE_PLUS.model | {"moe.num_domain_groups": 0, "moe.locmoe_plus.rho_end": rho})
        for rho in (1.0, 0.6, 0.3, 0.1, 0.01)),
    "expert choice": _limited("expert_choice", {"moe.router.type": "expert_choice", "moe.router.top_k": 1}),
    "Switch, lower capacity": (SWITCH, *_limited("switch", SWITCH.model)[1:]),
    "Switch, random drops": _limited("switch, random drops", SWITCH.model | {"moe.router.drop_policy": "random"}),
}
