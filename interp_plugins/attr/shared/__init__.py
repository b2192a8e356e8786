"""What the families of methods have in common: base classes, paths, quadrature, averages, starting at a layer."""
