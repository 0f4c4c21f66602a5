"""The structs that cross the wire, one module a subject. A field is declared here once and nowhere else."""
