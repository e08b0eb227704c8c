//! Several agents, a real etcd, real packets.

mod matrix;
mod races;
mod restart;
mod routes;
mod secured;
mod store;
