"""The Budget page: what operators look at, and where they set limits.

Read on in this order: routes (the addresses), views (what is shown, as plain values and words),
templates (how), live (what changes while somebody looks), sign_in and limits_form.
"""
