"""What each op allocates besides its outputs, one file per family. Each file exports `RULES`, by op name or by
`name.overload`; `memgraph.gpu.workspace` finds the files by itself. Plain numbers, no torch."""
