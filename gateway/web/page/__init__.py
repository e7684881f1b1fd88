"""The Budget page: what operators look at, and where they set limits.

Read on in this order: overview and workspace_page (the addresses), views and charts (what is shown,
as plain values), templates (how), live and stream (what changes while somebody looks), sign_in.
"""
