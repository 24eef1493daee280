"""Generated tables of what things cost: steps, choices, queues, replays, checks of answers."""

from typing import Any

from result_blocks import block, data, table

from dopr.strategies.registry import describe_strategies

CHECKED = {
    "math500_test": "MATH-500",
    "gsm8k_test": "GSM8K test",
    "amc23_test": "AMC23",
    "aime24_test": "AIME24",
    "olympiadbench_test": "OlympiadBench",
}
CHECKS = {
    "reference accepted": "gold_accepted",
    "other answer refused": "other_refused",
    "unmarked": "unmarked_accepted",
    "worked solution": "solution_accepted",
    "other's solution refused": "other_solution_refused",
    "other spelling": "respelling_accepted",
    "near miss refused": "near_miss_refused",
}
READ = ("embeddings of 128", "embeddings of 896", "embeddings of 3584", "no embeddings")


@block
def driver() -> str:
    """A step of plain GRPO beside one with the driver."""
    rows = [
        [
            f"{s['prompts_per_step']} x {s['rollouts_per_step'] // s['prompts_per_step']}, "
            f"{s['tokens_per_rollout']} tokens",
            "ours" if s["fast_decoding"] else "the library's",
            str(s["steps"]),
            f"{s['plain_ms']:,.0f}",
            f"{s['dopr_ms']:,.0f}",
            f"{s['ratio_median']:.3f} ({s['ratio_low']:.3f} to {s['ratio_high']:.3f})",
        ]
        for s in data("driver-overhead.json")["shapes"]
    ]
    heads = ("step", "decoding loop", "steps timed", "plain GRPO, ms", "with `dopr`, ms")
    return table([*heads, "ratio, median (95% interval)"], rows)


@block
def update() -> str:
    """A step with prompts shared in the update and without, over plain GRPO's."""

    def ratio(entry: dict[str, Any]) -> str:
        return f"{entry['of_plain']:.2f} ({entry['low']:.2f} to {entry['high']:.2f})"

    shapes = sorted(data("update-speed.json")["shapes"], key=lambda s: s["model"] == "tiny")
    rows = [
        [
            f"{s['model']}, {s['group']} x ({s['prompt_tokens']} + {s['tokens']}) tokens",
            f"{s['step']['plain']['ms']:,.0f}",
            ratio(s["step"]["rows"]),
            ratio(s["step"]["shared"]),
            f"{s['update']['shared']['of_plain']:.2f}",
        ]
        for s in shapes
    ]
    heads = ("one prompt a step, rollouts x (prompt + answer)", "plain GRPO's step, ms")
    return table([*heads, "`dopr` without shared prompts", "`dopr`", "its update alone"], rows)


@block
def where_a_step_goes() -> str:
    """Median milliseconds of the parts of a step."""
    parts = ("step", "generation", "choice_and_preparation", "forward_and_backward")
    columns = (*parts, "optimiser_and_callbacks")
    rows = [
        [
            f"{label}, 1 x {found['rollouts']}, {found['tokens']} tokens",
            *(f"{found[key][part]:,.0f}" for part in columns),
        ]
        for found in data("decoding-speed.json")["steps"]
        for label, key in (("plain GRPO", "plain_ms"), ("`dopr`", "dopr_ms"))
    ]
    return table(["", *(name.replace("_", " ") for name in columns)], rows)


@block
def decoding() -> str:
    """The decoding loops alone."""
    rows = [
        [
            f"{found['prompts']} x {found['completions_each']}, "
            + ("all of" if found["forced_to_full_length"] else "at most")
            + f" {found['tokens']} tokens",
            *(f"{found['loops'][name]['ms']:,.0f}" for name in ("library", "exact", "ours")),
            f"{found['loops']['ours']['of_library']:.2f}",
        ]
        for found in data("decoding-speed.json")["loops"]
    ]
    heads = ("completions", "the library's, ms", "every bit the same, ms", "ours, ms")
    return table([*heads, "ours / the library's"], rows)


@block
def choosing() -> str:
    """What a choice costs and takes with a million prompts."""
    found = data("ledger-speed.json")
    four = found["dopr_four_of_64_ms"]
    wide = ", ".join(f"{four[name]:.2f} ms" for name in READ[1:3])
    rows = [
        [
            "`dopr`: a whole step's choice, four of 64 candidates, and taking in what came; "
            "embeddings of 128 numbers (the tiny model)",
            f"{four[READ[0]]:.2f} ms",
            "1 ms",
        ],
        ["embeddings of 896 (Qwen2.5-0.5B), of 3,584 (Qwen2.5-7B)", wide, "1 ms"],
        [READ[3], f"{four[READ[3]]:.2f} ms", "1 ms"],
        [
            "its memory for a prompt that is read",
            f"{found['dopr_bytes_per_prompt_read'][READ[0]]} bytes",
            "256 bytes",
        ],
        [
            "a checkpoint of its state, the ledger and the stream",
            f"{found['dopr_checkpoint_bytes'][READ[0]] / 1e6:.0f} MB",
            "100 MB",
        ],
        ['`prior="pool"`, one of 64 candidates', f"{found['plain_one_of_64_ms']:.3f} ms", "0.1 ms"],
        ["one of all million", f"{found['plain_one_of_all_ms']:.1f} ms", "20 ms"],
        ["four of all million", f"{found['plain_four_of_all_ms']:.0f} ms", ""],
        ["the ledger's memory a prompt", f"{found['bytes_per_prompt']} bytes", "64 bytes"],
        ["writing back a group", f"{found['observe_group_us']:.0f} microseconds", ""],
    ]
    return table(["", "measured", "aim"], rows)


@block
def delay_replay() -> str:
    """Share of informative groups in a replay with rewards that come k steps late."""
    found = data("delay-replay.json")["informative_share"]
    names = ("dopr", "dopr-paper", "mopps", "greso", "uniform")
    rows = [[k, *(f"{by[name]['mean']:.2f}" for name in names)] for k, by in found.items()]
    return table(["k", *(f"`{name}`" for name in names)], rows)


@block
def chooser_load() -> str:
    """The load test of a chooser behind a queue."""
    found = data("chooser-load.json")
    flat, restart = found["flat_out"], found["restart"]

    def latency(entry: dict[str, Any]) -> str:
        values = (entry[key] for key in ("p50_ms", "p99_ms", "p99.9_ms", "max_ms"))
        return ", ".join(f"{value:.1f}" for value in values) + " ms"

    restarted, quick = restart["restarted"], restart["restarted_from_the_snapshot"]
    jobs = 32  # of a frame
    lost = restart["nothing_lost_or_doubled"] and restart["nothing_lost_or_doubled_again"]
    rate = f"{found['at_a_rate']['rate']:,}"
    rows = [
        ["choices a second, flat out, by the wall clock", f"{flat['choices_per_s']:,.0f}"],
        [
            "processor time a choice, all included",
            f"{flat['processor_us_per_choice']:.0f} microseconds: "
            f"{flat['choices_per_processor_s']:,.0f} a second",
        ],
        ["memory", f"{found['bytes_per_prompt']:.1f} bytes a prompt"],
        [
            f"latency of a frame at {rate} choices a second: median, 99%, 99.9%, longest",
            latency(found["at_a_rate"]),
        ],
        [
            "the same while a snapshot is written",
            latency(found["at_a_rate_with_a_snapshot_under_way"]),
        ],
        [
            f"back after a kill with {restart['killed_with_jobs_out']:,} jobs out, from "
            f"{restarted['replayed_frames'] * jobs:,} choices of the journal",
            f"{restarted['start_s']:.0f} s",
        ],
        [
            f"back from the snapshot and the {quick['replayed_frames'] * jobs:,} choices since",
            f"{quick['start_s']:.0f} s",
        ],
        ["rollouts lost or counted twice", "none" if lost else "some"],
    ]
    return table(["", ""], rows)


@block
def math_reward() -> str:
    """Checks of the mathematical reward on public benchmarks."""
    files = data("math-reward.json")["files"]

    def share(value: float | None) -> str:
        if value is None:
            return "-"
        return "100%" if value == 1 else f"{value:.1%}"

    rows = [
        [
            CHECKED[name],
            f"{found['rows']:,}",
            *(share(found[key]) for key in CHECKS.values()),
        ]
        for name, found in files.items()
    ]
    return table(["file", "rows", *CHECKS], rows)


@block
def recorded(file: str, *names: str) -> str:
    """A replay of a record: all strategies or the named ones, the most informative first."""
    found = data(file)["strategies"]
    pays = {row["name"]: row["pays"] for row in describe_strategies()}
    chosen = names or sorted(found, key=lambda name: -found[name]["informative_share"]["mean"])
    rows = []
    for name in chosen:
        one = found[name]
        seen = one["rollouts_to_see_learnable"]["mean"]
        rows.append(
            [
                f"`{name}`",
                {"pre": "before", "post": "after"}[pays[name]],
                "{mean:.3f} ({low:.3f} to {high:.3f})".format_map(one["informative_share"]),
                *(f"{one[key]['mean']:.3f}" for key in ("mean_p1p", "regret", "coverage")),
                "never" if seen is None else f"{seen:,.0f}",
            ]
        )
    heads = ("", "decides ... generating", "informative groups", "p(1-p)", "regret", "coverage")
    return table([*heads, "all learnable seen after"], rows)
