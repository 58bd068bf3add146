"""The executables: parameters, wires, one core call, main()."""
