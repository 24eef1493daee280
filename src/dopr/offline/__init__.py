"""Sample complexity and rollout budgets: what training will cost before it is begun.

`bounds`, `trust_region` and `best_arm` hold the formulas by name, `bound_registry` lists them with
their source, mark and assumptions, `simulation` runs strategies on a policy that is only its
success rates, and `plan` makes a plan of it all. `replay` runs strategies on recorded `histories`.
Nothing is imported here: the command line's help is instant.
"""
