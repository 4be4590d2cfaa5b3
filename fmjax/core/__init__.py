"""The words everyone speaks: config, types, addresses, nets, errors."""
