"""The selective scan's arithmetic: one recurrence over an algebra, in real numbers and in integers."""
