"""Sample complexity and rollout budgets: what training will cost before it is begun.

`bounds`, `trust_region` and `best_arm` hold the formulas by name, `registry` lists them with their
source, mark and assumptions, `simulate` runs strategies on a policy that is only its success rates,
and `costs` makes a plan of it all. Nothing is imported here: the command line's help is instant.
"""
