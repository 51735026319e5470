"""`bench sweep`: variants of a cluster under one load after the other, and the pictures that people compare.

    sweep file -> Sweep (variants, cells) -> folder: a report for each cell -> Results -> pictures and a page

Each variant is a cluster that `trtdisagg up` brings up, each cell a run of `trtdisagg bench serve`: processes of their
own, that end with this one.
"""
