"""Any runs beside each other: what differs in them, what they came to, their curves."""
