"""Which servers a request goes to. Pure: a snapshot, an ask and a view in; a route out, or that there is no room now.

choose      both servers together, one alone, or none
policies    one of several, by a router's type
room        whether a generation server has room for one more, and whether a server can hold it at all
session     what makes requests one conversation
ask         the values that all of these look at
"""
