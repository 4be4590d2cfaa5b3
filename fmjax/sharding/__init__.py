"""The only room that knows devices: mesh, rules, placement."""
