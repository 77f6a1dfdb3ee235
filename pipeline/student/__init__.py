"""Students: their shapes, and their first weights.

shapes.py        the shape a recipe asks for, completed from the teacher
scaling.py       shapes of about a given size
chain_shapes.py  shapes of the assistants between teacher and student
blocks.py        the teacher's blocks that each block of the student is made from
importance.py    the teacher's units that a narrower student keeps
initial.py       first weights, random or from the teacher
"""
