"""CIM (Li and others, IJCAI 2023): complete instances, mined among segment proposals from tags."""
