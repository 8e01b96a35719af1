//! One module per behaviour under load, crash or fault.
