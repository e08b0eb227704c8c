//! Services that register their own address.
