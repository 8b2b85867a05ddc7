"""Layer 5: a preprocessed unit -> the declarations that some of its functions need. Pure text.

toplevel   text -> items: functions, variables, types, in order, with where they come from
names      what an item declares, and what it mentions
closure    the items that given functions need; what is declared only
render     those items as one C file that a person can read
"""
