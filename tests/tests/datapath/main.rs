//! One packet's life per test: verdict, rewritten bytes, and the whole delta
//! of the counters, for every kind of packet and both families.

mod deliver;
