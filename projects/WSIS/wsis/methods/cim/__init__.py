"""CIM (Li and others, IJCAI 2023): complete instances, mined among segment proposals from tags.

"Spec 4" in a comment of this folder is section 4 of docs/methods/cim.md.
"""
