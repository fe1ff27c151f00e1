"""Figures, live pictures and tables for the chapters of this book, from results of `mdrlib`.

`style` has colours and themes; `plots` and `pictures` return matplotlib Figures; `slider`, `widgets` and
`live` are interactive; `tables` and `source` return Markdown. Arrays are NumPy arrays, lists or tensors on
the CPU.
"""
