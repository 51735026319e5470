"""`trtdisagg advise`: whether disaggregation pays for a load, and with which ratio.

measure/   a cluster brought up for two minutes, and what its servers need for what      -> Profile
profile    that, as it is kept in a file
cost       what was measured -> the time of any step
simulate   a cluster, event by event                                                    (csrc/sim/)
search     every cluster that fits, aggregated ones too, and what becomes of the load on it
verdict    which is best, in a sentence, and why
file       its cluster file
"""
